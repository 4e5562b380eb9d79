"""Token statistics against plain counting, the cut against its definition, and the cache."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lens.backend.corpus import Corpus, joined, sampled
from lens.backend.loading import LoadedModel
from lens.errors import Cancelled, CorpusUnreadable, TokenMissing
from lens.functiontokens.counts import TokenCounts, count_tokens
from lens.functiontokens.wordlists import CLASSES, is_closed_class
from tests.functiontokens.planted_graph import SENTENCES
from tests.helpers import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("counted"), bos=True)


def corpus(sentences: list[str] = SENTENCES) -> Corpus:
    return Corpus("patterns", lambda: sentences)


def made(counts: list[int]) -> TokenCounts:
    """Statistics of tokens 0, 1, 2 ... with these counts."""
    array = np.array(counts)
    texts = tuple(map(str, range(len(counts))))
    return TokenCounts("made", "", "", 1, int(array.sum()), np.arange(len(counts)), array, array, texts)


def test_counts_are_those_of_plain_counting(model: LoadedModel):
    found = count_tokens(corpus(), model)
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in SENTENCES]
    plain, holders = Counter(i for row in ids for i in row), Counter(i for row in ids for i in set(row))
    assert dict(zip(found.ids.tolist(), found.counts.tolist(), strict=True)) == plain
    assert dict(zip(found.ids.tolist(), found.document_counts.tolist(), strict=True)) == holders
    assert (found.documents, found.total) == (len(SENTENCES), sum(map(len, ids)))
    assert found.texts == tuple(model.tokenizer.decode([i]) for i in found.ids)
    order = [(-count, i) for i, count in zip(found.ids, found.counts, strict=True)]
    assert order == sorted(order)
    assert found.share().sum() == pytest.approx(1) and found.cumulative()[-1] == pytest.approx(1)
    assert (found.document_share() <= 1).all()


def test_tokens_that_are_no_text_are_not_counted(model: LoadedModel):
    found = count_tokens(corpus(["<image> A cat </s>", "<s>"]), model)
    assert not set(found.ids.tolist()) & set(model.tokenizer.all_special_ids)
    assert found.total == len(model.tokenizer(" A cat ", add_special_tokens=False)["input_ids"])
    with pytest.raises(CorpusUnreadable, match="not one token"):
        count_tokens(corpus(["<s>", "</s>"]), model)


def test_an_empty_corpus_is_refused(model: LoadedModel):
    with pytest.raises(CorpusUnreadable, match="holds no text at all"):
        count_tokens(corpus(["", "  "]), model)


@pytest.mark.parametrize("cut", [0.3, 0.4, 0.5, 0.05, 1.0])
@pytest.mark.parametrize("counts", [[5, 3, 1, 1], [1] * 10, [7], [40, 10, 10, 10, 10, 10, 10], [4, 3, 3]])
def test_the_cut_is_the_least_k_that_reaches_it(counts: list[int], cut: float):
    k = made(counts).function_count(cut)
    reached = [sum(counts[:n]) / sum(counts) >= cut - 1e-9 for n in range(len(counts) + 1)]
    assert reached[k] and not any(reached[:k])
    assert len(made(counts).function_ids(cut)) == k


@pytest.mark.parametrize("cut", [0.0, -0.1, 1.1])
def test_a_cut_that_is_no_share_is_refused(cut: float):
    with pytest.raises(ValueError, match="cut"):
        made([2, 1]).function_count(cut)


def test_a_token_that_never_occurs_is_refused(model: LoadedModel):
    found = count_tokens(corpus(), model)
    absent = next(i for i in range(400) if i not in set(found.ids.tolist()))
    with pytest.raises(TokenMissing, match="never occurs in the corpus patterns"):
        found.rank(absent)
    assert found.ids[found.rank(int(found.ids[7]))] == found.ids[7]


def test_a_corpus_is_counted_once(model: LoadedModel, tmp_path: Path):
    first = count_tokens(corpus(), model)
    unread: Any = SimpleNamespace(get_vocab=dict)  # as a tokenizer that can't be called
    again = count_tokens(corpus(), replace(model, tokenizer=unread))
    assert again.texts == first.texts and (again.counts == first.counts).all() and again.total == first.total
    (kept,) = (tmp_path / "home" / "counts").iterdir()
    kept.write_bytes(b"half a file")
    assert count_tokens(corpus(), model).total == first.total, "a damaged file is made anew"
    with pytest.raises(TypeError):
        count_tokens(corpus([*SENTENCES, "Another."]), replace(model, tokenizer=unread))  # other text, other key
    with pytest.raises(TypeError):
        count_tokens(corpus(), replace(model, tokenizer=unread, tokenizer_hash="0" * 64))


def test_counting_reports_and_can_be_cancelled(model: LoadedModel):
    def report(done: float, total: float, message: str) -> None:
        assert "62 sentences" in message and 0 <= done <= total
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        count_tokens(corpus(), model, report=report)


def test_zipfs_law_gives_its_exponent():
    counts = (1e6 / np.arange(1, 500) ** 1.1).round().astype(int).tolist()
    assert made(counts).zipf() == pytest.approx(-1.1, abs=0.01)
    assert np.isnan(made([4]).zipf())


@pytest.mark.parametrize(
    "token", [" the", "The", " of", ".", ",", " (", "\n", "\n\n", "'s", "n't", " WAS", " —", "’re", " $"]
)
def test_closed_class_tokens(token: str):
    assert is_closed_class(token)


@pytest.mark.parametrize(
    "token", [" cat", "in", "the", "1", " 2", "", " ", "\ufffd", "ing", " running", " Russia", "don"]
)
def test_other_tokens_are_content(token: str):
    assert not is_closed_class(token)


def test_every_listed_word_is_one_lower_case_word_of_one_class():
    words = [word for text in CLASSES.values() for word in text.split()]
    assert len(words) == len(set(words)) and all(re.fullmatch("[a-z]+", word) for word in words)


def test_a_sample_is_the_same_wherever_its_sentences_stand():
    numbered = [f"Sentence {n}." for n in range(2000)]
    half = list(sampled(corpus(numbered), 0.5))
    assert 900 < len(half) < 1100 and half == [s for s in numbered if s in set(half)]
    assert set(sampled(corpus(numbered[::-1]), 0.5)) == set(half)
    assert set(sampled(corpus(numbered), 0.1)) < set(half)
    assert list(sampled(corpus(numbered), 1)) == numbered
    assert "0.5 of its sentences" in sampled(corpus(numbered), 0.5).name


def test_sentences_are_joined_in_order():
    numbered = [f"Sentence {n}." for n in range(7)] + [" "]
    found = list(joined(corpus(numbered), 3))
    assert found == ["Sentence 0. Sentence 1. Sentence 2.", "Sentence 3. Sentence 4. Sentence 5.", "Sentence 6."]
