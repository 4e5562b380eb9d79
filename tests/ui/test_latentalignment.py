"""What the control says of the alignment matrix, in words."""

from __future__ import annotations

import numpy as np

from lens.latentlens.alignment import Alignment
from ui.latentalignment import finding

STEPS = np.eye(4)


def said(shares: np.ndarray, control: np.ndarray) -> str:
    return finding(
        Alignment(
            tuple(range(4)), tuple(range(shares.shape[1])), ("one",), 5, shares[None], np.full((1, 4), 0.75),
            control[None], np.full((1, 4), 0.5),
        )
    )  # fmt: skip


def test_a_control_that_looks_like_the_pattern_is_told_with_its_numbers():
    text = said(STEPS, 0.9 * STEPS + 0.025)
    assert text.startswith("**The control looks almost like the pattern** (correlation 1.00 over all cells; ")
    assert "comes first at 4 of 4 visual layers" in text and "0.75 for patches, 0.50 for shuffled states" in text


def test_it_is_not_said_of_another_control():
    text = said(STEPS, STEPS[::-1])
    assert "almost" not in text and "differs" in text and "comes first at 0 of 4 visual layers" in text


def test_one_text_layer_gives_nothing_to_compare():
    assert "can't be compared" in said(np.ones((4, 1)), np.ones((4, 1)))
