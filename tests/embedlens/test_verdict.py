"""What pruning a class says, from planted results."""

from __future__ import annotations

import numpy as np
import pytest

from lens.backend.bench import Run
from lens.backend.controlled import CausalResult, Controls
from lens.embedlens.verdict import verdict
from lens.statistics import p_fraction, p_value


def result(loss: float, losses: list[float], said: str = "A cat.", count: int = 41) -> CausalResult:
    """Pruning ``count`` tokens costs ``loss``, each control what ``losses`` says; the answer was "A cat."."""
    null = -2 - np.array(losses)
    controls = Controls(np.zeros((len(losses), count), int), null, np.abs(null), 0, False, False)
    p = p_value(loss, np.array(losses), two_sided=False)
    return CausalResult("x", tuple(range(count)), Run("A cat.", -2, 0), Run(said, -2 - loss, 1), controls, p, p, "")


LOSSES = [0.1 * i for i in range(1, 21)]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            result(8.2, LOSSES, "The image is 3D."),
            "Here the dead tokens matter: pruning the 41 dead tokens costs the answer 8.2 nats, more than all 20 random "
            "sets of as many tokens: p = 1/21 (smallest possible). “A cat.” becomes “The image is 3D.”.",
        ),
        (
            result(0.01, LOSSES),
            "Here the dead tokens carry little: pruning the 41 dead tokens costs the answer 0.01 nats, less than all 20 "
            "random sets of as many tokens: p = 1/21 (smallest possible). The answer stays as it is.",
        ),
        (
            result(1.08, LOSSES, ""),
            "Here the dead tokens can't be told from others: pruning the 41 dead tokens costs the answer 1.1 nats, and 10 "
            "of 20 random sets of as many tokens cost as much or more: p = 11/21. “A cat.” becomes an empty answer.",
        ),
        (
            result(-0.5, LOSSES, count=1),
            "Here the dead token carries little: pruning the one dead token makes the answer 0.50 nats likelier, less than "
            "all 20 random sets of as many tokens: p = 1/21 (smallest possible). The answer stays as it is.",
        ),
    ],
)
def test_the_controls_decide(found: CausalResult, sentence: str):
    assert verdict("dead", found) == sentence


def test_few_controls_can_decide_nothing():
    """Of three random sets even the extreme one is p = 1/4."""
    assert verdict("dead", result(9, [0.1, 0.2, 0.3])).startswith("Here the dead tokens can't be told from others")


def test_a_result_without_controls_is_no_verdict():
    alone = CausalResult(
        "x", (1, 2), Run("A cat.", -2, 0), Run("A cat.", -3, 1), None, None, None, "Every token is treated."
    )
    said = verdict("sink", alone)
    assert "can't be tested here" in said and said.endswith("Every token is treated.")
    assert verdict("sink", result(0, LOSSES, count=0)) == "No token here is sink."


def test_p_is_the_fraction_that_it_is():
    assert p_fraction(p_value(9, np.arange(3.0), two_sided=False), 3) == "1/4 (smallest possible)"
    assert p_fraction(p_value(1.5, np.arange(3.0), two_sided=False), 3) == "2/4"
    assert p_fraction(p_value(-1, np.arange(20.0), two_sided=False), 20) == "21/21"
