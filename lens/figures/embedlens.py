"""The figures of the EmbedLens page: classes over the picture and through the layers, curves, scatter and keep-sets.

A class is never told by colour alone: it has a fill of its own lightness, a hatch, a marker and a dash (:data:`LOOKS`).
Labels come as arrays ``[rows, cols]`` of "sink", "dead" and "alive"; any other text is a patch without a class.
Foreign text passes :func:`lens.figures.theme.label`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lens.figures.canvas import MARGIN, Cell, clickable, outline, picture_figure, scale_of
from lens.figures.theme import INK, PAPER, label, new_figure


@dataclass(frozen=True)
class Look:
    """How a class looks everywhere: colour, opacity over a photo, strokes of its hatch, bar pattern, marker, dash.

    ``strokes``: line segments in the unit square of a patch, (x0, y0, x1, y1).
    """

    colour: str
    opacity: float
    strokes: tuple[tuple[float, float, float, float], ...]
    pattern: str
    symbol: str
    dash: str


LOOKS = {
    "sink": Look("#9A3B00", 0.78, ((0.15, 0.15, 0.85, 0.85), (0.15, 0.85, 0.85, 0.15)), "x", "x", "dot"),
    "dead": Look("#0072B2", 0.6, ((0.0, 1.0, 1.0, 0.0),), "/", "square", "dash"),
    "alive": Look("#F0E442", 0.22, (), "", "circle", "solid"),
}
"""From Okabe & Ito's palette, the vermillion darkened: their lightness alone (37, 46 and 89 in CIELAB) orders them."""

LEGEND = 34
"""Pixels below a figure that its legend of classes takes."""


@dataclass(frozen=True)
class Curve:
    """One measure of each class over the layers, or over another quantity.

    Attributes:
        name, unit: for the axis.
        at: layers or other places, ascending.
        values: by class, one for each place; NaN where there is none.
        bands: by class, the lower and the upper bound at each place; may be empty.
        along: what ``at`` counts.
        mark: the place in use, where a line stands.
    """

    name: str
    unit: str
    at: tuple[float, ...]
    values: Mapping[str, Sequence[float]]
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    along: str = "layer"
    mark: float | None = None


def class_overlay(
    image: Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    details: Sequence[Sequence[str]] | None = None,
    selected: Collection[Cell] = (),
    width: int = 640,
    title: str = "",
) -> go.Figure:
    """The photo with its clickable patches filled and hatched by class; a legend counts them.

    ``boxes``: float ``[rows, cols, 4]``, pixels of the image. ``details``: further lines of a patch's hover box, already
    escaped. Raises PatchOutsideGrid. The trace named "patches" carries [row, col] as customdata.
    """
    grid = np.asarray(boxes, dtype=float)
    heading = label(title, 200) if title else ""
    figure = picture_figure(image, grid, class_cells(labels), width, bar=False, title=heading)
    for name, look in LOOKS.items():
        if look.strokes and (labels == name).any():
            line = {"color": PAPER, "width": 1.4}
            figure.add_shape(type="path", path=hatch(grid, labels == name, look), line=line, opacity=0.9)
    outline(figure, grid, selected)
    hover = [[_hover(labels, details, row, col) for col in range(grid.shape[1])] for row in range(grid.shape[0])]
    clickable(figure, grid, hover, scale_of(image, width, bar=False))
    counts = {name: int((labels == name).sum()) for name in LOOKS}
    class_legend(figure, {name: f"{name} {count} ({count / labels.size:.0%})" for name, count in counts.items()})
    return figure


def class_cells(labels: np.ndarray) -> np.ndarray:
    """uint8 RGBA ``[rows, cols, 4]`` of the classes' fills."""
    cells = np.zeros((*labels.shape, 4), dtype=np.uint8)
    for name, look in LOOKS.items():
        cells[labels == name] = (*rgb(look.colour), round(255 * look.opacity))
    return cells


