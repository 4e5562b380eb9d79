"""Class fractions over many pictures, with bootstrap intervals.

The picture is the unit, since tokens of one picture depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import CLASSES
from lens.embedlens.folder import classified
from lens.progress import Report, silent
from lens.statistics import bootstrap_interval


@dataclass(frozen=True, eq=False)
class ClassFractions:
    """How large each class is over some pictures.

    Attributes:
        shares: by class, its share of each picture's visual tokens; in each picture they add up to 1.
        overlaps: share of each picture's visual tokens that are both sink and dead.
        mean, interval: by class, over pictures; the interval is the 95 % percentile bootstrap of the mean.
    """

    images: int
    layer: int
    rule: int
    min_cosine: float
    shares: dict[str, Float[np.ndarray, " images"]]
    overlaps: Float[np.ndarray, " images"]
    mean: dict[str, float]
    interval: dict[str, tuple[float, float]]


def class_fractions(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    anchors: Anchors,
    *,
    layer: int = 0,
    rule: int = 3,
    min_cosine: float = 0.0,
    seed: int = 0,
    report: Report = silent,
) -> ClassFractions:
    """Classify every visual token of ``pictures``, one picture in memory at a time.

    Raises:
        ImagesMissing: no picture could be read.
        Cancelled: raised by ``report``.
    """
    rows: list[list[float]] = []
    for _, classes in classified(loaded, pictures, prompt, anchors, layer, rule, min_cosine, report):
        rows.append([*(classes.fractions[name] for name in CLASSES), classes.overlap / classes.labels.size])
    *columns, overlaps = np.array(rows).T
    shares: dict[str, np.ndarray] = dict(zip(CLASSES, columns, strict=True))
    return ClassFractions(
        images=len(rows),
        layer=layer,
        rule=rule,
        min_cosine=min_cosine,
        shares=shares,
        overlaps=overlaps,
        mean={name: float(values.mean()) for name, values in shares.items()},
        interval={name: bootstrap_interval(values, seed=seed) for name, values in shares.items()},
    )
