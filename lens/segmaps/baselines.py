"""What a similarity map must beat, as maps of the same kind, so that they are drawn and scored alike.

Some know the words (class-word token, mean text token, attention rollout); some are deaf to them (the picture's centre,
whatever stands out, chance); and one knows the mask, which is the most that a grid of patches can reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lens.backend.attention import attention_rollout
from lens.backend.encoding import visual_grid, visual_order
from lens.backend.loading import LoadedModel
from lens.backend.maskfiles import Mask
from lens.backend.regions import areas, covered
from lens.backend.tracing import Trace
from lens.segmaps.asking import Asked, find_word, mean_text_query, token_query
from lens.segmaps.maps import SimilarityMap, relabelled, similarity_map

NOTES = {
    "class word": "The state at the word itself in the prompt, in place of <SEG>.",
    "mean text": "The mean state of all text tokens: what any text is similar to.",
    "rollout": "Attention followed from the query back to the patches (Abnar and Zuidema 2020).",
    "centre": "Nearness to the middle of the picture, whatever it shows.",
    "all objects": "Everything together, whichever is asked for.",
    "stands out": "How far a patch is from the mean patch: deaf to the words.",
    "random": "Noise: a map by chance.",
    "oracle": "The mask itself on the grid of patches: the most that any map can reach.",
}
"""Baselines by the ``kind`` of their map."""


def class_word(asked: Asked, word: str, similarity: str = "dot") -> SimilarityMap:
    """The word's last token in the prompt as the query; :class:`QueryMissing` where it isn't there."""
    found = similarity_map(asked.trace, token_query(asked, find_word(asked, word)), similarity)
    return relabelled(found, "class word", f"the word {word}")


def mean_text(asked: Asked, similarity: str = "dot") -> SimilarityMap:
    """The mean text token as the query."""
    return relabelled(similarity_map(asked.trace, mean_text_query(asked), similarity), "mean text", "mean text token")


def rollout(loaded: LoadedModel, asked: Asked, position: int) -> SimilarityMap:
    """Attention rollout to one position, in one more forward; layers from 1, since at layer 0 nothing has flowed.

    :class:`CapabilityMissing` for a model that gives no attention weights.
    """
    grid = visual_grid(asked.token_map)
    flow = attention_rollout(loaded, asked.encoded, position)[1:]
    raw = flow[:, visual_order(asked.token_map)].astype(float).reshape(len(flow), grid.rows, grid.cols)
    return _like(asked.trace, raw, "rollout", "attention rollout", range(1, len(flow) + 1))


def centre_prior(trace: Trace) -> SimilarityMap:
    """A Gaussian around the middle of the picture, a quarter of each side wide."""
    boxes = visual_grid(trace.token_map).boxes
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = (middle / np.array(trace.token_map.image_size) - 0.5) / 0.25
    return _everywhere(trace, np.exp(-(away**2).sum(-1) / 2), "centre", "centre of the picture")


def stands_out(trace: Trace) -> SimilarityMap:
    """The distance of each patch from the mean patch, at each layer."""
    grid = visual_grid(trace.token_map)
    positions = grid.positions.reshape(-1)
    rows = []
    for layer in range(trace.depth + 1):
        states = trace.hidden(layer)[positions].double()
        rows.append((states - states.mean(0)).norm(dim=-1).numpy().reshape(grid.rows, grid.cols))
    return _like(trace, np.stack(rows), "stands out", "what stands out", range(trace.depth + 1))


def oracle(trace: Trace, mask: Mask, kind: str = "oracle") -> SimilarityMap:
    """The share of each patch that a mask covers. With the mask of all objects together and ``kind="all objects"``, the
    baseline of a method that finds objects and doesn't listen."""
    boxes = visual_grid(trace.token_map).boxes
    area = areas(boxes)
    share = np.where(area > 0, covered(mask.inside, boxes) / np.maximum(area, 1e-9), 0.0)
    return _everywhere(trace, share, kind, "all objects" if kind == "all objects" else "the mask on this grid")


def random_map(trace: Trace, seed: int = 0) -> SimilarityMap:
    """Noise, other at each layer, seeded."""
    grid = visual_grid(trace.token_map)
    raw = np.random.default_rng(seed).random((trace.depth + 1, grid.rows, grid.cols))
    return _like(trace, raw, "random", "chance", range(trace.depth + 1))


def _everywhere(trace: Trace, values: Float[np.ndarray, "rows cols"], kind: str, name: str) -> SimilarityMap:
    """A map that is the same at every layer."""
    raw = np.broadcast_to(values, (trace.depth + 1, *values.shape))
    return _like(trace, raw, kind, name, range(trace.depth + 1))


def _like(trace: Trace, raw: np.ndarray, kind: str, name: str, layers: Sequence[int]) -> SimilarityMap:
    grid = visual_grid(trace.token_map)
    size = trace.token_map.image_size or (0, 0)
    return SimilarityMap(name, kind, kind, tuple(layers), raw, grid.boxes, size)
