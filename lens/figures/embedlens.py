"""The figures of the EmbedLens page: classes over the picture and through the layers, curves, scatter and keep-sets.

A class is never told by colour alone: it has a fill of its own lightness, a hatch, a marker and a dash (:data:`LOOKS`).
Labels come as arrays ``[rows, cols]`` of "sink", "dead" and "alive"; any other text is a patch without a class.
Foreign text passes :func:`lens.figures.theme.label`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw

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
    """

    name: str
    unit: str
    at: tuple[float, ...]
    values: Mapping[str, Sequence[float]]
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    along: str = "layer"


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
    _class_legend(figure, {name: f"{name} {count} ({count / labels.size:.0%})" for name, count in counts.items()})
    return figure


def class_cells(labels: np.ndarray) -> np.ndarray:
    """uint8 RGBA ``[rows, cols, 4]`` of the classes' fills."""
    cells = np.zeros((*labels.shape, 4), dtype=np.uint8)
    for name, look in LOOKS.items():
        cells[labels == name] = (*_rgb(look.colour), round(255 * look.opacity))
    return cells


def hatch(boxes: np.ndarray, chosen: np.ndarray, look: Look) -> str:
    """The strokes of one class in all ``chosen`` patches as one SVG path in the boxes' unit."""
    parts = []
    for x0, y0, x1, y1 in boxes[chosen]:
        for a, b, c, d in look.strokes:
            start, stop = (x0 + a * (x1 - x0), y0 + b * (y1 - y0)), (x0 + c * (x1 - x0), y0 + d * (y1 - y0))
            parts.append("M{:g},{:g}L{:g},{:g}".format(*np.round((*start, *stop), 1)))
    return "".join(parts)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hover(labels: np.ndarray, details: Sequence[Sequence[str]] | None, row: int, col: int) -> str:
    lines = [f"<b>{label(str(labels[row, col]))}</b> · row {row}, column {col}"]
    return "<br>".join(lines + ([details[row][col]] if details is not None else []))


def _class_legend(figure: go.Figure, names: Mapping[str, str]) -> None:
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


PANEL, GAP, CAPTION, FRAME = 128, 14, 38, 5
"""Pixels of a small multiple's side, between two of them, of the text below each, and around all for a frame."""
PIXELS = 9
"""Pixels of a patch in a small multiple's picture: enough for its hatch."""


