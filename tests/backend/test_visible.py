"""No two tokens look alike."""

from __future__ import annotations

import pytest

from lens.backend.visible import visible
from lens.backend.words import token_text
from tests.helpers import tiny_tokenizer


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("The", "The"),
        (" The", "␣The"),
        ("  The ", "␣␣The␣"),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        ("\n", "↵"),
        (" \n\n", "␣↵↵"),
        ("\t", "⇥"),
        (" two words", "␣two words"),
        ("<E4 BB>", "byte E4 BB"),
        ("<95>", "byte 95"),
        ("<SEG>", "<SEG>"),
        (" <b>", "␣<b>"),
        ("\r", "U+000D"),
        ("a\u202eb", "aU+202Eb"),
        ("\u00a0", "U+00A0"),
        ("", ""),
    ],
)
def test_no_two_tokens_look_alike(token: str, shown: str) -> None:
    assert visible(token) == shown and visible(shown) == shown


def test_a_vocabulary_has_no_two_names_alike() -> None:
    """The whole vocabulary of the offline model's kind: every token that decodes to another text has another name."""
    tokenizer = tiny_tokenizer()
    texts = {token_text(tokenizer, i) for i in range(len(tokenizer))}
    assert len({visible(text) for text in texts}) == len(texts)
