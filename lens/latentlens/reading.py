"""What visual tokens are nearest to, by one lens or several: the one function behind the page and the command line.

A reading is made of states that a trace already holds: no block of the model runs here, so another layer, another patch
or another lens costs a search or a matrix product and no forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.readouts import Words, embedding_lens, logit_lens
from lens.backend.tracing import Trace
from lens.backend.visible import visible
from lens.errors import CapabilityMissing, IndexMissing
from lens.latentlens.index import Index, check_model
from lens.latentlens.search import Neighbour, search

LENSES = ("latent", "logit", "embedding")
"""LatentLens (contextual text states), logit lens (unembedding), embedding lens (input embeddings)."""

SCORES = {"latent": "similarity", "logit": "logit", "embedding": "similarity"}
"""What each lens's score is; similarity is the cosine."""


@dataclass(frozen=True)
class VocabularyWord:
    """A vocabulary entry as the logit and embedding lenses find it: a token without a context.

    Attributes:
        word: the token without its outer blanks.
        token: the token as the tokenizer decodes it.
        score: raw logit or cosine, see :data:`SCORES`.
    """

    word: str
    token: str
    score: float

    @property
    def shown(self) -> str:
        """The token as a reader sees it, with its blank."""
        return visible(self.token)


@dataclass(frozen=True)
class PatchReading:
    """One visual token.

    Attributes:
        box: pixels of the original picture that it covers, (x0, y0, x1, y1).
        neighbours: by lens, best first.
    """

    row: int
    col: int
    box: tuple[float, float, float, float]
    neighbours: dict[str, tuple[Neighbour, ...] | tuple[VocabularyWord, ...]]


@dataclass(frozen=True)
class Reading:
    """Some visual tokens of one picture at one layer.

    Attributes:
        index: name of the corpus index; ``None`` where the latent lens wasn't asked for.
        size: (width, height) of the original picture in pixels.
        rows, cols: of the patch grid.
        layer: of the visual tokens, in the convention of :mod:`lens.backend.anatomy`; neighbours come from every layer
            that the index stores.
    """

    model: str
    index: str | None
    size: tuple[int, int]
    rows: int
    cols: int
    layer: int
    lenses: tuple[str, ...]
    patches: tuple[PatchReading, ...]


