"""A whole reading of one query at one layer: map, points, mask and scores together, as the page and the command line show
it, and as it is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.backend.maskfiles import Mask
from lens.segmaps.asking import Asked
from lens.segmaps.maps import SimilarityMap
from lens.segmaps.masks import Raster, map_raster
from lens.segmaps.points import LABELS, READ_7B, Point, PointRule, grid_points, inside_share
from lens.segmaps.scores import LayerScores, raster_iou, score_layers
from lens.segmaps.specificity import Specificity


@dataclass(frozen=True, eq=False)
class MapReading:
    """One query at one layer.

    Attributes:
        shown: the scaled map. points: READ's, where the patches truly are. raster: the mask of the map.
        heads: the masks that the model's own head gives, with the one of this query first; may be empty.
        scores: of the map at every layer; ``None`` without a mask to compare with.
        wanted: that mask.
        specific: what the control words said of the map; ``None`` where none was tried.
    """

    asked: Asked
    found: SimilarityMap
    layer: int
    scale: str
    shown: Float[np.ndarray, "rows cols"]
    points: tuple[Point, ...]
    raster: Raster
    heads: tuple[Raster, ...] = ()
    scores: LayerScores | None = None
    wanted: Mask | None = None
    specific: Specificity | None = None


def read_map(
    asked: Asked,
    found: SimilarityMap,
    layer: int,
    *,
    scale: str = "min-max",
    points: PointRule = READ_7B,
    threshold: tuple[str, float | None] = ("otsu", None),
    heads: Sequence[Raster] = (),
    wanted: Mask | None = None,
) -> MapReading:
    """Everything about one layer of a map; no forward is run.

    ``threshold``: rule and number of :func:`lens.segmaps.masks.map_raster`. Raises LayerMissing, MapConstant.
    """
    values = found.at(layer)
    return MapReading(
        asked=asked,
        found=found,
        layer=layer,
        scale=scale,
        shown=found.shown(layer, scale),
        points=grid_points(values, found.boxes, found.size, points),
        raster=map_raster(found, layer, *threshold),
        heads=tuple(heads),
        scores=score_layers(found, wanted) if wanted is not None else None,
        wanted=wanted,
    )


def as_json(reading: MapReading, model: str) -> dict:
    """The reading as it is exported. Numbers that don't exist are null."""
    found = reading.found
    width, height = found.size
    return {
        "model": model,
        "prompt": reading.asked.encoded.prompt,
        "answer": reading.asked.answer,
        "query": {"kind": found.kind, "text": found.name, "position": found.position, "token_rule": found.rule},
        "segs": len(reading.asked.segs),
        "image": {"width": width, "height": height},
        "grid": {"rows": found.raw.shape[1], "cols": found.raw.shape[2]},
        "layer": reading.layer,
        "similarity": found.similarity,
        "scale": reading.scale,
        "minus_mean_of": list(found.minus),
        "specific": _specific(reading.specific),
        "map": [[round(float(value), 6) for value in row] for row in reading.shown],
        "points": [{"x": round(p.x, 2), "y": round(p.y, 2), "label": LABELS[p.label]} for p in reading.points],
        "mask": {
            "threshold": round(reading.raster.threshold, 6),
            "rule": reading.raster.note,
            "share": round(float(reading.raster.mask.mean()), 6),
        },
        "mask_heads": [
            {"share": round(float(head.mask.mean()), 6), "highest_logit": round(float(head.values.max()), 6)}
            for head in reading.heads
        ],
        "scores": _scores(reading),
        "layers": _layers(reading.scores),
    }


def _specific(found: Specificity | None) -> dict | None:
    if found is None:
        return None
    alike = {word: _number(r) for word, r in found.alike.items()}
    return {"word": found.word, "verdict": found.verdict, "r_with_control_words": alike}


def _scores(reading: MapReading) -> dict | None:
    if reading.scores is None or reading.wanted is None:
        return None
    at = reading.scores.at(reading.layer)
    out: dict = {"iou": _number(raster_iou(reading.raster, reading.wanted))}
    out |= {name: _number(getattr(at, name)) for name in ("auc", "pointing", "best_iou")}
    out["points_inside"] = {k: _number(v) for k, v in inside_share(reading.points, reading.wanted.inside).items()}
    if reading.heads:
        out["mask_head_iou"] = _number(raster_iou(reading.heads[0], reading.wanted))
    return out


def _layers(scores: LayerScores | None) -> list[dict] | None:
    if scores is None:
        return None
    names = ("iou", "auc", "pointing", "best_iou")
    return [
        {"layer": layer, **{name: _number(getattr(each, name)) for name in names}}
        for layer, each in zip(scores.layers, scores.scores, strict=True)
    ]


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
