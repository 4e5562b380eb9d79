"""A region of the picture as a whole: the words its pooled state is nearest to, and the words its patches vote for.

Two different questions. The *pooled* state is one vector that need not lie near any patch; a *vote* is a patch's own best
neighbour. Where both agree the region is of one kind; where they differ the pooled words deserve doubt. Beside the votes
stands how often the same word wins on the patches outside: a word that wins everywhere says nothing about the region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.errors import PatchOutsideGrid
from lens.latentlens.index import Index
from lens.latentlens.reading import LENSES, Reading, VocabularyWord, nearest, score
from lens.latentlens.search import Neighbour

Cell = tuple[int, int]


@dataclass(frozen=True)
class Pooled:
    """A region read as one token.

    Attributes:
        cells: (row, col) of its patches, in reading order.
        neighbours: by lens, best first.
        coherence: mean cosine of the region's patches with the pooled state.
        outside: the same of all other patches; NaN where there are none.
    """

    layer: int
    cells: tuple[Cell, ...]
    neighbours: dict[str, tuple[Neighbour, ...] | tuple[VocabularyWord, ...]]
    coherence: float
    outside: float


@dataclass(frozen=True)
class Vote:
    """One word and the patches whose best neighbour it is; upper and lower case count as one.

    Attributes:
        word: in the spelling that is most frequent in the region.
        cells: the region's patches that vote for it.
        share, elsewhere: of the region's patches, and of all others (NaN where there are none).
        score: mean of the voters' best scores.
    """

    word: str
    cells: tuple[Cell, ...]
    share: float
    elsewhere: float
    score: float


def pool(states: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The mean *direction* of some states, at their mean length: no patch counts more for being long, as the massive ones
    would. Equal states give that state."""
    wide = states.double()
    lengths = wide.norm(dim=-1, keepdim=True)
    return ((wide / lengths.clamp_min(1e-30)).mean(0) * lengths.mean()).to(torch.float32)


def read_pooled(
    loaded: LoadedModel,
    held: Trace,
    index: Index | None,
    layer: int,
    cells: Sequence[Cell],
    lenses: Sequence[str] = LENSES,
    k: int = 5,
) -> Pooled:
    """The ``k`` nearest neighbours of the region's pooled state, by each of ``lenses``; no forward.

    Raises:
        PatchOutsideGrid: a patch that isn't in the grid, or none at all.
        LayerMissing, SiteMissing, IndexMissing, IndexMismatch, StatesUnusable: as :func:`lens.latentlens.reading.read`.
    """
    loaded.anatomy.check_layer(layer)
    grid = visual_grid(held.token_map)
    chosen = tuple(sorted(set(cells)))
    if not chosen:
        raise PatchOutsideGrid("The region holds no patch; choose at least one.")
    inside = [grid.position(row, col) for row, col in chosen]
    others = sorted(set(grid.positions.reshape(-1).tolist()) - set(inside))
    states = held.hidden(layer).float()
    one = pool(states[inside])
    near = torch.nn.functional.cosine_similarity(states, one[None], dim=-1)
    return Pooled(
        layer=layer,
        cells=chosen,
        neighbours={name: nearest(name, loaded, index, one[None], layer, k)[0] for name in dict.fromkeys(lenses)},
        coherence=float(near[inside].mean()),
        outside=float(near[others].mean()) if others else float("nan"),
    )


def votes(reading: Reading, lens: str, cells: Sequence[Cell]) -> tuple[Vote, ...]:
    """What the patches of a region are nearest to, the most frequent word first, then the better score.

    ``reading`` holds every patch of the picture, so that the region can be compared with what lies outside it.

    Raises:
        PatchOutsideGrid: a patch that the reading doesn't hold, or no patch at all.
    """
    best = {(patch.row, patch.col): patch.neighbours[lens][0] for patch in reading.patches}
    chosen = sorted(set(cells))
    strangers = [cell for cell in chosen if cell not in best]
    if strangers or not chosen:
        raise PatchOutsideGrid(
            f"The region names {'the patches ' + str(strangers) if strangers else 'no patch'}, but the grid has rows 0 to "
            f"{reading.rows - 1} and columns 0 to {reading.cols - 1}; choose patches inside it."
        )
    others = Counter(best[cell].word.casefold() for cell in best.keys() - set(chosen))
    voters: dict[str, list[Cell]] = {}
    for cell in chosen:
        voters.setdefault(best[cell].word.casefold(), []).append(cell)
    found = [
        Vote(
            word=Counter(best[cell].word for cell in own).most_common(1)[0][0],
            cells=tuple(own),
            share=len(own) / len(chosen),
            elsewhere=others[folded] / others.total() if others else float("nan"),
            score=float(np.mean([score(best[cell]) for cell in own])),
        )
        for folded, own in voters.items()
    ]
    return tuple(sorted(found, key=lambda vote: (-len(vote.cells), -vote.score)))
