"""A treatment of some visual tokens beside the same treatment of random sets of as many: does it matter which they were?

Every test compares one treated run with the unchanged one by three things: the answer it gives, the log-probability of
the *unchanged* model's answer, and the KL divergence of the next token, KL(unchanged || treated), both in nats. Beside
it stand controls: the same treatment of random sets of as many visual tokens, seeded. A control costs one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.backend.bench import Bench, Change, Run, next_changes
from lens.backend.encoding import TokenMap, visual_grid
from lens.progress import Report
from lens.statistics import matched_controls, p_value

Treatment = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""The intervention for a set of sequence positions."""


@dataclass(frozen=True, eq=False)
class Controls:
    """The same treatment of random sets of as many visual tokens; one entry per set.

    Attributes:
        positions: the sets, as sequence positions.
        spatial: whether they were drawn near the treated tokens.
        overlapping: whether they may hold treated tokens, since too few others are left.
    """

    positions: Int[np.ndarray, "controls size"]
    logprob: Float[np.ndarray, " controls"]
    kl: Float[np.ndarray, " controls"]
    seed: int
    spatial: bool
    overlapping: bool


@dataclass(frozen=True, eq=False)
class CausalResult:
    """One causal test.

    Attributes:
        treatment: what was done, in words.
        positions: the sequence positions it was done to.
        controls: ``None`` where there are none to be had; ``note`` says why.
        p_logprob, p_kl: one-sided permutation p-values: how often a set at random lowers the answer's log-probability, or
            moves the next token, at least as much. ``None`` without controls.
        note: one sentence on what limits the test; empty if nothing does.
        gains, losses: next tokens whose probability changed most, largest change first.
    """

    treatment: str
    positions: tuple[int, ...]
    base: Run
    treated: Run
    controls: Controls | None
    p_logprob: float | None
    p_kl: float | None
    note: str
    gains: tuple[Change, ...] = ()
    losses: tuple[Change, ...] = ()


def draw_controls(
    token_map: TokenMap, positions: Sequence[int], count: int, seed: int, spatial: bool
) -> tuple[Int[np.ndarray, "controls size"], bool]:
    """Random sets of as many visual tokens: among the others, or, where these are too few, among all; and whether so."""
    grid = visual_grid(token_map)
    places = {int(p): (row, col) for (row, col), p in np.ndenumerate(grid.positions)}
    treated = sorted(set(positions))
    others = [p for p in places if p not in set(treated)]
    overlapping = len(others) < len(treated)
    pool = list(places) if overlapping else others
    near = None
    if spatial:
        near = (np.array([places[p] for p in treated], float), np.array([places[p] for p in pool], float))
    return matched_controls(np.array(pool), len(treated), count, seed, near), overlapping


def tested(
    bench: Bench,
    words: str,
    positions: Sequence[int],
    treatment: Treatment,
    draw: tuple[int, int, bool],
    report: Report,
) -> CausalResult:
    """The treated run beside its controls; ``draw``: how many, their seed, and whether they are drawn near the treated.

    Without positions nothing is run and the treated run is the unchanged one; of every visual token there are no controls.
    A control costs one forward. Raises ValueError for a position that is no visual token, Cancelled from ``report``.
    """
    count, seed, spatial = draw
    token_map = bench.encoded.token_map
    chosen = tuple(sorted(set(_checked(token_map, positions))))
    report(0, count + 1, words)
    if not chosen:
        note = "No token is chosen, so that nothing changes."
        return CausalResult(words, (), bench.base, bench.base, None, None, None, note)
    treated, after = bench.run_scored(treatment(chosen))
    gains, losses = next_changes(bench.loaded, bench.unchanged, after)
    if len(chosen) == len(token_map.visual_positions) or not count:
        note = "There are no controls: every visual token is treated." if count else "No controls were asked for."
        return CausalResult(words, chosen, bench.base, treated, None, None, None, note, gains, losses)
    sets, overlapping = draw_controls(token_map, chosen, count, seed, spatial)
    scores = []
    for done, control in enumerate(sets):
        report(done + 1, count + 1, f"control {done + 1} of {count}")
        scores.append(bench.scores(treatment(control.tolist())))
    report(count + 1, count + 1, words)
    logprob, kl = np.array(scores).T
    return CausalResult(
        treatment=words,
        positions=chosen,
        base=bench.base,
        treated=treated,
        controls=Controls(sets, logprob, kl, seed, spatial, overlapping),
        p_logprob=p_value(-treated.logprob, -logprob, two_sided=False),
        p_kl=p_value(treated.kl, kl, two_sided=False),
        note="Fewer other tokens are left than are treated, so controls are drawn among all." if overlapping else "",
        gains=gains,
        losses=losses,
    )


def _checked(token_map: TokenMap, positions: Sequence[int]) -> list[int]:
    visual = set(visual_grid(token_map).positions.reshape(-1).tolist())
    strangers = sorted(set(map(int, positions)) - visual)
    if strangers:
        raise ValueError(f"expected positions of visual tokens, got {strangers}")
    return [int(p) for p in positions]


def counted(positions: Sequence[int]) -> str:
    """How many visual tokens these are, in words."""
    size = len(set(positions))
    return f"{size} visual token{'s' * (size != 1)}"
