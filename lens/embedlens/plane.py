"""Visual tokens as points of a plane, with their classes: those of one picture, or of several in one map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.backend import maps
from lens.backend.encoding import visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import TokenClasses
from lens.embedlens.folder import classified
from lens.progress import Report, part, silent


@dataclass(frozen=True, eq=False)
class TokenPlane:
    """Visual tokens at one layer, picture by picture in reading order.

    Attributes:
        planes: by method, the points.
        labels: the class of each token.
        picture: of which picture each token is, counted from 0.
        explained: shares of the variance that the two axes of the PCA hold.
    """

    planes: dict[str, Float[np.ndarray, "n 2"]]
    labels: np.ndarray
    picture: Int[np.ndarray, " n"]
    explained: tuple[float, float]


def picture_plane(held: Trace, classes: TokenClasses) -> TokenPlane:
    """One picture's tokens by PCA, at the layer at which they were classified."""
    plane, explained = maps.pca(_states(held, classes.layer))
    return TokenPlane({"PCA": plane}, classes.labels.reshape(-1), np.zeros(len(plane), int), explained)


def pictures_plane(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    anchors: Anchors,
    *,
    layer: int = 0,
    rule: int = 3,
    min_cosine: float = 0.0,
    report: Report = silent,
) -> TokenPlane:
    """The tokens of several pictures by PCA and by UMAP.

    Raises:
        ImagesMissing: no picture could be read.
        Cancelled: raised by ``report``.
    """
    states, labels = [], []
    stream = classified(loaded, pictures, prompt, anchors, layer, rule, min_cosine, part(report, 0, 0.7))
    for each, classes in stream:
        states.append(_states(each.held, layer))
        labels.append(classes.labels.reshape(-1))
    everything = np.concatenate(states)
    planes, explained = maps.planes(everything, part(report, 0.7, 1))
    picture = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    return TokenPlane(planes, np.concatenate(labels), picture, explained)


def _states(held: Trace, layer: int) -> Float[np.ndarray, "visual d"]:
    return held.hidden(layer)[visual_grid(held.token_map).positions.reshape(-1)].float().numpy()
