"""The text of the demo index: short sentences about visible things, written by this project.

A visual token is matched to the states that words have in these sentences, so the corpus is broad rather than long: the
concepts of ``words/*.toml`` in the sentence patterns of ``words/patterns.toml``. Invariants: the same seed gives the same
sentences on every machine; no sentence comes twice; all are ASCII, one to a line; every concept is the subject of at
least ``len(corpus) // len(concepts())`` sentences. Concepts take turns, so that the first contexts of a frequent word,
which are the ones an index keeps, come from all categories.

``python -m lens.demo.corpus [--out FILE]`` writes the corpus, or prints it.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import re
import tempfile
import tomllib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

SENTENCES = 6600
"""How many sentences there are; chosen for the number of contexts that an index of SmolLM2 keeps of them."""

LONGEST = 16
"""Words in the longest sentence."""

_WORDS = Path(__file__).with_name("words")
_SLOT = re.compile(r"\{([^}]*)\}")
_VOWEL = re.compile(r"(?!uni|uku|use|ute|uti|eu|ewe|one\b|USB)([aeio]|u|hour|honest|heir|X-)", re.IGNORECASE)


@dataclass(frozen=True)
class Concept:
    """A word of the lists. ``number`` is "one" (countable), "mass" (rice) or "many" (jeans).

    Verbs and adjectives count as "one"; no pattern asks for their plural.
    """

    category: str
    word: str
    plural: str | None
    number: str


@dataclass(frozen=True)
class Category:
    """Concepts that fit the same sentences. ``phrases``: its lists of adjectives, places, doings, parts and so on."""

    name: str
    kind: str
    concepts: tuple[Concept, ...]
    phrases: dict[str, tuple[str, ...]]
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """All lists: ``pools`` maps a category or a kind to its concepts, ``lists`` a name to plain nouns or phrases."""

    categories: dict[str, Category]
    pools: dict[str, tuple[Concept, ...]]
    lists: dict[str, tuple[str, ...]]


def concepts() -> tuple[Concept, ...]:
    """Every concept, category by category."""
    return tuple(concept for category in grammar().categories.values() for concept in category.concepts)


def sentences(seed: int = 0) -> Iterator[str]:
    """The corpus, ``SENTENCES`` different sentences; a seed gives the same ones everywhere."""
    writer = _Writer(grammar(), random.Random(seed))
    order = list(concepts())
    seen: set[str] = set()
    while True:
        writer.rng.shuffle(order)
        for concept in order:
            if len(seen) == SENTENCES:
                return
            sentence = writer.fresh(concept, seen)
            seen.add(sentence)
            yield sentence


def write(path: str | Path, seed: int = 0) -> Path:
    """Write the corpus to ``path``, a sentence a line: wholly or not at all. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as stream:
            stream.writelines(f"{sentence}\n" for sentence in sentences(seed))
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


@functools.cache
def grammar() -> Grammar:
    """The word lists and patterns of ``words/``, read once."""
    rules = tomllib.loads((_WORDS / "patterns.toml").read_text(encoding="ascii"))
    categories: dict[str, Category] = {}
    pools: dict[str, tuple[Concept, ...]] = {}
    for file in sorted(_WORDS.glob("*.toml")):
        if file.name == "patterns.toml":
            continue
        for name, table in tomllib.loads(file.read_text(encoding="ascii")).items():
            phrases = {key: _split(text) for key, text in table.items()}
            entries = tuple(_concept(name, entry) for entry in phrases.pop("words"))
            (kind,) = phrases.pop("kind")
            sets = _split(rules["kinds"].get(kind, kind)) + phrases.pop("free", ())
            patterns = tuple(pattern for part in sets for pattern in rules["sets"][part])
            categories[name] = Category(name, kind, entries, phrases, patterns)
            pools[name] = entries
            pools[kind] = pools.get(kind, ()) + entries
    return Grammar(categories, pools, {key: _split(text) for key, text in rules["lists"].items()})


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in re.split(r"[,\n]", text)) if part)


def _concept(category: str, entry: str) -> Concept:
    """An entry of a list: ``cat``, ``mouse/mice``, ``rice~`` (uncountable), ``jeans=`` (plural only)."""
    if entry.endswith("~"):
        return Concept(category, entry[:-1], None, "mass")
    if entry.endswith("="):
        return Concept(category, entry[:-1], None, "many")
    word, _, plural = entry.partition("/")
    return Concept(category, word, plural or _pluralise(word), "one")


