"""How the classes fare through the layers of one picture, and how alike they are across pictures.

Curves are means over the visual tokens of a class, with a percentile bootstrap over those tokens: tokens of one picture
depend on each other, so the intervals speak of this picture and not of pictures in general. Classes are those of one layer,
followed through all: a token keeps its class along a curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int

from lens.backend.encoding import visual_grid, visual_order
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import CLASSES
from lens.embedlens.folder import classified
from lens.embedlens.probe import probe, unit_rows
from lens.progress import Report, silent
from lens.statistics import bootstrap_interval

QUANTITIES = {
    "norm": "Norm of the state",
    "cosine": "Cosine with the layer before",
    "attention": "Attention from the text",
    "stability": "Nearest word as one layer before",
}
RESAMPLES = 500
"""Of each interval: one is drawn per class, quantity and layer."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One quantity of one class; ``low`` and ``high`` hold the 95 % bootstrap interval of the mean over tokens."""

    layers: tuple[int, ...]
    mean: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]


@dataclass(frozen=True, eq=False)
class CrossImage:
    """Mean cosine between the tokens of a class in two pictures.

    Attributes:
        names: of the pictures, in the matrices' order.
        matrices: by class, [images, images]. On the diagonal a picture's tokens are compared with one another, none with
            itself. NaN where there is no pair.
    """

    names: tuple[str, ...]
    matrices: dict[str, Float[np.ndarray, "images images"]]


def quantities(
    held: Trace,
    attention: Float[np.ndarray, "blocks visual"] | None = None,
    words: Int[np.ndarray, "layers visual"] | None = None,
) -> dict[str, tuple[int, Float[np.ndarray, "layers visual"]]]:
    """By name of :data:`QUANTITIES`: its first layer, and its value for each visual token from that layer on.

    Args:
        held: with every layer.
        attention: of :func:`lens.backend.attention.attention_received`; block i stands at layer i. Without it there is no
            such quantity.
        words: of :func:`nearest_words`; without it there is no stability.

    The cosine at layer N compares the state after the final norm with that before the last block.
    """
    tables = {"norm": (0, norms(held)), "cosine": (1, turns(held))}
    if attention is not None:
        tables["attention"] = (1, attention[:, visual_order(held.token_map)])
    if words is not None:
        tables["stability"] = (1, (words[1:] == words[:-1]).astype(float))
    return tables


def curves(
    tables: Mapping[str, tuple[int, Float[np.ndarray, "layers visual"]]], labels: np.ndarray, seed: int = 0
) -> dict[str, dict[str, Curve]]:
    """By quantity and class: the curve over the layers of the :func:`quantities`. A class without tokens has none.

    ``labels``: the class of each patch, [rows, cols].
    """
    flat = labels.reshape(-1)
    return {
        quantity: {name: _curve(first, table[:, flat == name], seed) for name in CLASSES if (flat == name).any()}
        for quantity, (first, table) in tables.items()
    }


def norms(held: Trace) -> Float[np.ndarray, "layers visual"]:
    """Euclidean norm of each visual token at layers 0..N."""
    positions = visual_grid(held.token_map).positions.reshape(-1)
    return np.stack([held.hidden(i)[positions].float().norm(dim=-1).numpy() for i in range(held.depth + 1)])


def turns(held: Trace) -> Float[np.ndarray, "layers visual"]:
    """Cosine of each visual token at layers 1..N with itself one layer before."""
    positions = visual_grid(held.token_map).positions.reshape(-1)
    units = [unit_rows(held.hidden(i)[positions]) for i in range(held.depth + 1)]
    return np.stack([(a * b).sum(-1).numpy() for a, b in pairwise(units)])


def nearest_words(loaded: LoadedModel, held: Trace, report: Report = silent) -> Int[np.ndarray, "layers visual"]:
    """Id of the nearest vocabulary entry of each visual token at layers 0..N: one product with the vocabulary per layer,
    the dearest step of this module."""
    positions = visual_grid(held.token_map).positions.reshape(-1)
    found = []
    for layer in range(held.depth + 1):
        report(layer, held.depth + 1, f"nearest words at layer {layer}")
        found.append(probe(loaded, held.hidden(layer)[positions], 1).ids[:, 0])
    return np.stack(found)


def cross_image(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    anchors: Anchors,
    *,
    layer: int = 0,
    rule: int = 3,
    min_cosine: float = 0.0,
    report: Report = silent,
) -> CrossImage:
    """Compare the classes' tokens across pictures; one picture in memory at a time, and one vector per class of each.

    Raises:
        ImagesMissing: no picture could be read.
        Cancelled: raised by ``report``.
    """
    names: list[str] = []
    sums: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    counts: dict[str, list[int]] = {name: [] for name in CLASSES}
    for each, classes in classified(loaded, pictures, prompt, anchors, layer, rule, min_cosine, report):
        labels = classes.labels.reshape(-1)
        units = unit_rows(each.held.hidden(layer)[visual_grid(each.held.token_map).positions.reshape(-1)])
        names.append(each.picture.name)
        for name in CLASSES:
            chosen = units[torch.from_numpy(labels == name)]
            sums[name].append(chosen.double().sum(0).numpy())
            counts[name].append(len(chosen))
    return CrossImage(tuple(names), {n: mean_cosines(np.array(sums[n]), np.array(counts[n])) for n in CLASSES})


def mean_cosines(
    sums: Float[np.ndarray, "images d"], counts: Int[np.ndarray, " images"]
) -> Float[np.ndarray, "images images"]:
    """Mean cosine over all pairs of different unit vectors, from each image's sum of them: S_a . S_b over n_a n_b pairs, and
    within an image (|S|^2 - n) over n (n - 1)."""
    products = sums @ sums.T - np.diag(counts)
    pairs = np.outer(counts, counts) - np.diag(counts)
    return np.where(pairs > 0, products / np.maximum(pairs, 1), np.nan)


def _curve(first: int, table: Float[np.ndarray, "layers tokens"], seed: int) -> Curve:
    bounds = np.array([bootstrap_interval(row, resamples=RESAMPLES, seed=seed) for row in table])
    return Curve(tuple(range(first, first + len(table))), table.mean(1), bounds[:, 0], bounds[:, 1])
