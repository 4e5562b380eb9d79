"""From token ids to characters: where in its sentence a token stands, and which whole word it belongs to.

Spans are half-open character ranges of the sentence as stored. A word is found *by position*, from the token's own span,
never by searching for its text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Scripts written without spaces (Thai, Lao, Burmese, Khmer, kana, Han): there a token is not grown into a word."""
INNER = "'’-"
"""Marks that join two letters into one word: don't, ice-cream."""


@dataclass(frozen=True)
class Tokens:
    """One sentence as the model reads it.

    Attributes:
        ids: token ids, special tokens that the tokenizer adds included.
        spans: per token, (start, end) in the sentence; (0, 0) for an added token.
        real: per token, whether it is text (not an added, special or padding token).
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    real: tuple[bool, ...]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that are no text: those the tokenizer adds, and those marked special in its vocabulary."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def token_text(tokenizer: Any, token_id: int) -> str:
    """A token as characters; one that holds only a part of a character as its bytes, ``<E4 B8>``.

    Two such tokens would otherwise both read U+FFFD. The bytes are found in the two ways of writing them into a vocabulary:
    the byte-level alphabet of GPT-2, and ``<0xE4>`` of SentencePiece's byte fallback.
    """
    text = tokenizer.decode([token_id])
    if "\ufffd" not in text:
        return text
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if found := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return f"<{found[1]}>"
    alphabet = _byte_alphabet()
    if all(char in alphabet for char in piece):
        return "<" + " ".join(f"{alphabet[char]:02X}" for char in piece) + ">"
    return text


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}


class Reader:
    """Tokenizes sentences for one tokenizer and names its tokens; never pads, so the padding side can't matter."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.special = special_ids(tokenizer)
        self._texts: dict[int, str] = {}

    def __call__(self, sentences: Sequence[str]) -> list[Tokens]:
        """Tokens of each sentence, cut after ``max_tokens``."""
        options = {"truncation": True, "max_length": self.max_tokens, "return_special_tokens_mask": True}
        fast = self.tokenizer.is_fast
        batch = self.tokenizer(list(sentences), padding=False, return_offsets_mapping=fast, verbose=False, **options)
        out = []
        for row, sentence in enumerate(sentences):
            ids, added = batch["input_ids"][row], batch["special_tokens_mask"][row]
            real = [not mark and i not in self.special for i, mark in zip(ids, added, strict=True)]
            spans = batch["offset_mapping"][row] if fast else self._align(sentence, ids, real)
            out.append(Tokens(tuple(ids), tuple((int(a), int(b)) for a, b in spans), tuple(real)))
        return out

    def text(self, token_id: int) -> str:
        """A token as the published code names it, ``decode([id])``; bytes that are no whole character show as U+FFFD."""
        if token_id not in self._texts:
            self._texts[token_id] = self.tokenizer.decode([token_id])
        return self._texts[token_id]

    def _align(self, sentence: str, ids: Sequence[int], real: Sequence[bool]) -> list[tuple[int, int]]:
        """Spans for a tokenizer that reports none: what each further token adds to the decoded text, found in order.

        A token that completes no character yet (bytes of one) spans the character that it belongs to.
        """
        spans, cursor, seen, shown = [], 0, [], ""
        for token_id, is_real in zip(ids, real, strict=True):
            if not is_real:
                spans.append((0, 0))
                continue
            seen.append(token_id)
            text = self.tokenizer.decode(seen).rstrip("\ufffd")
            piece = text[len(shown) :].strip() if text.startswith(shown) else ""
            if not piece:
                spans.append((cursor, min(cursor + 1, len(sentence))))
                shown = text if len(text) > len(shown) else shown
                continue
            found = sentence.find(piece, cursor)
            start = cursor if found < 0 else found
            end = min(start + len(piece), len(sentence))
            spans.append((start, end))
            cursor, shown = end, text
        return spans


def whole_word(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The span of the whole word that the characters ``start:end`` are part of.

    Outer blanks of the span are left out first. Letters, digits and marks inside words grow the span on both sides;
    punctuation and scripts without spaces stay as they are. A span of blanks alone is returned unchanged.
    """
    inner = sentence[start:end]
    if not inner.strip():
        return start, end
    start += len(inner) - len(inner.lstrip())
    end -= len(inner) - len(inner.rstrip())
    if _joins(sentence, start):
        while start > 0 and _joins(sentence, start - 1):
            start -= 1
    if _joins(sentence, end - 1):
        while end < len(sentence) and _joins(sentence, end):
            end += 1
    return start, end


def _joins(sentence: str, at: int) -> bool:
    """Whether the character at ``at`` is part of a word that goes on beyond a single token."""
    char = sentence[at]
    if UNSPACED.match(char):
        return False
    if char in INNER:
        return 0 < at < len(sentence) - 1 and sentence[at - 1].isalpha() and sentence[at + 1].isalpha()
    return char.isalnum() or char == "_" or "\u0300" <= char <= "\u036f"