def _pluralise(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search(r"[^aeiou]y$", word) else f"{word}s"


def article(following: str) -> str:
    """Whether "a" or "an", by the sound with which the next word begins."""
    return "an" if _VOWEL.match(following) else "a"


class _Unfit(Exception):
    """A pattern that can't be filled for this concept."""


Card = TypeVar("Card")


class _Deck(Generic[Card]):
    """Cards drawn without replacement, reshuffled when none that is left fits: all come about equally often."""

    def __init__(self, cards: tuple[Card, ...], rng: random.Random) -> None:
        self.cards, self.rng = cards, rng
        self.left: list[Card] = []

    def draw(self, fits: Callable[[Card], bool] = lambda _card: True) -> Card:
        for _ in range(2):
            for place in range(len(self.left) - 1, -1, -1):
                if fits(self.left[place]):
                    return self.left.pop(place)
            self.left = list(self.cards)
            self.rng.shuffle(self.left)
        raise _Unfit


class _Writer:
    """Fills patterns. Concepts, phrases and patterns are each drawn from decks of their own."""

    def __init__(self, rules: Grammar, rng: random.Random) -> None:
        self.rules, self.rng = rules, rng
        self.nouns = {name: _Deck(pool, rng) for name, pool in rules.pools.items()}
        self.lists = {name: _Deck(texts, rng) for name, texts in rules.lists.items()}
        self.phrases = {
            (category.name, key): _Deck(texts, rng)
            for category in rules.categories.values()
            for key, texts in category.phrases.items()
        }
        self.patterns = {c.name: _Deck(c.patterns, rng) for c in rules.categories.values()}

    def fresh(self, concept: Concept, seen: Container[str]) -> str:
        """A sentence about ``concept`` that is not among those seen."""
        for _ in range(200):
            try:
                sentence = self.fill(self.patterns[concept.category].draw(), concept)
            except _Unfit:
                continue
            if sentence not in seen and _reads_well(sentence):
                return sentence
        raise RuntimeError(
            f"no new sentence about {concept.word!r}: give {concept.category!r} more patterns or phrases"
        )

    def fill(self, pattern: str, concept: Concept) -> str:
        """The pattern with all slots filled; a capital if it is a statement."""
        text = _SLOT.sub(lambda slot: self.slot(slot[1].split(), concept), pattern)
        return text[0].upper() + text[1:] if text.endswith((".", "?")) else text

    def slot(self, words: list[str], concept: Concept) -> str:
        """One slot: determiner, adjectives, noun; or a phrase, whose own slots are filled in turn."""
        determiner = words[0] if words[0] in ("a", "the", "plural", "some") else ""
        *adjectives, head = words[1:] if determiner else words
        if head in ("is", "was"):
            return {"is": "are", "was": "were"}[head] if concept.number == "many" else head
        noun = self.noun(head, concept, countable=determiner == "plural")
        described = [self.noun(adjective, concept).word for adjective in adjectives]
        if determiner in ("plural", "some"):
            return " ".join([*described, noun.plural or noun.word])
        text = " ".join([*described, self.expand(noun, concept)])
        if determiner == "a" and noun.number == "one":
            return f"{article(text)} {text}"
        return f"the {text}" if determiner == "the" else text

    def expand(self, noun: Concept, concept: Concept) -> str:
        return self.fill(noun.word, concept) if "{" in noun.word else noun.word

    def noun(self, head: str, concept: Concept, countable: bool = False) -> Concept:
        """What a slot's name stands for. Phrases and list entries count as countable nouns."""
        if head == "x":
            if countable and concept.plural is None:
                raise _Unfit
            return concept
        category, _, key = head.rpartition(".")
        source = self.phrases.get((category or concept.category, key)) or self.lists.get(key)
        if source:
            return _concept(concept.category, source.draw())
        pool = self.nouns[concept.category if head == "other" else head]
        return pool.draw(lambda card: card.word != concept.word and not (countable and card.plural is None))


def _reads_well(sentence: str) -> bool:
    """Not too long, and no longer word comes twice ("a glass of water in a glass")."""
    words = [word for word in re.findall(r"[a-z]+", sentence.lower()) if len(word) > 3]
    return len(sentence.split()) <= LONGEST and len(set(words)) == len(words)


def main(arguments: list[str] | None = None) -> None:
    """``python -m lens.demo.corpus``."""
    parser = argparse.ArgumentParser(prog="python -m lens.demo.corpus", description="The text of the demo index.")
    parser.add_argument("--out", metavar="FILE", help="write to FILE instead of standard output")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other sentences (default: 0)")
    options = parser.parse_args(arguments)
    if options.out:
        print(write(options.out, options.seed))
        return
    for sentence in sentences(options.seed):
        print(sentence)


if __name__ == "__main__":
    main()
