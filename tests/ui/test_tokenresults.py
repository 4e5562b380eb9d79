"""The verdict on a layer scan says what was found, what wasn't, and what random vectors do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lens.functiontokens.search import Effect, LayerScan
from ui.tokenresults import scan

BAD = "<b>1.</b>"


def scanned(success: tuple[float, float], best: int | None, control: float) -> str:
    """Text of the verdict on layers 5 and 9, of which a random vector brings the trait to ``control`` at layer 5."""
    effects = tuple(Effect(one, gain, (BAD, "a fish")) for one, gain in zip(success, (0.4, 0.1), strict=True))
    html = scan(
        LayerScan(
            model="m", words=("1.",), added="state", alpha=2.0, trait_answer=BAD, shown=True,
            base=Effect(0.0, 0.0, ("x", "y")), layers=(5, 9), effects=effects,
            control_success=np.array([[0.0, control], [0.0, 0.0]]),
            control_gain=np.array([[-0.2, 0.3], [0.0, 0.1]]), best=best, seed=0,
        )
    )  # fmt: skip
    assert BAD not in html and "&lt;b&gt;1.&lt;/b&gt;" in html, "what a model says is escaped"
    return re.sub(r"<[^>]+>", "", html)


def test_the_best_layer_stands_beside_its_controls():
    said = scanned((0.0, 0.5), 9, 0.0)
    assert "best at layer 9: 50% of the answers show it, 0% of the unchanged ones, 0% with random vectors" in said
    assert "any push" not in said


@pytest.mark.parametrize("control", [0.5, 1.0])
def test_a_random_vector_that_does_as_much_is_not_hidden(control: float):
    assert f"But at layer 5 a random vector brings it to {control:.0%}" in scanned((0.0, 0.5), 9, control)


def test_nothing_found_is_said_with_its_numbers():
    said = scanned((0.0, 0.0), None, 0.0)
    assert "At none of these layers do more answers show the trait" in said
    assert "likeliest at layer 5, by +0.40 nats a token; random vectors of the same norm reach +0.30" in said
