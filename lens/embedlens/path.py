"""Visual tokens through the layers: one patch in full, or the classes of all patches at every layer, without a forward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import CLASSES, SHOWN, TokenClasses, classify, groups
from lens.embedlens.probe import anchor_cosines, probe
from lens.progress import Report, silent


@dataclass(frozen=True)
class Step:
    """One patch at one layer.

    Attributes:
        label: its class, by precedence.
        words: its nearest vocabulary entries, as the tokenizer decodes them, with their cosines, best first.
        anchor_cosine: best cosine with an anchor; NaN without anchors.
        margin: by how much that beats the best word that is no anchor; NaN without anchors.
    """

    layer: int
    label: str
    words: tuple[tuple[str, float], ...]
    anchor_cosine: float
    margin: float


def token_path(
    loaded: LoadedModel,
    trace: Trace,
    anchors: Anchors,
    patch: tuple[int, int],
    rule: int = 3,
    min_cosine: float = 0.0,
) -> tuple[Step, ...]:
    """One patch (row, col) at layers 0..N, judged as :func:`~lens.embedlens.classes.classify` judges all patches of one
    layer; one probe of N + 1 states.

    Raises:
        PatchOutsideGrid: no such patch.
        StatesUnusable: NaN, infinities or zeros among the states.
    """
    position = visual_grid(trace.token_map).position(*patch)
    states = torch.stack([trace.hidden(layer)[position] for layer in range(trace.depth + 1)])
    ids = [anchor.id for anchor in anchors.found]
    words = probe(loaded, states, max(SHOWN, len(ids) + 1))
    member = groups(words, anchors, rule, min_cosine)
    labels = np.select([member["sink"], member["dead"]], CLASSES[:2], CLASSES[2])
    near = anchor_cosines(loaded, states, ids).max(1) if ids else np.full(len(states), np.nan)
    others = np.where(np.isin(words.ids, ids), -np.inf, words.scores).max(1)
    return tuple(
        Step(
            layer=layer,
            label=str(labels[layer]),
            words=tuple((token, float(c)) for token, c in zip(*row, strict=True))[:SHOWN],
            anchor_cosine=float(near[layer]),
            margin=float(near[layer] - others[layer]),
        )
        for layer, row in enumerate(zip(words.tokens, words.scores, strict=True))
    )


def classes_by_layer(
    loaded: LoadedModel,
    trace: Trace,
    anchors: Anchors,
    rule: int = 3,
    min_cosine: float = 0.0,
    report: Report = silent,
) -> dict[int, TokenClasses]:
    """The classes of all patches at layers 0..N; one probe a layer."""
    found = {}
    for layer in range(trace.depth + 1):
        report(layer, trace.depth + 1, f"Classes at layer {layer} of {trace.depth}")
        found[layer] = classify(loaded, trace, anchors, layer, rule, min_cosine)
    return found