def hatch(boxes: np.ndarray, chosen: np.ndarray, look: Look) -> str:
    """The strokes of one class in all ``chosen`` patches as one SVG path in the boxes' unit."""
    parts = []
    for x0, y0, x1, y1 in boxes[chosen]:
        for a, b, c, d in look.strokes:
            start, stop = (x0 + a * (x1 - x0), y0 + b * (y1 - y0)), (x0 + c * (x1 - x0), y0 + d * (y1 - y0))
            parts.append("M{:g},{:g}L{:g},{:g}".format(*np.round((*start, *stop), 1)))
    return "".join(parts)


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hover(labels: np.ndarray, details: Sequence[Sequence[str]] | None, row: int, col: int) -> str:
    lines = [f"<b>{label(str(labels[row, col]))}</b> · row {row}, column {col}"]
    return "<br>".join(lines + ([details[row][col]] if details is not None else []))


def class_legend(figure: go.Figure, names: Mapping[str, str]) -> None:
    """A legend below the figure, its swatches carried by bars without a value, since bars have hatches."""
    for name, text in names.items():
        look = LOOKS[name]
        pattern = {"shape": look.pattern, "fgcolor": PAPER, "bgcolor": look.colour, "size": 5, "solidity": 0.35}
        marker = {"color": look.colour, "pattern": pattern, "line": {"color": INK, "width": 0.5}}
        figure.add_trace(go.Bar(x=[None], y=[None], name=text, marker=marker, showlegend=True, hoverinfo="skip"))
    figure.update_traces(showlegend=False, selector={"type": "scatter"})
    height, margin = figure.layout.height + LEGEND, figure.layout.margin
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    figure.update_layout(
        showlegend=True,
        height=height,
        margin={"b": (margin.b or MARGIN) + LEGEND},
        legend={**place, "itemclick": False, "itemdoubleclick": False, "font": {"size": 13}, "itemsizing": "constant"},
    )


