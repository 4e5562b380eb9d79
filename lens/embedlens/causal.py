"""What visual tokens do to the answer: prune them, skip their sublayers, let them enter late, scale them.

Every test compares one treated run with the unchanged one by three things: the answer it gives, the log-probability of
the *unchanged* model's answer, and the KL divergence of the next token, KL(unchanged || treated), both in nats. Beside
it stand controls: the same treatment of random sets of as many visual tokens, seeded. A control costs one forward.

An empty set of tokens changes nothing (an intervention without positions is bit-identical to none): the treated run is the
unchanged one, without controls, and the result says so in its ``note``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.backend import injection, interventions
from lens.backend.answers import Answer
from lens.backend.bench import Bench, Run
from lens.backend.encoding import Encoded, TokenMap, visual_grid
from lens.backend.loading import LoadedModel
from lens.progress import Report, silent
from lens.statistics import matched_controls, p_value

Treatment = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""The intervention for a set of sequence positions."""

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the norm test: the range of EmbedLens."""

SUBLAYERS = ("attention", "mlp")


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
    """

    treatment: str
    positions: tuple[int, ...]
    base: Run
    treated: Run
    controls: Controls | None
    p_logprob: float | None
    p_kl: float | None
    note: str


@dataclass(frozen=True)
class NormSweep:
    """The norm test: all visual tokens at the language model's input, times each factor in turn."""

    base: Run
    factors: tuple[float, ...]
    runs: tuple[Run, ...]


def prune(
    loaded: LoadedModel,
    encoded: Encoded,
    positions: Sequence[int],
    controls: int = 20,
    seed: int = 0,
    spatial: bool = False,
    answer: Answer | None = None,
    report: Report = silent,
) -> CausalResult:
    """Take visual tokens out of the sequence, the others keeping their position ids.

    ``spatial``: controls are drawn among the neighbours of the pruned patches.

    Raises:
        CapabilityMissing: an input without a picture.
        Cancelled: raised by ``report``.
    """
    return _tested(
        Bench(loaded, encoded, answer),
        f"{_count(positions)} pruned",
        positions,
        lambda chosen: interventions.drop(loaded, chosen),
        (controls, seed, spatial),
        report,
    )


def skip_sublayers(
    loaded: LoadedModel,
    encoded: Encoded,
    positions: Sequence[int],
    blocks: Sequence[int],
    sublayers: Sequence[str] = SUBLAYERS,
    controls: int = 20,
    seed: int = 0,
    spatial: bool = False,
    answer: Answer | None = None,
    report: Report = silent,
) -> CausalResult:
    """Zero what attention or MLP of ``blocks`` (from 1) adds to visual tokens; the residual stream stays.

    Raises:
        CapabilityMissing: an input without a picture.
        LayerMissing: a block that the model hasn't.
        Cancelled: raised by ``report``.
    """
    names = " and ".join(sublayers) or "nothing"
    return _tested(
        Bench(loaded, encoded, answer),
        f"{names} of {len(blocks)} block{'s' * (len(blocks) != 1)} skipped for {_count(positions)}",
        positions,
        lambda chosen: skipping(loaded, blocks, sublayers, chosen),
        (controls, seed, spatial),
        report,
    )


def inject(loaded: LoadedModel, encoded: Encoded, layer: int, answer: Answer | None = None) -> CausalResult:
    """Let all visual tokens enter before block ``layer``, 0..N (:mod:`lens.backend.injection`): 0 is the unchanged run, N
    the run without the picture.

    Raises:
        CapabilityMissing: an input without a picture.
        LayerMissing: a layer that the model hasn't.
    """
    positions = _all_visual(encoded.token_map)
    bench = Bench(loaded, encoded, answer)
    treated = bench.run(injection.inject(loaded, encoded, layer))
    note = "There are no controls: every visual token is treated."
    words = f"{_count(positions)} entered before block {layer} (from 0)"
    return CausalResult(words, positions, bench.base, treated, None, None, None, note)


def scale_norm(
    loaded: LoadedModel,
    encoded: Encoded,
    factors: Sequence[float] = FACTORS,
    answer: Answer | None = None,
    report: Report = silent,
) -> NormSweep:
    """Multiply all visual tokens at layer 0 by each factor in turn.

    Raises:
        CapabilityMissing: an input without a picture.
        Cancelled: raised by ``report``.
    """
    for factor in factors:
        if not FACTORS[0] <= factor <= FACTORS[-1]:
            raise ValueError(f"expected factors from 0.01 to 10, got {factor:g}")
    positions = _all_visual(encoded.token_map)
    bench = Bench(loaded, encoded, answer)
    runs = []
    for done, factor in enumerate(factors):
        report(done, len(factors), f"norm times {factor:g}")
        runs.append(bench.run(interventions.scale(loaded, 0, positions, factor)))
    report(len(factors), len(factors), "norm test done")
    return NormSweep(bench.base, tuple(factors), tuple(runs))


@contextmanager
def skipping(
    loaded: LoadedModel, blocks: Sequence[int], sublayers: Sequence[str], positions: Sequence[int]
) -> Iterator[None]:
    """Skip ``sublayers`` (of :data:`SUBLAYERS`) of ``blocks`` (from 1) at ``positions``."""
    with ExitStack() as stack:
        for block in blocks:
            for sublayer in sublayers:
                stack.enter_context(interventions.skip(loaded, block, sublayer, positions))
        yield


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


def _tested(
    bench: Bench,
    words: str,
    positions: Sequence[int],
    treatment: Treatment,
    draw: tuple[int, int, bool],
    report: Report,
) -> CausalResult:
    """The treated run and its controls, with progress in forwards."""
    count, seed, spatial = draw
    token_map = bench.encoded.token_map
    chosen = tuple(sorted(set(_checked(token_map, positions))))
    report(0, count + 1, words)
    if not chosen:
        note = "No token is chosen, so that nothing changes."
        return CausalResult(words, (), bench.base, bench.base, None, None, None, note)
    treated = bench.run(treatment(chosen))
    if len(chosen) == len(token_map.visual_positions) or not count:
        note = "There are no controls: every visual token is treated." if count else "No controls were asked for."
        return CausalResult(words, chosen, bench.base, treated, None, None, None, note)
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
    )


def _checked(token_map: TokenMap, positions: Sequence[int]) -> list[int]:
    visual = set(visual_grid(token_map).positions.reshape(-1).tolist())
    strangers = sorted(set(map(int, positions)) - visual)
    if strangers:
        raise ValueError(f"expected positions of visual tokens, got {strangers}")
    return [int(p) for p in positions]


def _all_visual(token_map: TokenMap) -> tuple[int, ...]:
    return tuple(sorted(visual_grid(token_map).positions.reshape(-1).tolist()))


def _count(positions: Sequence[int]) -> str:
    size = len(set(positions))
    return f"{size} visual token{'s' * (size != 1)}"
