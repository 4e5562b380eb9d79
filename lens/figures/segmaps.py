"""The figures of the SEG maps page: a map over the picture with contours, points and masks, and the scores of maps.

A map comes as ``values`` [rows, cols] on ``boxes`` [rows, cols, 4], pixels of the picture; what no box covers, the encoder
never saw, and it is hatched (:mod:`lens.figures.canvas`). What a map draws beside the patches answers to no pointer, so
that a click always means a patch. Foreign text passes :func:`lens.figures.theme.label`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lens.figures.canvas import MARGIN, Cell, clickable, colour_bar, outline, picture_figure, scale_of
from lens.figures.contours import Segments, contour_segments, mask_segments
from lens.figures.multiples import panel_grid
from lens.figures.theme import CATEGORIES, INK, colours, label, limits, new_figure

LEGEND = 34
"""Pixels below a map that the legend of its points takes."""
POINTS = {
    "positive": ("circle", "#009E73"),
    "negative": ("x", "#D55E00"),
    "neutral": ("diamond", "#8c959f"),
}
"""Marker and colour of a point by its label."""
MASK, WANTED = "#CC79A7", "#56B4E9"
"""Outlines of the mask that a map gives, and of the reader's."""
MEASURES = {"iou": "IoU at Otsu's threshold", "auc": "AUC", "pointing": "Pointing game"}