def class_multiples(
    labels: Mapping[int, np.ndarray], *, selected_layer: int | None = None, width: int = 1160
) -> go.Figure:
    """The class map of each layer, side by side, with the shares of the classes below; the chosen layer is framed."""
    figure, places = _panels(len(labels), PANEL, PANEL, width)
    for (layer, grid), (x, y) in zip(labels.items(), places, strict=True):
        buffer = io.BytesIO()
        class_tile(grid).save(buffer, "PNG", optimize=True)
        _place(figure, f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", x, y, PANEL, PANEL)
        shares = " · ".join(f"{(grid == name).mean():.0%}" for name in LOOKS)
        text = f"<b>layer {layer}</b><br>{shares}" if layer == selected_layer else f"layer {layer}<br>{shares}"
        _note(figure, text, x + PANEL / 2, y + PANEL + 2)
        if layer == selected_layer:
            frame = {"x0": x - 3, "x1": x + PANEL + 3, "y0": y - 3, "y1": y + PANEL + 3}
            figure.add_shape(type="rect", line={"color": INK, "width": 3}, **frame)
    _class_legend(figure, {name: name for name in LOOKS})
    return figure


def class_tile(labels: np.ndarray) -> Image.Image:
    """The class map as a small picture, ``PIXELS`` a patch, hatched like the overlay."""
    side = PIXELS
    tile = Image.new("RGB", (labels.shape[1] * side, labels.shape[0] * side), PAPER)
    draw = ImageDraw.Draw(tile)
    for row, col in np.ndindex(labels.shape):
        look = LOOKS.get(str(labels[row, col]))
        if look is None:
            continue
        x, y = col * side, row * side
        shade = tuple(round(255 - (255 - part) * max(look.opacity, 0.5)) for part in _rgb(look.colour))
        draw.rectangle((x, y, x + side - 1, y + side - 1), fill=shade if not look.strokes else look.colour)
        for a, b, c, d in look.strokes:
            draw.line([(x + a * (side - 1), y + b * (side - 1)), (x + c * (side - 1), y + d * (side - 1))], fill=PAPER)
    return tile


def _panels(count: int, wide: int, high: int, width: int) -> tuple[go.Figure, list[tuple[float, float]]]:
    """An empty figure with room for panels in rows, a caption below each; and the upper left corner of each panel."""
    inner = width - 2 * MARGIN
    across = max(1, (inner - 2 * FRAME + GAP) // (wide + GAP))
    rows = max(1, math.ceil(count / across))
    height = rows * (high + CAPTION) + 2 * FRAME
    margin = {"l": MARGIN, "r": MARGIN, "t": MARGIN, "b": MARGIN, "autoexpand": False}
    figure = new_figure(width, height + 2 * MARGIN, margin=margin, dragmode=False)
    figure.update_xaxes(visible=False, range=[0, inner])
    figure.update_yaxes(visible=False, range=[height, 0])
    return figure, [
        (FRAME + (n % across) * (wide + GAP), FRAME + (n // across) * (high + CAPTION)) for n in range(count)
    ]


def _place(figure: go.Figure, source: str, x: float, y: float, wide: float, high: float) -> None:
    figure.add_layout_image(
        source=source, xref="x", yref="y", x=x, y=y, sizex=wide, sizey=high, sizing="contain",
        xanchor="left", yanchor="top", layer="above",
    )  # fmt: skip


def _note(figure: go.Figure, text: str, x: float, y: float) -> None:
    place = {"x": x, "y": y, "xanchor": "center", "yanchor": "top", "showarrow": False}
    figure.add_annotation(text=text, font={"size": 11}, **place)


def keep_sets(
    image: Image.Image, boxes: np.ndarray, kept: Mapping[str, np.ndarray], *, width: int = 1160, side: int = 214
) -> go.Figure:
    """What each rule would keep at one budget: its patches bare, the others covered.

    ``kept``: by the rule's name, bool ``[rows, cols]``.
    """
    scale = side / max(image.size)
    photo = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    figure, places = _panels(len(kept), photo.width, photo.height, width)
    for (name, mask), (x, y) in zip(kept.items(), places, strict=True):
        cells = np.zeros((*mask.shape, 4), dtype=np.uint8)
        cells[~mask] = (31, 35, 40, 215)
        source = picture_figure(photo, boxes * scale, cells, side, bar=False).layout.images[0].source
        _place(figure, source, x, y, *photo.size)
        _note(
            figure,
            f"{label(name)}<br>keeps {int(mask.sum())} of {mask.size}",
            x + photo.width / 2,
            y + photo.height + 2,
        )
    return figure


def class_curves(
    curves: Sequence[Curve], *, marked: float | None = None, width: int = 1160, height: int = 230
) -> go.Figure:
    """Measures of the classes over the layers, two panels a row (one where the figure is narrow); a line at ``marked``."""
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
            f"xaxis{axis}": {"domain": domains, "anchor": f"y{axis}", "title": {"text": label(curve.along), "standoff": 4}},
            f"yaxis{axis}": {
                "domain": [top - (1 - inset / 2) / rows, top - inset / 2 / rows], "anchor": f"x{axis}", "nticks": 5,
                "title": {"text": f"<b>{label(curve.name)}</b><br>{label(curve.unit)}", "font": {"size": 12}},
            },
        })  # fmt: skip
        _curve_lines(figure, curve, axis, legend=number == 0)
        if marked is not None:
            ends = {"x0": marked, "x1": marked, "y0": 0, "y1": 1}
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
    for name, look in LOOKS.items():
        cells = [(int(r), int(c)) for r, c in np.argwhere(labels == name)]
        hollow = {"color": "rgba(0,0,0,0)" if name == "dead" else line_colour(name)}
        figure.add_trace(
            go.Scatter(
                x=[float(norms[cell]) for cell in cells], y=[float(cosines[cell]) for cell in cells], mode="markers",
                name=name, customdata=[list(cell) for cell in cells],
                marker={"symbol": look.symbol, "size": 8, **hollow, "line": {"color": line_colour(name), "width": 1.5}},
                hovertemplate=f"<b>{name}</b> · row %{{customdata[0]}}, column %{{customdata[1]}}<br>"
                "norm %{x:.3g}<br>anchor cosine %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    if selected is not None:
        ring = {"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}}
        place = {"x": [float(norms[selected])], "y": [float(cosines[selected])]}
        figure.add_trace(go.Scatter(**place, mode="markers", marker=ring, hoverinfo="skip", name="chosen patch"))
    if threshold:
        figure.add_hline(threshold, line={"color": INK, "width": 1, "dash": "dash"})
    figure.update_xaxes(type="log", title={"text": "norm of the state"}, dtick="D2")
    figure.update_yaxes(title={"text": "best cosine with an anchor"})
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
    return figure
