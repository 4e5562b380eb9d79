"""Similarity of one state with the picture's tokens, at every layer of a trace.

A query is one vector per layer. *dot* is READ's and LISA's score, the plain product; *cosine* takes lengths out; *centred*
is the cosine after the mean of the picture's tokens has been taken from both sides, since states of one layer share a
large common part. Shown values are min-max over the tokens or z-scores, or those of a difference map
(:mod:`lens.segmaps.specificity`) as they are. At layer N states carry the final norm (:mod:`lens.backend.anatomy`), as in
READ.

Invariants: multiplying a query by a positive number changes no shown map but the centred one; a·s + b with a > 0 gives the
same shown values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.encoding import visual_grid
from lens.backend.readouts import check_states
from lens.backend.regions import Boxes, Size, resized, subdivide
from lens.backend.tracing import Trace
from lens.errors import LayerMissing, MapConstant

SIMILARITIES = ("dot", "cosine", "centred")
SCALES = ("min-max", "z-score", "difference")
FINE = 4
"""Cells of the raster of masks along a patch's side."""


@dataclass(frozen=True, eq=False)
class Query:
    """What the picture is compared with.

    Attributes:
        kind: ``"seg"``, ``"token"``, ``"word"``, ``"patch"``, or the name of a control.
        text: what it is, as one says it; untrusted.
        states: by layer, one vector.
        position: where in the sequence it is read; ``None`` for what is no single token of it.
        rule: ``"p-1"`` or ``"p"`` for a token at p: whether the state that led to it or its own is read.
    """

    kind: str
    text: str
    states: dict[int, Float[Tensor, " d"]]
    position: int | None = None
    rule: str | None = None


@dataclass(frozen=True, eq=False)
class SimilarityMap:
    """The similarity of one query with every patch at some layers.

    Attributes:
        name: of the query; untrusted text. kind, position, rule: as in :class:`Query`.
        similarity: one of :data:`SIMILARITIES`, or what else was measured.
        layers: ascending.
        raw: the similarity itself, one grid a layer.
        boxes, size: where the patches lie in the picture, and its (width, height).
        minus: for a difference map the control words whose mean map was taken away; empty for any other.
    """

    name: str
    kind: str
    similarity: str
    layers: tuple[int, ...]
    raw: Float[np.ndarray, "layers rows cols"]
    boxes: Boxes
    size: Size
    position: int | None = None
    rule: str | None = None
    minus: tuple[str, ...] = ()

    def at(self, layer: int) -> Float[np.ndarray, "rows cols"]:
        """The raw similarity at one layer."""
        if layer not in self.layers:
            raise LayerMissing(
                f"Layer {layer} was asked for, but this map has layers {self.layers[0]} to {self.layers[-1]}; choose one of "
                "these."
            )
        return self.raw[self.layers.index(layer)]

    def only(self, layer: int) -> SimilarityMap:
        """The map of one layer by itself."""
        return replace(self, layers=(layer,), raw=self.at(layer)[None])

    def shown(self, layer: int, scale: str = "min-max") -> Float[np.ndarray, "rows cols"]:
        """What is drawn: the map of one layer, scaled; :class:`MapConstant` for one that is the same everywhere.

        ``"difference"`` is for a difference map, and for nothing else."""
        if (scale == "difference") != bool(self.minus):
            raise ValueError(f"the scale {scale!r} doesn't fit a map minus {self.minus}")
        return scaled(self.at(layer), scale)


def similarity_map(trace: Trace, query: Query, similarity: str = "dot") -> SimilarityMap:
    """The map of a query at every layer that both the trace and the query have.

    Raises:
        CapabilityMissing: the trace has no visual tokens.
        StatesUnusable: NaN or infinities among the states; for a cosine also zeros.
    """
    grid = visual_grid(trace.token_map)
    held = {int(site.split(".")[1]) for site in trace.states if site.startswith("hidden.")}
    layers = tuple(sorted(held & set(query.states)))
    positions = grid.positions.reshape(-1)
    rows = [similarities(query.states[layer], trace.hidden(layer)[positions], similarity) for layer in layers]
    return SimilarityMap(
        name=query.text,
        kind=query.kind,
        similarity=similarity,
        layers=layers,
        raw=np.stack(rows).reshape(len(layers), grid.rows, grid.cols),
        boxes=grid.boxes,
        size=trace.token_map.image_size or (0, 0),
        position=query.position,
        rule=query.rule,
    )


def similarities(query: Float[Tensor, " d"], patches: Float[Tensor, "n d"], similarity: str) -> Float[np.ndarray, " n"]:
    """One of :data:`SIMILARITIES` of a vector with each of n, in float64."""
    if similarity not in SIMILARITIES:
        raise ValueError(f"expected a similarity of {SIMILARITIES}, got {similarity!r}")
    check_states(torch.cat([query[None].float().cpu(), patches.float().cpu()]), zeros=similarity != "dot")
    one, many = query.cpu().double(), patches.cpu().double()
    if similarity == "dot":
        return (many @ one).numpy()
    if similarity == "centred":
        mean = many.mean(0)
        one, many = one - mean, many - mean
    return torch.nn.functional.cosine_similarity(many, one[None], dim=-1, eps=1e-12).numpy()


def scaled(values: Float[np.ndarray, "rows cols"], scale: str = "min-max") -> Float[np.ndarray, "rows cols"]:
    """Values from 0 to 1, or with mean 0 and standard deviation 1, or as they are (``"difference"``); :class:`MapConstant`
    where they are all the same."""
    if scale not in SCALES:
        raise ValueError(f"expected a scale of {SCALES}, got {scale!r}")
    if not np.isfinite(values).all():
        raise MapConstant("The map holds values that are no numbers; choose another layer, or another query.")
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        raise MapConstant(
            f"The map is {low:.4g} at every patch, so that nothing stands out in it; choose another layer, or another query."
        )
    if scale == "difference":
        return values
    return (values - low) / (high - low) if scale == "min-max" else (values - values.mean()) / values.std()


def smooth(values: Float[np.ndarray, "*layers rows cols"]) -> Float[np.ndarray, "*layers fine_rows fine_cols"]:
    """The map on the raster of masks: bilinear between the patches' centres, as READ and LISA draw it."""
    return resized(values, FINE * values.shape[-2], FINE * values.shape[-1])


def fine_boxes(boxes: Boxes) -> Boxes:
    """Where the cells of :func:`smooth` lie in the picture."""
    return subdivide(boxes, FINE)


def relabelled(found: SimilarityMap, kind: str, name: str) -> SimilarityMap:
    """The same map under another name, for a control or a baseline."""
    return replace(found, kind=kind, name=name)
