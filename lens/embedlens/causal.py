"""What visual tokens do to the answer: prune them, skip their sublayers, let them enter late, scale them.

How a treated run is measured, and its controls, are :mod:`lens.backend.controlled`'s.

An empty set of tokens changes nothing (an intervention without positions is bit-identical to none): the treated run is the
unchanged one, without controls, and the result says so in its ``note``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from lens.backend import injection, interventions
from lens.backend.answers import Answer
from lens.backend.bench import Bench, Run
from lens.backend.controlled import CausalResult, counted, tested
from lens.backend.encoding import Encoded, TokenMap, visual_grid
from lens.backend.loading import LoadedModel
from lens.progress import Report, silent

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the norm test: the range of EmbedLens."""

SUBLAYERS = ("attention", "mlp")


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
    return tested(
        Bench(loaded, encoded, answer),
        f"{counted(positions)} pruned",
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
    return tested(
        Bench(loaded, encoded, answer),
        f"{names} of {len(blocks)} block{'s' * (len(blocks) != 1)} skipped for {counted(positions)}",
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
    words = f"{counted(positions)} entered before block {layer} (from 0)"
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


def _all_visual(token_map: TokenMap) -> tuple[int, ...]:
    return tuple(sorted(visual_grid(token_map).positions.reshape(-1).tolist()))
