"""The figures of the SEG maps page with the data behind them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from lens.backend.visible import visible
from lens.figures.latentlens import Profile, layer_profile
from lens.figures.multiples import value_multiples
from lens.figures.segmaps import Drawn, Layer, ScoreLine, map_multiples, map_overlay, score_curves
from lens.segmaps.maps import SimilarityMap, fine_boxes, smooth
from lens.segmaps.points import LABELS
from ui import export, mapstate
from ui.export import Exhibit
from ui.maps import Shown

ACROSS, WIDTH = 1160, 540
PARTS = {"smooth": "smooth", "contours": "contour lines", "points": "points", "mask": "mask"}
"""What can be drawn over the picture."""


@dataclass(frozen=True)
class Looks:
    """How the map is drawn: opacity, which of :data:`PARTS`, and how many contour lines."""

    opacity: float
    parts: tuple[str, ...]
    lines: int


def facts(shown: Shown, layer: int | str | None = None) -> dict[str, object]:
    """Where a figure of this page comes from that shows the map's values."""
    return {
        **of_query(shown, layer),
        "similarity": shown.similarity,
        **({"minus the mean map of": ", ".join(shown.found.minus)} if shown.found.minus else {}),
        **_specific(shown),
    }


def of_query(shown: Shown, layer: int | str | None = None) -> dict[str, object]:
    """Where a figure comes from that shows the query alone."""
    return {
        **export.provenance(shown.reader, None, shown.layer if layer is None else layer, "SEG map"),
        "answer": shown.asked.answer + (" (put into the model's mouth)" if shown.question.forced else ""),
        "query": query_name(shown.found, shown.word),
        "position of the query": "none" if shown.found.position is None else shown.found.position,
    }


def of_picture(shown: Shown) -> dict[str, object]:
    """Where a map over the picture comes from: with its scale, points and mask."""
    rule = shown.rule
    return {
        **facts(shown),
        "scale": shown.scale,
        "points": f"at most {rule.count}, positive from {rule.positive:g}, negative up to {rule.negative:g}, map made "
        f"coarser by {rule.down_sample}",
        "mask": f"{shown.raster.note}, above {shown.raster.threshold:.4g}, {shown.share:.1%} of the picture",
    }


def scored(shown: Shown, layer: int | str | None = None) -> dict[str, object]:
    """Where a figure comes from that compares the map with the reader's mask, where there is one."""
    own = mapstate.mask(shown.reader)
    if own is None:
        return facts(shown, layer)
    return {**facts(shown, layer), "compared with": f"the reader's mask, {own.mask.inside.mean():.1%} of the picture, "
            f"sha256 {own.key[:16]}"}  # fmt: skip


def _specific(shown: Shown) -> dict[str, object]:
    """What the control words said of the map, where they were tried."""
    found = shown.reading.specific
    if found is None:
        return {}
    alike = ", ".join(f"{word} {r:.3f}" for word, r in found.alike.items())
    return {f"specific to {found.word}": found.verdict, "r with the maps of control words": alike}


def query_name(found: SimilarityMap, word: str = "") -> str:
    """The query in words: its text, the ``word`` that it is a part of, and which state of it was read."""
    name = visible(found.name) if found.kind == "token" else found.name.strip()
    if found.kind in ("token", "word"):
        name = f"“{name}”"
    whole = f" of “{word}”" if found.kind == "token" and word not in ("", found.name.strip()) else ""
    return ("typed " if found.kind == "word" else "") + name + whole + (f" at {found.rule}" if found.rule else "")


def overlay(shown: Shown, looks: Looks, patch: tuple[int, int]) -> Exhibit:
    """The map over the picture; the patch is outlined where it is the query."""
    reading, found = shown.reading, shown.found
    source = of_picture(shown)
    paint = Layer(smooth(reading.shown), fine_boxes(found.boxes)) if "smooth" in looks.parts else None
    picture = str(source["image sha256"])[:8]
    name = query_name(found, shown.word) + (" minus control words" if found.minus else "")
    title = f"{name}, {shown.similarity} · layer {shown.layer} · {source['model']} · image {picture}"
    quantity = _quantity(shown) + ("" if found.minus else f", {shown.scale}")
    figure = map_overlay(
        shown.reader.picture.image, found.boxes, reading.shown, name=quantity, paint=paint, opacity=looks.opacity,
        drawn=_drawn(shown, looks), width=WIDTH, title=title,
        selected=[patch] if found.kind == "patch" else [],
    )  # fmt: skip
    raw = found.at(shown.layer)
    rows: list[dict[str, object]] = [
        {"row": r, "col": c, shown.scale: value, shown.measure: raw[r, c]}
        for (r, c), value in np.ndenumerate(reading.shown)
    ]
    source |= {"drawn": ", ".join(looks.parts) or "patches", "opacity": looks.opacity}
    if "contours" in looks.parts:
        source["contour lines at"] = ", ".join(f"{level:.3g}" for level in _levels(shown, looks))
    return Exhibit("segmap", f"Similarity of each patch with {name}", figure, lambda: rows, source)


