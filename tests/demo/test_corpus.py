"""The demo corpus: broad, repeatable, grammatical where a rule can tell."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lens.demo import corpus
from lens.home import project_root


@pytest.fixture(scope="module")
def text() -> list[str]:
    return list(corpus.sentences())


def word_contexts(sentences: list[str], cap: int = 50) -> int:
    """Contexts kept if every word were one token: distinct prefixes, at most ``cap`` a word."""
    prefixes: set[tuple[str, ...]] = set()
    kept: Counter[str] = Counter()
    for sentence in sentences:
        words = sentence.split()
        for end, word in enumerate(words, start=1):
            prefix = tuple(words[:end])
            if prefix not in prefixes and kept[word] < cap:
                kept[word] += 1
            prefixes.add(prefix)
    return kept.total()


def test_a_seed_gives_the_same_sentences_in_another_process(text: list[str]) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "lens.demo.corpus"]
    run = subprocess.run(command, cwd=project_root(), env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == text


def test_another_seed_gives_other_sentences(text: list[str]) -> None:
    other = list(corpus.sentences(1))
    assert len(other) == len(text)
    assert len(set(other) & set(text)) < len(text) / 4


def test_no_sentence_comes_twice(text: list[str]) -> None:
    assert len(text) == len(set(text)) == corpus.SENTENCES


def test_breadth(text: list[str]) -> None:
    concepts = corpus.concepts()
    assert len({concept.word for concept in concepts}) >= 2000
    assert len({concept.category for concept in concepts}) >= 25
    assert len({pattern for category in corpus.grammar().categories.values() for pattern in category.patterns}) >= 80
    assert 17_000 < word_contexts(text) < 24_000


def test_every_concept_comes_at_least_twice(text: list[str]) -> None:
    spaced = " | ".join(re.sub(r"[^a-z0-9' -]", " ", sentence.lower()) for sentence in text).replace(" ", "  ")
    spaced = f" {spaced} "

    def count(concept: corpus.Concept) -> int:
        forms = {form.lower().replace(" ", "  ") for form in (concept.word, concept.plural) if form}
        return sum(spaced.count(f" {form} ") for form in forms)

    counts = {(concept.category, concept.word): count(concept) for concept in corpus.concepts()}
    assert {key for key, times in counts.items() if times < 2} == set()
    assert sum(times >= 3 for times in counts.values()) > 0.75 * len(counts)


def test_no_category_lists_a_word_twice() -> None:
    times = Counter((concept.category, concept.word) for concept in corpus.concepts())
    assert [key for key, count in times.items() if count > 1] == []


def test_sentences_are_plain(text: list[str]) -> None:
    for sentence in text:
        assert sentence.isascii() and sentence.isprintable()
        assert re.search(r"[{}~=/_]|  | [,.?]|^ | $", sentence) is None, sentence
        assert 2 <= len(sentence.split()) <= 20, sentence
        assert sentence[-1] not in ".?" or sentence[0].isupper() or sentence[0].isdigit(), sentence


def test_articles_agree_with_what_follows(text: list[str]) -> None:
    sounds_like_a_vowel = re.compile(r"(?:^A|\ba) (?=[aeio]|u(?!ni|k|se|t[ei])|hour|X-)(?!one\b|ewe|eu)\w+")
    sounds_like_a_consonant = re.compile(
        r"\b[Aa]n (?![aeiouX]|hour|honest|heir)\w+|\b[Aa]n (uni|uku|use|ut[ei]|eu|one\b|ewe)"
    )
    doubled = re.compile(r"\b(a|an|the) (a|an|the|some)\b", re.IGNORECASE)
    for sentence in text:
        for rule in (sounds_like_a_vowel, sounds_like_a_consonant, doubled):
            assert not rule.search(sentence), sentence


@pytest.mark.parametrize(
    ("following", "article"),
    [("apple", "an"), ("cup", "a"), ("hourglass", "an"), ("horse", "a"), ("uniform", "a"), ("umbrella", "an"),
     ("USB stick", "a"), ("X-ray", "an"), ("one", "a"), ("onion", "an"), ("ewe", "a"), ("useful pen", "a")],
)  # fmt: skip
def test_article(following: str, article: str) -> None:
    assert corpus.article(following) == article


def test_uncountable_and_plural_words_take_no_article(text: list[str]) -> None:
    never = ("rice", "jeans", "scissors", "broccoli", "scaffolding", "leggings", "sunlight", "spaghetti", "overalls")
    numbers = {concept.word: concept.number for concept in corpus.concepts()}
    assert {numbers[word] for word in never} == {"mass", "many"}
    wrong = re.compile(rf"\b[Aa]n? ({'|'.join(never)})$")
    assert [sentence for sentence in text if wrong.search(sentence)] == []


def test_verbs_agree_with_their_subject(text: list[str]) -> None:
    many = {concept.word for concept in corpus.concepts() if concept.number == "many"}
    mass = {concept.word for concept in corpus.concepts() if concept.number == "mass"}
    for sentence in text:
        subject = re.match(r"(?:[Tt]he )?([\w' -]+?) (is|are) ", sentence)
        if subject and subject[1].lower() in many:
            assert subject[2] == "are", sentence
        if subject and subject[1].lower() in mass - many:
            assert subject[2] == "is", sentence


def test_every_slot_stands_for_something() -> None:
    """Each pattern and phrase of each category names only lists that exist: none fails when its turn comes."""
    rules = corpus.grammar()
    writer = corpus._Writer(rules, random.Random(3))
    for category in rules.categories.values():
        for template in (*category.patterns, *(text for texts in category.phrases.values() for text in texts)):
            for concept in category.concepts:
                try:
                    assert writer.fill(template, concept)
                except corpus._Unfit:
                    continue
                break
            else:
                pytest.fail(f"{template!r} fits no concept of {category.name}")


@pytest.mark.parametrize(
    ("entry", "pattern", "expected"),
    [
        ("onion", "{a x} and {the x}", "an onion and the onion"),
        ("onion", "{some x} or {plural x}", "onions or onions"),
        ("mouse/mice", "Look at {some x}.", "Look at mice."),
        ("rice~", "{a x} {was} {some x}.", "Rice was rice."),
        ("jeans=", "{the x} {was} {a x} or {some x}?", "The jeans were jeans or jeans?"),
    ],
)
def test_slots_follow_the_number_of_the_noun(entry: str, pattern: str, expected: str) -> None:
    writer = corpus._Writer(corpus.grammar(), random.Random(0))
    assert writer.fill(pattern, corpus._concept("furniture", entry)) == expected


def test_an_uncountable_noun_has_no_plural() -> None:
    writer = corpus._Writer(corpus.grammar(), random.Random(0))
    with pytest.raises(corpus._Unfit):
        writer.fill("two {plural x}", corpus._concept("furniture", "rice~"))


def test_entries_of_a_list() -> None:
    assert corpus._concept("c", "rice~") == corpus.Concept("c", "rice", None, "mass")
    assert corpus._concept("c", "jeans=") == corpus.Concept("c", "jeans", None, "many")
    assert corpus._concept("c", "mouse/mice").plural == "mice"
    plurals = [corpus._concept("c", word).plural for word in ("box", "berry", "toy", "glass", "peach", "cat")]
    assert plurals == ["boxes", "berries", "toys", "glasses", "peaches", "cats"]


def test_write_is_a_line_a_sentence(tmp_path: Path, text: list[str]) -> None:
    target = tmp_path / "deep" / "corpus.txt"
    assert corpus.write(target) == target
    assert target.read_bytes() == "".join(f"{sentence}\n" for sentence in text).encode("ascii")


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "corpus.txt"
    target.write_text("before")

    def cut(seed: int = 0):
        yield "a cat"
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus, "sentences", cut)
    with pytest.raises(KeyboardInterrupt):
        corpus.write(target)
    assert [file.name for file in tmp_path.iterdir()] == ["corpus.txt"]
    assert target.read_text() == "before"
