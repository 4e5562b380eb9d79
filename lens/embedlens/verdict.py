"""What pruning a class says, in one paragraph: do the tokens that look empty matter for the answer?"""

from __future__ import annotations

import numpy as np

from lens.backend.controlled import CausalResult
from lens.statistics import p_fraction, p_value

SMALL = 0.05
"""p at or below which a class is said to matter, or to matter less than other tokens; of 20 controls that is all of them."""


def verdict(kind: str, result: CausalResult) -> str:
    """Whether the tokens of a class matter for the answer, by the log-probability that it loses without them.

    They *matter* where at most :data:`SMALL` of random sets of as many tokens, this one counted, lower it as much; they
    *carry less than other tokens* where at most :data:`SMALL` lower it as little; else they can't be told from others. One
    picture says nothing of others.
    """
    count = len(result.positions)
    tokens = f"{kind} token{'s' * (count != 1)}"
    if not count:
        return f"No token here is {kind}."
    loss = result.base.logprob - result.treated.logprob
    does = f"pruning the {count} {tokens} {_nats(loss)}" if count != 1 else f"pruning the one {tokens} {_nats(loss)}"
    if result.controls is None or result.p_logprob is None:
        return f"Whether the {tokens} matter more than others can't be tested here: {does}. {result.note}"
    losses = result.base.logprob - result.controls.logprob
    draws = len(losses)
    p, less = result.p_logprob, p_value(-loss, -losses, two_sided=False)
    if p <= SMALL:
        claim, why = (
            f"Here the {tokens} matter{'s' * (count == 1)}",
            f"more than {_all(losses < loss)} of as many tokens",
        )
    elif less <= SMALL:
        claim, why = (
            f"Here the {tokens} {'carries' if count == 1 else 'carry'} little",
            f"less than {_all(losses > loss)} of as many tokens",
        )
        return f"{claim}: {does}, {why}: p = {p_fraction(less, draws)}. {_answer(result)}"
    else:
        claim = f"Here the {tokens} can't be told from others"
        why = f"and {int((losses >= loss).sum())} of {draws} random sets of as many tokens cost as much or more"
    return f"{claim}: {does}, {why}: p = {p_fraction(p, draws)}. {_answer(result)}"


def _nats(loss: float) -> str:
    """What a loss of log-probability does to the answer."""
    size = f"{abs(loss):.1f}" if abs(loss) >= 1 else f"{abs(loss):.2f}"
    return f"costs the answer {size} nats" if loss >= 0 else f"makes the answer {size} nats likelier"


def _all(beyond: np.ndarray) -> str:
    count, draws = int(beyond.sum()), len(beyond)
    return f"all {draws} random sets" if count == draws else f"{count} of {draws} random sets"


def _answer(result: CausalResult) -> str:
    before, after = result.base.answer, result.treated.answer
    if before == after:
        return "The answer stays as it is."
    return f"“{before}” becomes “{after}”." if after else f"“{before}” becomes an empty answer."
