"""Does the model need these patches? They are dropped, set to zero or to the picture's mean, beside as many others.

A neighbour's word says what a patch is near to, not what the model does with it. Here the answer is asked again without
the patch (:mod:`lens.backend.controlled` measures and draws the controls).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lens.backend import interventions
from lens.backend.answers import Answer
from lens.backend.bench import Bench, Run
from lens.backend.controlled import CausalResult, Treatment, counted, tested
from lens.backend.encoding import Encoded, visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.errors import CapabilityMissing
from lens.progress import Report, silent

WAYS = ("drop", "mean", "zero")
"""Out of the sequence; the mean state of all visual tokens of the picture; a state of zeros."""


@dataclass(frozen=True, eq=False)
class EachAlone:
    """What losing one patch does, for every patch.

    Attributes:
        logprob: change of the unchanged answer's log-probability, in nats (negative: less likely).
        kl: KL divergence of the next token, in nats.
    """

    base: Run
    logprob: Float[np.ndarray, "rows cols"]
    kl: Float[np.ndarray, "rows cols"]


def ablate(
    loaded: LoadedModel,
    encoded: Encoded,
    held: Trace,
    patches: Sequence[tuple[int, int]],
    way: str = "drop",
    layer: int = 0,
    *,
    controls: int = 20,
    seed: int = 0,
    spatial: bool = False,
    answer: Answer | None = None,
    report: Report = silent,
) -> CausalResult:
    """Ablate ``patches`` (row, col) in one of :data:`WAYS`; without patches the result is the unchanged run.

    Args:
        held: the unchanged trace, which knows the mean.
        layer: where states are replaced; a dropped patch is gone from all.
        controls: random sets of as many other patches, one forward each; ``spatial`` draws them near the treated ones.

    Raises:
        PatchOutsideGrid: a patch that isn't in the grid.
        CapabilityMissing: another way, or replacing at the last layer, where no other token reads it any more.
        Cancelled: raised by ``report``.
    """
    grid = visual_grid(encoded.token_map)
    positions = [grid.position(row, col) for row, col in patches]
    treatment = treating(loaded, held, way, layer)
    words = {"drop": "dropped", "mean": f"set to the mean at layer {layer}", "zero": f"set to zero at layer {layer}"}
    bench = Bench(loaded, encoded, answer)
    return tested(bench, f"{counted(positions)} {words[way]}", positions, treatment, (controls, seed, spatial), report)


def each_alone(
    loaded: LoadedModel,
    encoded: Encoded,
    held: Trace,
    way: str = "drop",
    layer: int = 0,
    *,
    answer: Answer | None = None,
    report: Report = silent,
) -> EachAlone:
    """Ablate every patch by itself: one forward a patch. Raises what :func:`ablate` does."""
    positions = visual_grid(encoded.token_map).positions
    treatment = treating(loaded, held, way, layer)
    bench = Bench(loaded, encoded, answer)
    found = np.zeros((positions.size, 2))
    for done, position in enumerate(positions.reshape(-1).tolist()):
        report(done, positions.size, f"patch {done + 1} of {positions.size}")
        found[done] = bench.scores(treatment([position]))
    report(positions.size, positions.size, "every patch alone")
    logprob, kl = found.T
    return EachAlone(bench.base, (logprob - bench.base.logprob).reshape(positions.shape), kl.reshape(positions.shape))


def treating(loaded: LoadedModel, held: Trace, way: str, layer: int) -> Treatment:
    """The intervention for a set of positions. Raises what :func:`ablate` does."""
    if way not in WAYS:
        raise CapabilityMissing(f"There is no ablation {way!r}; choose one of {', '.join(WAYS)}.")
    if way == "drop":
        return lambda chosen: interventions.drop(loaded, chosen)
    if loaded.anatomy.check_layer(layer) == loaded.anatomy.depth:
        raise CapabilityMissing(
            f"After layer {layer}, the last, no token reads another any more, so that replacing patches there changes "
            f"nothing; choose a layer from 0 to {loaded.anatomy.depth - 1}."
        )
    if way == "zero":
        return lambda chosen: interventions.zero(loaded, layer, chosen)
    mean = held.hidden(layer)[visual_grid(held.token_map).positions.reshape(-1)].float().mean(0)

    def to_mean(chosen: Sequence[int]) -> AbstractContextManager[Any]:
        return interventions.replace(loaded, layer, chosen, mean.expand(len(chosen), -1))

    return to_mean