@dataclass(frozen=True, eq=False)
class Layer:
    """What is painted: values and where they lie; finer than the patches for a smooth map."""

    values: np.ndarray
    boxes: np.ndarray

    def cells(self, opacity: float) -> np.ndarray:
        """uint8 RGBA of the common scale."""
        low, high = limits(self.values)
        painted = np.empty((*self.values.shape, 4), dtype=np.uint8)
        painted[..., :3] = colours(self.values, low, high)
        painted[..., 3] = round(255 * opacity)
        return painted


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is drawn over a map; every part may be missing.

    Attributes:
        contours: values of the painted layer at which a line stands.
        points: (x, y, label) with a label of :data:`POINTS`.
        found: the mask that the map gives, bool [h, w]. wanted: the reader's.
    """

    contours: Sequence[float] = ()
    points: Sequence[tuple[float, float, str]] = ()
    found: np.ndarray | None = None
    wanted: np.ndarray | None = None

    def outlined(self) -> list[tuple[str, np.ndarray, str]]:
        """The masks that are there, each with its name and colour."""
        masks = (("mask", self.found, MASK), ("your mask", self.wanted, WANTED))
        return [(name, mask, colour) for name, mask, colour in masks if mask is not None and mask.any()]

    def lines(self, layer: Layer, size: tuple[int, int]) -> list[tuple[Segments, str, float]]:
        """Line segments with colour and width, in pixels of the picture."""
        lines = [(contour_segments(layer.values, layer.boxes, level), "#ffffff", 1.2) for level in self.contours]
        return lines + [(mask_segments(mask, size), colour, 2.5) for _, mask, colour in self.outlined()]


NOTHING = Drawn()


@dataclass(frozen=True)
class ScoreLine:
    """The scores of one map over the layers: by measure of :data:`MEASURES`, one value a layer, NaN where there is none."""

    name: str
    layers: tuple[int, ...]
    values: Mapping[str, Sequence[float]]


def map_overlay(
    image: Image.Image,
    boxes: np.ndarray,
    values: np.ndarray,
    *,
    name: str,
    paint: Layer | None = None,
    opacity: float = 0.6,
    drawn: Drawn = NOTHING,
    details: Sequence[Sequence[str]] | None = None,
    selected: Collection[Cell] = (),
    width: int = 640,
    title: str = "",
) -> go.Figure:
    """A map over the photo, its patches clickable: the trace named "patches" has [row, col] as customdata.

    ``paint``: what is painted in place of the patches' own values, such as the smooth map. ``name``: of the quantity, for
    the colour bar. ``details``: further lines of a patch's hover box, already escaped. Raises PatchOutsideGrid.
    """
    layer = paint or Layer(values, boxes)
    heading = label(title, 200) if title else ""
    figure = picture_figure(image, layer.boxes, layer.cells(opacity), width, bar=True, title=heading)
    for segments, colour, thick in drawn.lines(layer, image.size):
        if len(segments):
            for shade, wide in ((INK, thick + 1.6), (colour, thick)):
                figure.add_shape(type="path", path=svg_path(segments), line={"color": shade, "width": wide})
    outline(figure, boxes, selected)
    hover = [[_hover(values, name, details, r, c) for c in range(values.shape[1])] for r in range(values.shape[0])]
    clickable(figure, boxes, hover, scale_of(image, width, bar=True))
    colour_bar(figure, *limits(layer.values), label(name))
    _markers_and_key(figure, drawn)
    return figure


def _hover(values: np.ndarray, name: str, details: Sequence[Sequence[str]] | None, row: int, col: int) -> str:
    lines = [f"<b>{label(name)} {values[row, col]:.3f}</b> · row {row}, column {col}"]
    return "<br>".join(lines + ([details[row][col]] if details is not None else []))


def _markers_and_key(figure: go.Figure, drawn: Drawn) -> None:
    """Points by label, with a legend below the photo that counts them and names the outlines of masks."""
    figure.update_traces(showlegend=False)
    for name, (symbol, colour) in POINTS.items():
        of = [(x, y) for x, y, which in drawn.points if which == name]
        if of:
            marker = {"symbol": symbol, "size": 11, "color": colour, "line": {"color": "#ffffff", "width": 1.5}}
            figure.add_trace(
                go.Scatter(
                    x=[x for x, _ in of], y=[y for _, y in of], mode="markers", marker=marker, hoverinfo="skip",
                    name=f"{name} {len(of)}", showlegend=True,
                )
            )  # fmt: skip
    for name, _, colour in drawn.outlined():
        line = {"color": colour, "width": 3}
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="lines", line=line, hoverinfo="skip", name=name, showlegend=True)
        )
    if drawn.points or drawn.outlined():
        place = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
        layout: Any = figure.layout
        figure.update_layout(
            showlegend=True,
            height=layout.height + LEGEND,
            margin={"b": (layout.margin.b or MARGIN) + LEGEND},
            legend={**place, "itemclick": False, "itemdoubleclick": False},
        )


def svg_path(segments: Segments) -> str:
    """Segments [n, 4] as one SVG path, to a tenth of a pixel."""
    return "".join("M{:g},{:g}L{:g},{:g}".format(*segment) for segment in np.round(segments, 1).tolist())


def painted_photo(image: Image.Image, layer: Layer, opacity: float = 0.6) -> Image.Image:
    """The photo with a map over it, at most 900 pixels long, blind sides hatched: the one that the figures show."""
    layout: Any = picture_figure(image, layer.boxes, layer.cells(opacity), 640, bar=False).layout
    data = base64.b64decode(layout.images[0].source.partition(",")[2])
    return Image.open(io.BytesIO(data)).convert("RGB")


def map_multiples(
    image: Image.Image,
    boxes: np.ndarray,
    maps: Mapping[str, tuple[np.ndarray, str]],
    *,
    width: int = 1160,
    side: int = 214,
) -> go.Figure:
    """Maps side by side, each in its own range: by name, the values [rows, cols] and a line of text below.

    For a map beside its controls and baselines.
    """
    scale = side / max(image.size)
    wide, high = (max(1, round(length * scale)) for length in image.size)
    sources = []
    for values, _text in maps.values():
        photo = painted_photo(image, Layer(values, boxes), 0.75).resize((2 * wide, 2 * high), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=88)
        sources.append(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    notes = [f"{label(name, 34)}<br>{label(text)}" for name, (_values, text) in maps.items()]
    return panel_grid(sources, notes, wide, high, width)[0]


def score_curves(
    lines: Sequence[ScoreLine],
    *,
    measures: Mapping[str, str] = MEASURES,
    mark: int | None = None,
    width: int = 1160,
    height: int = 280,
) -> go.Figure:
    """The scores over the layers, a panel for each of the ``measures``; the first line is the map itself, drawn bold.

    ``mark``: the layer in view, where a line stands.
    """
    across = len(measures) if width >= 700 else 1
    rows = math.ceil(len(measures) / across)
    figure = new_figure(width, rows * height + 60, margin={"l": 56, "r": 16, "t": 40, "b": 50, "autoexpand": False})
    gap = 0.16 if across > 1 else 0.0  # room for the title of an axis
    for number, (measure, title) in enumerate(measures.items()):
        axis = "" if number == 0 else str(number + 1)
        col, row = number % across, number // across
        figure.update_layout({
            f"xaxis{axis}": {
                "domain": [(col + (gap if col else 0)) / across, (col + 1) / across], "anchor": f"y{axis}",
                "title": {"text": "layer", "standoff": 4, "font": {"size": 12}},
            },
            f"yaxis{axis}": {
                "domain": [1 - (row + 1) / rows + (0.16 if row + 1 < rows else 0), 1 - row / rows], "anchor": f"x{axis}",
                "title": {"text": title, "font": {"size": 12}}, "range": [-0.02, 1.02],
            },
        })  # fmt: skip
        for place, line in enumerate(lines):
            _score_line(figure, line, measure, axis, place, legend=number == 0)
        if mark is not None:
            ends = {"x0": mark, "x1": mark, "y0": 0, "y1": 1}
            style = {"color": INK, "width": 1, "dash": "dot"}
            figure.add_shape(type="line", xref=f"x{axis}", yref=f"y{axis} domain", line=style, layer="below", **ends)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
    return figure


def _score_line(figure: go.Figure, line: ScoreLine, measure: str, axis: str, place: int, *, legend: bool) -> None:
    values = [float(value) if math.isfinite(value) else None for value in line.values[measure]]
    figure.add_trace(
        go.Scatter(
            x=list(line.layers), y=values, name=label(line.name, 40), legendgroup=str(place), showlegend=legend,
            mode="lines", xaxis=f"x{axis}", yaxis=f"y{axis}", line=_style(place),
            hovertemplate=f"<b>{label(line.name, 40)}</b><br>layer %{{x}}<br>%{{y:.3f}}<extra></extra>",
        )
    )  # fmt: skip


def _style(place: int) -> dict[str, object]:
    """The first line bold and dark, the others told apart by colour and dash."""
    dashes = ("solid", "dash", "dot", "dashdot")
    if place == 0:
        return {"color": INK, "width": 3}
    return {"color": CATEGORIES[(place - 1) % 6], "width": 1.6, "dash": dashes[((place - 1) // 6 + place) % 4]}


def threshold_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    mark: float | None = None,
    width: int = 560,
    height: int = 320,
) -> go.Figure:
    """IoU of what lies above a threshold, over the threshold (0 to 1), by the map's name; the first is drawn bold."""
    figure = new_figure(width, height, margin={"l": 56, "r": 16, "t": 40, "b": 50})
    for place, (name, (thresholds, iou)) in enumerate(curves.items()):
        figure.add_trace(
            go.Scatter(
                x=thresholds.tolist(), y=iou.tolist(), name=label(name, 40), mode="lines",
                line={**_style(place), "shape": "vh"},
                hovertemplate=f"<b>{label(name, 40)}</b><br>above %{{x:.3f}}<br>IoU %{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip
    if mark is not None:
        figure.add_vline(mark, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(title={"text": "threshold of the min-max map"}, range=[-0.02, 1.02])
    figure.update_yaxes(title={"text": "IoU"}, range=[0, 1.02])
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"}
    )
    return figure
