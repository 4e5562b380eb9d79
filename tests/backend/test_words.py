"""Tokens stand where their characters are, and words are found by position."""

from __future__ import annotations

import pytest
from transformers import ByT5Tokenizer

from lens.backend.words import Reader, token_text, whole_word
from tests.helpers import tiny_tokenizer


@pytest.mark.parametrize(
    ("sentence", "start", "end", "word"),
    [
        ("the other theme", 10, 13, "theme"),  # "the" stands earlier, twice: position decides
        ("unbelievable!", 2, 5, "unbelievable"),
        ("unbelievable!", 12, 13, "!"),
        ("a  cat", 1, 6, "cat"),  # outer blanks belong to no word
        ("I don't know", 5, 6, "don't"),
        ("an ice-cream cone", 7, 9, "ice-cream"),
        ("wait - no", 5, 6, "-"),
        ("'quoted'", 0, 1, "'"),
        ("Zürich's café", 9, 11, "café"),
        ("東京タワー", 1, 2, "京"),
        ("version2 x_1", 3, 5, "version2"),
        ("end.", 2, 4, "end."),  # a token may hold more than a word
        ("a   b", 1, 3, "  "),
        ("🍎🍎", 0, 1, "🍎"),
    ],
)
def test_whole_word_by_position(sentence: str, start: int, end: int, word: str) -> None:
    found = whole_word(sentence, start, end)
    assert sentence[slice(*found)] == word
    assert found[0] <= start + len(sentence[start:end]) - len(sentence[start:end].lstrip())
    assert whole_word(sentence, *found) == found, "growing a whole word changes nothing"


@pytest.mark.parametrize("sentence", ["A cat sat on the red mat.", "Zürich 東京 🍎 naïve", "  two  blanks"])
def test_spans_cover_the_sentence_in_order(sentence: str) -> None:
    tokens = Reader(tiny_tokenizer(), 512)([sentence])[0]
    assert all(tokens.real)
    ends = [end for _, end in tokens.spans]
    assert ends == sorted(ends)
    assert ends[-1] == len(sentence)
    covered = {i for start, end in tokens.spans for i in range(start, end)}
    assert {i for i, char in enumerate(sentence) if not char.isspace()} <= covered


def test_added_and_special_tokens_are_not_real() -> None:
    plain, bos = Reader(tiny_tokenizer(), 512), Reader(tiny_tokenizer(bos=True), 512)
    assert plain(["A cat"])[0].real == (True,) * len(plain(["A cat"])[0].ids)
    assert bos(["A cat"])[0].ids[0] == 1
    assert bos(["A cat"])[0].real == (False, *plain(["A cat"])[0].real)
    smuggled = plain(["A <image> cat</s>"])[0]
    assert [i for i, real in zip(smuggled.ids, smuggled.real, strict=True) if not real] == [3, 2]


def test_a_tokenizer_without_offsets_is_aligned() -> None:
    """ByT5 is pure Python and a token is a byte: the bytes of one character share its span."""
    sentence = "Aé🍎 cat"
    reader = Reader(ByT5Tokenizer(), 512)
    assert not reader.tokenizer.is_fast
    tokens = reader([sentence])[0]
    spans = [span for span, real in zip(tokens.spans, tokens.real, strict=True) if real]
    widths = [len(char.encode()) for char in sentence]
    wanted = [i for i, width in enumerate(widths) for _ in range(width)]
    assert [start for start, _ in spans if sentence[start] != " "] == [i for i in wanted if sentence[i] != " "]
    assert all(end - start == 1 for start, end in spans)


def test_long_sentences_are_cut_by_tokens() -> None:
    reader = Reader(tiny_tokenizer(bos=True), 8)
    assert len(reader(["A cat sat on the red mat. " * 50])[0].ids) == 8


@pytest.mark.parametrize("text", ["北", "é", "🍎", "\x7f"])
def test_tokens_of_a_part_of_a_character_are_named_by_their_bytes(text: str) -> None:
    """The bytes of all tokens together are those of the character, by Python's own UTF-8."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    named = [token_text(tokenizer, i) for i in ids]
    if len(ids) > 1:
        assert bytes.fromhex("".join(name.strip("<>") for name in named)) == text.encode()
    else:
        assert named == [text]
    assert [token_text(tokenizer, i) for i in tokenizer.encode(" cat")] == [
        tokenizer.decode([i]) for i in tokenizer.encode(" cat")
    ]


def test_a_byte_of_sentencepiece_is_named_by_itself() -> None:
    class Fallback:
        def decode(self, ids: list[int]) -> str:
            return "\ufffd"

        def convert_ids_to_tokens(self, token_id: int) -> str:
            return "<0xE4>"

    assert token_text(Fallback(), 3) == "<E4>"
