"""Two readings of patches side by side: which patches belong together, and how much what they say agrees.

Readings may be of two layers, two lenses, two pictures or two models. Words agree by chance too, since a few words win on
many patches: so the agreement of patches that belong together stands beside that of patches that don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.latentlens.reading import Reading

Cell = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike two readings are, over the patches of the first.

    Attributes:
        shared: words that both have among their neighbours, as a share of all that either has (Jaccard).
        same: whether the best word is the same.
        chance_shared, chance_same: their means over all pairs of patches that don't belong together.
    """

    shared: Float[np.ndarray, "rows cols"]
    same: Bool[np.ndarray, "rows cols"]
    chance_shared: float
    chance_same: float


def counterparts(here: Reading, there: Reading) -> Int[np.ndarray, "rows cols 2"]:
    """For each patch of one reading the patch (row, col) of the other at the same relative place of its picture."""
    own, other = (_centres(reading) for reading in (here, there))
    nearest = ((own[:, None] - other[None]) ** 2).sum(-1).argmin(1)
    places = np.array([(patch.row, patch.col) for patch in there.patches])
    return places[nearest].reshape(here.rows, here.cols, 2)


def agreement(here: Reading, there: Reading, lens: str, other_lens: str) -> Agreement:
    """Compare what every patch of ``here`` says with what its counterpart in ``there`` says; upper and lower case are one.

    Both hold all patches of their pictures.
    """
    pairs = counterparts(here, there).reshape(-1, 2)
    partner = pairs[:, 0] * there.cols + pairs[:, 1]
    first, second = ([_words(patch.neighbours[name]) for patch in reading.patches]
                     for reading, name in ((here, lens), (there, other_lens)))  # fmt: skip
    names = {word: i for i, word in enumerate(sorted({w for row in (*first, *second) for w in row}))}
    one, two = (_table(rows, names) for rows in (first, second))
    common = one @ two.T
    shared = common / np.maximum(one.sum(1)[:, None] + two.sum(1)[None] - common, 1)
    same = np.array([row[0] for row in first])[:, None] == np.array([row[0] for row in second])[None]
    together = np.zeros(same.shape, dtype=bool)
    together[np.arange(len(first)), partner] = True
    shape = (here.rows, here.cols)
    return Agreement(
        shared=shared[together].reshape(shape),
        same=same[together].reshape(shape),
        chance_shared=float(shared[~together].mean()) if (~together).any() else float("nan"),
        chance_same=float(same[~together].mean()) if (~together).any() else float("nan"),
    )


def _centres(reading: Reading) -> Float[np.ndarray, "n 2"]:
    """Centres of the patches, in widths and heights of the picture."""
    boxes = np.array([patch.box for patch in reading.patches], dtype=float)
    width, height = reading.size
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / (2 * width), (boxes[:, 1] + boxes[:, 3]) / (2 * height)], axis=1)


def _words(found: Sequence) -> list[str]:
    return [one.word.casefold() for one in found]


def _table(rows: Sequence[Sequence[str]], names: dict[str, int]) -> Float[np.ndarray, "n words"]:
    table = np.zeros((len(rows), len(names)))
    for i, row in enumerate(rows):
        table[i, [names[word] for word in row]] = 1
    return table
