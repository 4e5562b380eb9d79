"""Which depth of the text do visual tokens of each depth resemble? Visual layer x text layer of the neighbours.

As in the paper's "mid-layer leap" (arXiv 2602.00462): visual tokens of layer 0 find their neighbours mostly at middle
text layers. Every state of a visual layer is searched over all stored text layers at once; a row of the matrix is the share
of its neighbours that each text layer supplied, so that rows sum to 1.

A text layer can win because its states lie close to anything. So the same search is done for states that keep each
dimension's values at that layer but not their company (every dimension shuffled over the patches by itself): what these
find as well needs no alignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.backend.encoding import encode, visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, hidden_sites, trace
from lens.errors import ImagesMissing
from lens.latentlens.index import Index, check_model
from lens.latentlens.search import search_rows
from lens.progress import Report, part, silent
from lens.statistics import bootstrap_interval

SHUFFLED = 48
"""States of the control at each layer and picture: their shares are known to within 3 % (240 neighbours)."""

ALMOST = 0.8
"""From here on a control counts as almost like its matrix: then its linear fit leaves no more than 36 % of the variance."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Visual layer x text layer, of one picture or of several.

    Attributes:
        visual_layers, text_layers: in the convention of :mod:`lens.backend.anatomy`.
        names: of the pictures.
        shares: by picture, the share of the ``k`` neighbours of each patch that each text layer supplied.
        similarity: mean cosine of the best neighbour.
        shuffled, shuffled_similarity: the same of the control.
    """

    visual_layers: tuple[int, ...]
    text_layers: tuple[int, ...]
    names: tuple[str, ...]
    k: int
    shares: Float[np.ndarray, "images visual text"]
    similarity: Float[np.ndarray, "images visual"]
    shuffled: Float[np.ndarray, "images visual text"]
    shuffled_similarity: Float[np.ndarray, "images visual"]

    @property
    def mean(self) -> Float[np.ndarray, "visual text"]:
        """Over the pictures, each counting as one."""
        return self.shares.mean(0)

    @property
    def control(self) -> Float[np.ndarray, "visual text"]:
        """The mean of the control over the pictures."""
        return self.shuffled.mean(0)

    @property
    def likeness(self) -> float:
        """Pearson's correlation of the matrix with its control, over all cells; NaN where one of them is constant."""
        if np.ptp(self.mean) == 0 or np.ptp(self.control) == 0:
            return float("nan")
        return float(np.corrcoef(self.mean.ravel(), self.control.ravel())[0, 1])

    @property
    def same_best(self) -> int:
        """At how many visual layers the control finds the same text layer most often."""
        return int((self.mean.argmax(1) == self.control.argmax(1)).sum())

    @property
    def explained(self) -> bool:
        """Whether the control looks almost like the matrix: ``likeness`` of at least :data:`ALMOST`, and the same best text
        layer at no smaller a share of the visual layers."""
        return self.likeness >= ALMOST and self.same_best >= ALMOST * len(self.visual_layers)

    def interval(self, visual: int, text: int) -> tuple[float, float]:
        """95 % bootstrap interval of a mean share over pictures, by layer numbers; of one picture that share itself."""
        values = self.shares[:, self.visual_layers.index(visual), self.text_layers.index(text)]
        return bootstrap_interval(values)


def align(
    held: Trace,
    index: Index,
    layers: Sequence[int] | None = None,
    *,
    k: int = 5,
    seed: int = 0,
    name: str = "",
    report: Report = silent,
) -> Alignment:
    """The matrix of one picture from its trace; a search for each layer, no forward.

    ``layers``: of the visual tokens, by default all.

    Raises:
        SiteMissing: a layer that the trace doesn't hold.
        StatesUnusable: NaN, infinities or zeros among the states.
        Cancelled: raised by ``report``.
    """
    wanted = tuple(range(held.depth + 1)) if layers is None else tuple(layers)
    positions = visual_grid(held.token_map).positions.reshape(-1)
    generator = np.random.default_rng(seed)
    rows = []
    for done, layer in enumerate(wanted):
        report(done, len(wanted), f"layer {layer}")
        states = held.hidden(layer)[positions].float().numpy()
        rows.append((*_shares(index, states, k), *_shares(index, shuffled(states, generator)[:SHUFFLED], k)))
    report(len(wanted), len(wanted), "aligned")
    shares, best, control, control_best = (np.array(column)[None] for column in zip(*rows, strict=True))
    return Alignment(wanted, index.layers, (name,), k, shares, best, control, control_best)


def align_pictures(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    index: Index,
    layers: Sequence[int] | None = None,
    *,
    count: int | None = None,
    k: int = 5,
    seed: int = 0,
    report: Report = silent,
) -> Alignment:
    """The matrix over several pictures; one forward for each, one picture in memory at a time.

    ``count``: how many pictures there are, for the progress alone.

    Raises:
        ImagesMissing: there is no picture.
        IndexMismatch: the index belongs to another language model.
        StatesUnusable, Cancelled: as :func:`align`.
    """
    check_model(index.name, index.manifest, loaded)
    many = list(_each(loaded, pictures, prompt, index, layers, count, k, seed, report))
    if not many:
        raise ImagesMissing("There is no picture to align; give at least one.")
    first = many[0]
    return Alignment(
        first.visual_layers,
        first.text_layers,
        tuple(one.names[0] for one in many),
        k,
        *(
            np.concatenate([getattr(one, field) for one in many])
            for field in ("shares", "similarity", "shuffled", "shuffled_similarity")
        ),
    )


def _each(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    index: Index,
    layers: Sequence[int] | None,
    count: int | None,
    k: int,
    seed: int,
    report: Report,
) -> Iterator[Alignment]:
    for number, picture in enumerate(pictures):
        total = max(count or number + 1, number + 1)
        report(number, total, picture.name)
        wanted = hidden_sites(loaded.anatomy.depth) if layers is None else [f"hidden.{layer}" for layer in layers]
        held = trace(loaded, encode(loaded, prompt, picture), wanted)
        share = part(report, number / total, (number + 1) / total)
        yield align(held, index, layers, k=k, seed=seed + number, name=picture.name, report=share)


def shuffled(states: Float[np.ndarray, "n d"], generator: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """Each dimension's values in an order of its own: the same marginals, and no token left whole."""
    return generator.permuted(states, axis=0)


def _shares(index: Index, states: Float[np.ndarray, "n d"], k: int) -> tuple[Float[np.ndarray, " text"], float]:
    """Share of the neighbours from each text layer, and the mean cosine of the best."""
    rows, similarity, layer = search_rows(index, states, k)
    found = layer[rows >= 0]
    counts = np.array([(found == text).sum() for text in index.layers], dtype=float)
    return counts / counts.sum(), float(similarity[:, 0].mean())