def _quantity(shown: Shown) -> str:
    """What the map's values are, for a colour bar."""
    return f"{shown.similarity}, difference of z-scores" if shown.found.minus else f"{shown.similarity} similarity"


def _drawn(shown: Shown, looks: Looks) -> Drawn:
    """What is drawn over the map."""
    parts = looks.parts
    points = [(point.x, point.y, LABELS[point.label]) for point in shown.points] if "points" in parts else []
    return Drawn(
        contours=_levels(shown, looks) if "contours" in parts else (),
        points=points,
        found=shown.raster.mask if "mask" in parts else None,
        wanted=shown.reading.wanted.inside if shown.reading.wanted else None,
    )


def _levels(shown: Shown, looks: Looks) -> list[float]:
    """Values at which a contour line stands: evenly between the lowest and the highest."""
    fine = smooth(shown.reading.shown) if "smooth" in looks.parts else shown.reading.shown
    return np.linspace(fine.min(), fine.max(), looks.lines + 2)[1:-1].tolist()


def curve(shown: Shown) -> Exhibit:
    """The layers: how well each map finds the reader's mask, or while there is none how far its highest patch stands out."""
    scores = shown.reading.scores
    if scores is not None:
        names = ("iou", "auc", "pointing")
        line = ScoreLine(
            query_name(shown.found, shown.word), scores.layers, {name: scores.curve(name).tolist() for name in names}
        )
        figure = score_curves([line], mark=shown.layer, width=ACROSS, height=200)
        rows: list[dict[str, object]] = [
            {"layer": layer, **{name: getattr(score, name) for name in names}}
            for layer, score in zip(scores.layers, scores.scores, strict=True)
        ]
        return Exhibit("curve", "Scores of the map at every layer", figure, lambda: rows, scored(shown, "all"))
    peaks = [_peak(grid) for grid in shown.found.raw]
    words = tuple(f"{row},{col}" for row, col, _ in peaks)
    profile = Profile("Highest patch", shown.found.layers, tuple(peak for *_, peak in peaks), words, "z-score")
    figure = layer_profile([profile], selected_layer=shown.layer, width=ACROSS)
    rows = [
        {"layer": layer, "row": row, "col": col, "z-score": peak}
        for layer, (row, col, peak) in zip(shown.found.layers, peaks, strict=True)
    ]
    return Exhibit(
        "curve", "How far the highest patch stands out, at every layer", figure, lambda: rows, facts(shown, "all")
    )


def _peak(grid: np.ndarray) -> tuple[int, int, float]:
    """Row and column of the highest patch, and its z-score; 0 on a constant map."""
    row, col = divmod(int(grid.argmax()), grid.shape[1])
    spread = float(grid.std())
    return row, col, float(grid.max() - grid.mean()) / spread if spread else 0.0


def every_layer(shown: Shown) -> Exhibit:
    """The map at each layer, small; the same for every layer in view, so that moving along the layers draws nothing anew."""
    found = shown.found

    def rows() -> list[dict[str, object]]:
        return [
            {"layer": layer, "row": r, "col": c, shown.measure: value}
            for layer, grid in zip(found.layers, found.raw, strict=True)
            for (r, c), value in np.ndenumerate(grid)
        ]

    less = " minus control words" if found.minus else ""
    title = f"Similarity with {query_name(found, shown.word)}{less} at every layer"
    return Exhibit("every-layer", title, _every_layer(found, _quantity(shown), shown.key), rows, facts(shown, "all"))


@st.cache_resource(max_entries=16, show_spinner=False)
def _every_layer(_found: SimilarityMap, name: str, content: Hashable) -> go.Figure:
    values = dict(zip(_found.layers, _found.raw, strict=True))
    return value_multiples(values, name=name, width=ACROSS)


def each_seg(shown: Shown, maps: Mapping[str, SimilarityMap]) -> Exhibit:
    """One map for every <SEG> of the answer, by its name."""
    grids = {name: found.at(shown.layer) for name, found in maps.items()}
    noted = {name: (grid, f"{grid.min():.3g} to {grid.max():.3g}") for name, grid in grids.items()}
    figure = map_multiples(shown.reader.picture.image, shown.found.boxes, noted, width=WIDTH)
    rows = [
        {"query": name, "row": r, "col": c, shown.similarity: value}
        for name, grid in grids.items()
        for (r, c), value in np.ndenumerate(grid)
    ]
    source = {**of_query(shown), "query": ", ".join(maps), "similarity": shown.similarity}
    source["position of the query"] = ", ".join(str(found.position) for found in maps.values())
    return Exhibit("each-seg", "One map for each <SEG> of the answer", figure, lambda: rows, source)