def class_curves(curves: Sequence[Curve], *, width: int = 1160, height: int = 230) -> go.Figure:
    """Measures of the classes over the layers, two panels a row (one where the figure is narrow)."""
    across = 2 if width >= 700 and len(curves) > 1 else 1
    rows = max(1, math.ceil(len(curves) / across))
    figure = new_figure(width, rows * height + 40, margin={"l": 74, "r": 20, "t": 34, "b": 46, "autoexpand": False})
    for number, curve in enumerate(curves):
        axis = "" if number == 0 else str(number + 1)
        left, top = (number % across) / across, 1 - (number // across) / rows
        gap = 0.09 if across > 1 else 0.0
        domains = [left + (gap if left else 0), left + 1 / across - (gap / 2 if not left and across > 1 else 0)]
        inset = 52 / height
        figure.update_layout({
            f"xaxis{axis}": {
                "domain": domains, "anchor": f"y{axis}",
                "title": {"text": label(curve.along), "standoff": 4, "font": {"size": 12}},
            },
            f"yaxis{axis}": {
                "domain": [top - (1 - inset / 2) / rows, top - inset / 2 / rows], "anchor": f"x{axis}", "nticks": 5,
                "title": {"text": f"<b>{label(curve.name)}</b><br>{label(curve.unit)}", "font": {"size": 11}},
            },
        })  # fmt: skip
        _curve_lines(figure, curve, axis, legend=number == 0)
        if curve.mark is not None:
            ends = {"x0": curve.mark, "x1": curve.mark, "y0": 0, "y1": 1}
            line = {"color": INK, "width": 1, "dash": "dot"}
            figure.add_shape(type="line", xref=f"x{axis}", yref=f"y{axis} domain", line=line, layer="below", **ends)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
    return figure


def _curve_lines(figure: go.Figure, curve: Curve, axis: str, *, legend: bool) -> None:
    for name, values in curve.values.items():
        look = LOOKS[name]
        shown = [float(value) if math.isfinite(value) else None for value in values]
        if name in curve.bands:
            low, high = curve.bands[name]
            around = {"x": [*curve.at, *curve.at[::-1]], "y": [*map(float, low), *map(float, high[::-1])]}
            figure.add_trace(
                go.Scatter(**around, fill="toself", fillcolor=line_colour(name), opacity=0.18, line={"width": 0},
                           mode="lines", hoverinfo="skip", showlegend=False, xaxis=f"x{axis}", yaxis=f"y{axis}")
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=list(curve.at), y=shown, name=name, legendgroup=name, showlegend=legend, mode="lines+markers",
                line={"color": line_colour(name), "width": 2, "dash": look.dash},
                marker={"symbol": look.symbol, "size": 6}, xaxis=f"x{axis}", yaxis=f"y{axis}",
                hovertemplate=f"<b>{name}</b><br>{label(curve.along)} %{{x}}<br>%{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip


def line_colour(name: str) -> str:
    """A class's colour on white paper, where the light fill of alive would vanish."""
    return "#B08A00" if name == "alive" else LOOKS[name].colour


def token_scatter(
    norms: np.ndarray,
    cosines: np.ndarray,
    labels: np.ndarray,
    *,
    threshold: float = 0.0,
    selected: Cell | None = None,
    width: int = 560,
    height: int = 420,
) -> go.Figure:
    """Every visual token by its norm and its best cosine with an anchor, ``[rows, cols]`` each, marked by class.

    ``customdata`` is [row, col]. The dashed line is the least cosine that counts.
    """
    figure = new_figure(width, height, margin={"l": 64, "r": 16, "t": 34, "b": 52})
    cells = [(int(r), int(c)) for r, c in np.ndindex(labels.shape)]
    hover = "norm %{x:.3g}<br>anchor cosine %{y:.3f}"
    _class_points(figure, norms.reshape(-1), cosines.reshape(-1), labels.reshape(-1), cells, hover, selected)
    if threshold:
        figure.add_hline(threshold, line={"color": INK, "width": 1, "dash": "dash"})
    figure.update_xaxes(type="log", title={"text": "norm of the state"}, dtick="D2")
    figure.update_yaxes(title={"text": "best cosine with an anchor"})
    return figure


def class_map(
    plane: np.ndarray,
    labels: np.ndarray,
    cells: Sequence[Cell | None],
    *,
    axes: tuple[str, str] = ("", ""),
    selected: Cell | None = None,
    width: int = 700,
    height: int = 520,
) -> go.Figure:
    """States as points of a plane, marked by class.

    ``plane`` [n, 2], ``labels`` [n]; ``cells``: the patch [row, col] of each token of the picture in view, ``None`` for
    those of other pictures, which are drawn faint and can't be chosen. ``axes``: titles;
    without them the axes have no numbers.
    """
    figure = new_figure(width, height, margin={"l": 64, "r": 16, "t": 34, "b": 52})
    own = np.array([cell is not None for cell in cells], dtype=bool)
    for name, look in LOOKS.items():
        others = ~own & (labels == name)
        if others.any():
            marker = {"symbol": look.symbol, "size": 4, "color": line_colour(name), "opacity": 0.35}
            figure.add_trace(
                go.Scatter(x=plane[others, 0].tolist(), y=plane[others, 1].tolist(), mode="markers", marker=marker,
                           name=f"{name}, other pictures", hoverinfo="skip")
            )  # fmt: skip
    _class_points(
        figure, plane[own, 0], plane[own, 1], labels[own], [cell for cell in cells if cell is not None], "", selected
    )
    for axis, title in zip((figure.layout.xaxis, figure.layout.yaxis), axes, strict=True):
        axis.update(title={"text": label(title)} if title else None, showticklabels=bool(title), ticks="")
    return figure


def _class_points(
    figure: go.Figure,
    across: np.ndarray,
    up: np.ndarray,
    labels: np.ndarray,
    cells: Sequence[Cell],
    hover: str,
    selected: Cell | None,
) -> None:
    """One trace of markers a class with [row, col] as customdata, a ring around the chosen patch, a legend above."""
    for name, look in LOOKS.items():
        of = np.flatnonzero(labels == name).tolist()
        hollow = {"color": "rgba(0,0,0,0)" if name == "dead" else line_colour(name)}
        figure.add_trace(
            go.Scatter(
                x=across[of].tolist(), y=up[of].tolist(), mode="markers", name=name, customdata=[list(cells[i]) for i in of],
                marker={"symbol": look.symbol, "size": 8, **hollow, "line": {"color": line_colour(name), "width": 1.5}},
                hovertemplate=f"<b>{name}</b> · row %{{customdata[0]}}, column %{{customdata[1]}}<br>{hover}<extra></extra>",
            )
        )  # fmt: skip
    if selected in cells:
        at = cells.index(selected)
        ring = {"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}}
        place = {"x": [float(across[at])], "y": [float(up[at])]}
        figure.add_trace(go.Scatter(**place, mode="markers", marker=ring, hoverinfo="skip", name="chosen patch"))
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
