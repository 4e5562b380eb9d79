"""One visual token through the depth of the model: its best neighbour at every layer, by each lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.readouts import embedding_lens, logit_lens
from lens.backend.tracing import Trace
from lens.errors import IndexMissing
from lens.latentlens.index import Index
from lens.latentlens.reading import LENSES, VocabularyWord, vocabulary
from lens.latentlens.search import Neighbour, search


@dataclass(frozen=True)
class Trajectory:
    """The nearest neighbour of one patch at layers 0..N: ``best[lens][layer]``."""

    row: int
    col: int
    best: dict[str, tuple[Neighbour | VocabularyWord, ...]]


def trajectory(
    loaded: LoadedModel,
    trace: Trace,
    index: Index | None,
    patch: tuple[int, int],
    lenses: Sequence[str] = LENSES,
    similarity: str = "raw",
) -> Trajectory:
    """Read one patch (row, col) at every layer; one search (by any ``similarity`` but CSLS) and two readouts, no forward.

    Raises:
        PatchOutsideGrid: no such patch.
        IndexMissing: the latent lens without an index.
        StatesUnusable: NaN, infinities or zeros among the states.
    """
    position = visual_grid(trace.token_map).position(*patch)
    depth = trace.depth
    states = torch.stack([trace.hidden(layer)[position] for layer in range(depth + 1)])
    best: dict[str, tuple[Neighbour | VocabularyWord, ...]] = {}
    for lens in lenses:
        if lens == "latent":
            if index is None:
                raise IndexMissing(
                    "LatentLens needs an index of a text corpus, but none was given; build or choose one."
                )
            best[lens] = tuple(row[0] for row in search(index, states.float().numpy(), 1, None, similarity).rows)
        elif lens == "logit":
            # Only at layer N is the final norm applied already; 0 stands for every layer before it.
            before, after = logit_lens(loaded, states[:depth], 0, 1), logit_lens(loaded, states[depth:], depth, 1)
            best[lens] = tuple(row[0] for words in (before, after) for row in vocabulary(words))
        else:
            best[lens] = tuple(row[0] for row in vocabulary(embedding_lens(loaded, states, 1)))
    return Trajectory(*patch, best)
