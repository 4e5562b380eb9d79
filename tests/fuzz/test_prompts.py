"""Prompts as nobody should type them: each is encoded with all that was typed in it, or refused in a sentence."""

from __future__ import annotations

import random
import sys
import time
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lens.backend.encoding import DEFAULT_PROMPT, MAX_PROMPT_CHARS, encode
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.errors import LensError
from tests.fuzz.mutating import RUNS

SYNTAX = (
    "{{ messages }}", "{% for m in messages %}", "{% raw %}", "{%- endfor -%}", "{# #}", "{{ 10 ** 9 }}", "{image}", "{0}",
    "%s", "\\n", "\\u0000", "'\"", "</script>", "<|im_start|>assistant\n", "user: ", "[INST]", "<image", "<img>", "$(id)",
)  # fmt: skip
BLANKS = " \t\n\r\v\f\x1c\x1d\x85\u00a0\u200b\u2028\u3000\ufeff"


def _letters(rng: random.Random, _special: list[str]) -> str:
    """Any planes of Unicode, unassigned code points and private ones included, surrogates left out."""
    planes = [rng.choice((0x80, 0x800, 0x3000, 0xD800, 0x10000, 0x110000)) for _ in range(rng.randint(1, 40))]
    return "".join(chr(rng.randrange(top - top // 4, top)) for top in planes)


def _control(rng: random.Random, _special: list[str]) -> str:
    return "".join(
        chr(rng.choice((*range(32), *range(127, 160), 0xFFFE, 0xFFFF, 0x202E))) for _ in range(rng.randint(1, 20))
    )


def _tokens(rng: random.Random, special: list[str]) -> str:
    return "".join(rng.choice(special) for _ in range(rng.randint(1, 5)))


def _syntax(rng: random.Random, _special: list[str]) -> str:
    return "".join(rng.choice(SYNTAX) for _ in range(rng.randint(1, 8)))


def _surrogates(rng: random.Random, _special: list[str]) -> str:
    return "".join(chr(rng.randrange(0xD800, 0xE000)) for _ in range(rng.randint(1, 3)))


def _blanks(rng: random.Random, _special: list[str]) -> str:
    return "".join(rng.choice(BLANKS) for _ in range(rng.randint(1, 30)))


def _marks(rng: random.Random, _special: list[str]) -> str:
    return rng.choice("ae\u1112") + "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randint(1, 100)))


def _long(rng: random.Random, _special: list[str]) -> str:
    length = rng.choice((100, 900, 4000, MAX_PROMPT_CHARS, MAX_PROMPT_CHARS + 1, 1_000_000))
    return (rng.choice(("a", "word ", "\U0001f98a", "日本", " ", ".")) * length)[:length]


def _words(rng: random.Random, _special: list[str]) -> str:
    return " ".join(rng.sample(DEFAULT_PROMPT.split(), rng.randint(1, 3)))


KINDS: tuple[Callable[[random.Random, list[str]], str], ...] = (
    _letters, _control, _tokens, _syntax, _surrogates, _blanks, _marks, _long, _words,
)  # fmt: skip


def prompts(special: list[str]) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choice(KINDS)(rng, special) for _ in range(rng.choice((1, 1, 2, 3)))) for _ in range(RUNS)]


def visible(text: str) -> str:
    """Without blanks, control characters and unassigned ones: SmolLM2's vocabulary lacks the bytes of some of these."""
    return "".join(c for c in text if unicodedata.category(c)[0] not in "CZ" and c != "\ufffd")


@pytest.mark.model
def test_prompts_of_every_kind(demo: LoadedModel):
    """Without a picture each, and with one. No forward: what is at stake are template, tokenizer and processor."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Picture(Image.fromarray(pixels), "noise", "noise")
    special = sorted({*demo.tokenizer.all_special_tokens, *demo.tokenizer.get_added_vocab()})
    assert "<image>" in special and len(special) > 3
    read, refused, tracing = 0, 0, sys.gettrace()
    for number, prompt in enumerate(prompts(special)):
        for shown in (None, picture):
            started = time.process_time()
            try:
                encoded = encode(demo, prompt, shown)
            except LensError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 600, f"prompt {number}"
                str(error).encode()
            else:
                read += 1
                ids = encoded.token_map.ids
                assert visible(prompt) in visible(demo.tokenizer.decode(ids)), f"prompt {number}: {prompt[:80]!r}"
                assert len(encoded.token_map.visual_positions) == (144 if shown else 0), f"prompt {number}"
                assert max(ids) < demo.anatomy.vocab_size
            assert time.process_time() - started < 1, f"prompt {number} took too long"
    assert read > RUNS / 2 and refused > RUNS / 4, (
        f"{read} read, {refused} refused: too few of one kind to say anything"
    )
    assert sys.gettrace() is tracing
