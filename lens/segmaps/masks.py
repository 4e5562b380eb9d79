"""Masks from similarity maps and from models' mask heads, on one raster.

A mask is where a raster's values exceed a threshold. The raster of a map is :func:`lens.segmaps.maps.smooth`; a head gives
one of its own. What the encoder never saw is outside every mask.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from lens.backend.loading import LoadedModel
from lens.backend.regions import Boxes, Size, areas, painted, subdivide
from lens.backend.tracing import Trace
from lens.errors import MapConstant
from lens.segmaps.maps import SimilarityMap, fine_boxes, scaled, smooth

BESIDE = {"mask_head/settings.json": "lens.segmaps.samhead:open_sam_head"}
"""What opens a head, by the file that tells of it in a model's folder."""
RULES = ("otsu", "quantile", "value")
QUANTILE = 0.8
LITTLE = 0.01
"""A share of the picture below which a mask head is said to find next to nothing."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Values on a grid over the picture, and the threshold above which they are a mask.

    Attributes:
        values: of each cell.
        boxes: where the cells lie; ``None`` where they are the picture's own pixels.
        threshold: cells of values above it are inside.
        note: where the threshold comes from.
    """

    values: Float[np.ndarray, "rows cols"]
    boxes: Boxes | None
    size: Size
    threshold: float
    note: str

    @property
    def cells(self) -> Bool[np.ndarray, "rows cols"]:
        return self.values > self.threshold

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask's pixels."""
        return self.cells if self.boxes is None else painted(self.cells, self.boxes, self.size)

    @property
    def share(self) -> float:
        """The share of the picture that the mask takes."""
        if self.boxes is None:
            return float(self.cells.mean())
        return float(areas(self.boxes)[self.cells].sum()) / (self.size[0] * self.size[1])


class MaskHead(Protocol):
    """A model's own mask decoder for the state of its <SEG> token."""

    def sites(self) -> tuple[str, ...]:
        """What it needs of a trace, in the words of :mod:`lens.backend.tracing`."""
        ...

    def logits(self, trace: Trace, positions: tuple[int, ...]) -> Float[np.ndarray, "masks rows cols"]:
        """Logits of one mask for the <SEG> at each position; positive is inside. On a grid that divides the trace's patch
        grid evenly, or on the pixels of the trace's picture."""
        ...


def open_head(loaded: LoadedModel) -> MaskHead | None:
    """The mask head that the catalog names for a model, or that lies beside its weights, opened; ``None`` where there is
    none."""
    beside = next((opener for path, opener in BESIDE.items() if (Path(loaded.spec.source) / path).is_file()), None)
    opener = loaded.spec.mask_head or beside
    if opener is None:
        return None
    module, function = opener.split(":")
    return getattr(importlib.import_module(module), function)(loaded)


def map_raster(found: SimilarityMap, layer: int, rule: str = "otsu", number: float | None = None) -> Raster:
    """The map of one layer as a mask.

    ``rule``: ``"otsu"``; ``"quantile"``, ``number`` being the share of the raster that stays outside; or ``"value"``,
    ``number`` being a min-max similarity from 0 to 1. Raises MapConstant.
    """
    values = scaled(smooth(scaled(found.at(layer))))
    threshold, note = threshold_of(values, rule, number)
    return Raster(values, fine_boxes(found.boxes), found.size, threshold, note)


def threshold_of(values: Float[np.ndarray, "rows cols"], rule: str, number: float | None = None) -> tuple[float, str]:
    """A threshold by one of :data:`RULES`, and how it was found in words."""
    if rule == "otsu":
        return otsu(values), "Otsu's threshold"
    if rule not in RULES:
        raise ValueError(f"expected a rule of {RULES}, got {rule!r}")
    number = (QUANTILE if rule == "quantile" else 0.5) if number is None else number
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, got {number}")
    if rule == "quantile":
        return float(np.quantile(values, number)), f"the highest {1 - number:.0%} of the map"
    return number, f"similarity above {number:.2f}"


def otsu(values: Float[np.ndarray, "*n"]) -> float:
    """Otsu's threshold (1979): where the variance between the two sides is largest, n0 · n1 · (m0 - m1)².

    Exact, over every way to part the sorted values, without a histogram; halfway between the two values that are parted.
    Raises MapConstant where all are the same.
    """
    ordered = np.sort(np.asarray(values, dtype=float).reshape(-1))
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    between = (
        below * (len(ordered) - below) * (sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)) ** 2
    )
    between[ordered[1:] <= ordered[:-1]] = -1.0  # equal values can't be parted
    if not len(between) or between.max() <= 0:
        raise MapConstant(
            "The map is the same everywhere, so that no threshold parts it; choose another layer or query."
        )
    at = int(between.argmax())
    return float((ordered[at] + ordered[at + 1]) / 2)


def head_rasters(head: MaskHead, trace: Trace, found: SimilarityMap, positions: tuple[int, ...]) -> tuple[Raster, ...]:
    """The masks that a model's own head makes of the states at some positions, one each."""
    rasters = []
    for logits in head.logits(trace, positions):
        pixels = logits.shape == found.size[::-1]
        boxes = None if pixels else subdivide(found.boxes, logits.shape[0] // found.raw.shape[1])
        rasters.append(Raster(np.asarray(logits, dtype=float), boxes, found.size, 0.0, "the model's mask head"))
    return tuple(rasters)