def default_layer(depth: int) -> int:
    """The layer shown first for a model of ``depth`` blocks: 8, where visual tokens are well settled among words
    (arXiv 2602.00462), or the middle of a shallower model."""
    return min(8, depth // 2)


def read(
    loaded: LoadedModel,
    trace: Trace,
    index: Index | None,
    layer: int,
    patches: Sequence[tuple[int, int]] | None = None,
    lenses: Sequence[str] = LENSES,
    k: int = 5,
    similarity: str = "raw",
    reference: Float[np.ndarray, "m d"] | None = None,
) -> Reading:
    """The ``k`` nearest neighbours of ``patches`` (row, col), all of them by default, by each of ``lenses``.

    All patches go through one search, in the order given, doubles left out. ``similarity`` (and ``reference``, visual
    tokens of other pictures) are of the latent lens, see :func:`lens.latentlens.search.search`.

    Raises:
        LayerMissing: a layer that the model hasn't.
        SiteMissing: the trace doesn't hold that layer.
        PatchOutsideGrid: one of the patches is not in the grid.
        IndexMissing: the latent lens without an index.
        IndexMismatch: the index belongs to another language model.
        StatesUnusable: NaN, infinities or zeros among the states.
    """
    loaded.anatomy.check_layer(layer)
    grid = visual_grid(trace.token_map)
    cells = list(dict.fromkeys(grid.region(0, 0, grid.rows - 1, grid.cols - 1) if patches is None else patches))
    states = trace.hidden(layer)[[grid.position(row, col) for row, col in cells]]
    names = tuple(dict.fromkeys(lenses))
    options = (similarity, reference)
    found = {name: nearest(name, loaded, index, states, layer, k, *options) for name in names}
    boxes = grid.boxes.tolist()
    return Reading(
        model=loaded.name,
        index=index.name if index and "latent" in names else None,
        size=trace.token_map.image_size or (0, 0),
        rows=grid.rows,
        cols=grid.cols,
        layer=layer,
        lenses=names,
        patches=tuple(
            PatchReading(row, col, tuple(boxes[row][col]), {name: found[name][i] for name in names})
            for i, (row, col) in enumerate(cells)
        ),
    )


def as_json(reading: Reading) -> dict:
    """The reading as it is exported: one lens gives a list of neighbours per patch, several an object keyed by lens."""
    single = reading.lenses[0] if len(reading.lenses) == 1 else None
    width, height = reading.size
    patches = []
    for patch in reading.patches:
        lists = {lens: [_entry(lens, found) for found in patch.neighbours[lens]] for lens in reading.lenses}
        neighbours = lists[single] if single else lists
        box = [round(edge, 3) for edge in patch.box]
        patches.append({"row": patch.row, "col": patch.col, "box": box, "neighbours": neighbours})
    return {
        "model": reading.model,
        "index": reading.index,
        "image": {"width": width, "height": height},
        "grid": {"rows": reading.rows, "cols": reading.cols},
        "layer": reading.layer,
        "lens": single or ("all" if set(reading.lenses) == set(LENSES) else ",".join(reading.lenses)),
        "patches": patches,
    }


def rows_of(reading: Reading) -> list[dict[str, object]]:
    """The reading as a flat table: a row for each patch, lens and rank (from 1)."""
    return [
        {
            "row": patch.row,
            "col": patch.col,
            **dict(zip(("x0", "y0", "x1", "y1"), (round(edge, 3) for edge in patch.box), strict=True)),
            "lens": lens,
            "rank": rank,
            **_entry(lens, found),
        }
        for patch in reading.patches
        for lens in reading.lenses
        for rank, found in enumerate(patch.neighbours[lens], 1)
    ]


def score(found: Neighbour | VocabularyWord) -> float:
    """The number by which a lens ranks: cosine or raw logit, see :data:`SCORES`."""
    return found.score if isinstance(found, VocabularyWord) else found.similarity


def _entry(lens: str, found: Neighbour | VocabularyWord) -> dict:
    entry = {"word": found.word, "token": found.token, SCORES[lens]: score(found)}
    if isinstance(found, Neighbour):
        entry |= {"layer": found.layer, "sentence": found.sentence}
    return entry


def nearest(
    lens: str,
    loaded: LoadedModel,
    index: Index | None,
    states: Float[Tensor, "n d"],
    layer: int,
    k: int,
    similarity: str = "raw",
    reference: Float[np.ndarray, "m d"] | None = None,
) -> Sequence[tuple[Neighbour, ...]] | Sequence[tuple[VocabularyWord, ...]]:
    """One tuple per state by one lens."""
    if not len(states):
        return []
    if lens == "latent":
        if index is None:
            raise IndexMissing(
                f"LatentLens needs an index of a text corpus for the model {loaded.name!r}, but none was given; build one "
                "with `python -m lens index build`, or choose the logit or embedding lens."
            )
        check_model(index.name, index.manifest, loaded)
        return search(index, states.float().numpy(), k, None, similarity, reference).rows
    k = min(k, loaded.anatomy.vocab_size)
    if lens == "logit":
        return vocabulary(logit_lens(loaded, states, layer, k))
    if lens == "embedding":
        return vocabulary(embedding_lens(loaded, states, k))
    raise CapabilityMissing(f"There is no lens {lens!r}; choose one of {', '.join(LENSES)}.")


def vocabulary(words: Words) -> list[tuple[VocabularyWord, ...]]:
    """Vocabulary entries as rows of a reading: one tuple per state, best first; entries that are nobody's neighbour (a
    padding row of zeros, at -inf) are left out."""
    return [
        tuple(
            VocabularyWord(token.strip(), token, float(value))
            for token, value in zip(tokens, values, strict=True)
            if np.isfinite(value)
        )
        for tokens, values in zip(words.tokens, words.scores, strict=True)
    ]
