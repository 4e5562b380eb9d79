"""The figures of the LatentLens page: the photo with its patches, the words printed on it, and a patch through the layers.

All text that comes from a corpus, a vocabulary or a user passes :func:`lens.figures.theme.label` on its way in.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lens.figures.canvas import Cell, clickable, colour_bar, outline, picture_figure, scale_of
from lens.figures.theme import CATEGORIES, INK, colours, label, limits, new_figure

WordGrid = Sequence[Sequence[str]]
"""One word for each patch, ``[rows][cols]``."""


@dataclass(frozen=True)
class Profile:
    """One lens at one patch through the layers, in ascending order: a value and a best word for each."""

    lens: str
    layers: tuple[int, ...]
    values: tuple[float, ...]
    words: tuple[str, ...]
    unit: str = "cosine"


def patch_picture(
    image: Image.Image,
    boxes: np.ndarray,
    *,
    selected: Collection[Cell] = (),
    values: np.ndarray | None = None,
    words: WordGrid | None = None,
    value_name: str = "cosine",
    value_range: tuple[float, float] | None = None,
    opacity: float = 0.55,
    width: int = 640,
    title: str = "",
) -> go.Figure:
    """The photo with its clickable patches and, given ``values``, a heat map of them.

    ``boxes``: float ``[rows, cols, 4]``, pixels of the image. ``values``: ``[rows, cols]``; NaN leaves the photo bare.
    ``selected``: (row, col) of the outlined patches. ``value_range`` fixes the colour scale, for figures to be compared;
    by default it spans the values. Raises PatchOutsideGrid. The trace named "patches" carries [row, col] as customdata.
    """
    grid = np.asarray(boxes, dtype=float)
    bar, span = values is not None, (0.0, 1.0)
    cells = np.zeros((*grid.shape[:2], 4), dtype=np.uint8)
    if values is not None:
        span = value_range or limits(values)
        cells[..., :3] = colours(values, *span)
        cells[..., 3] = np.where(np.isfinite(values), round(255 * opacity), 0)
    figure = picture_figure(image, grid, cells, width, bar=bar, title=label(title, 200) if title else "")
    if bar:
        colour_bar(figure, *span, value_name)
    outline(figure, grid, selected)
    clickable(figure, grid, _hover(grid, words, values, value_name), scale_of(image, width, bar=bar))
    return figure


def _hover(boxes: np.ndarray, words: WordGrid | None, values: np.ndarray | None, name: str) -> list[list[str]]:
    def text(row: int, col: int) -> str:
        x0, y0, x1, y1 = boxes[row, col]
        lines = [f"<b>{label(words[row][col])}</b>"] if words is not None else []
        if values is not None:
            lines.append(f"{name} {values[row, col]:.3f}" if np.isfinite(values[row, col]) else f"no {name}")
        lines += [f"row {row}, column {col}", f"pixels {x0:.0f} to {x1:.0f}, {y0:.0f} to {y1:.0f}"]
        return "<br>".join(lines)

    return [[text(row, col) for col in range(boxes.shape[1])] for row in range(boxes.shape[0])]


def word_grid(
    image: Image.Image,
    boxes: np.ndarray,
    words: WordGrid,
    *,
    values: np.ndarray | None = None,
    value_name: str = "cosine",
    value_range: tuple[float, float] | None = None,
    selected: Collection[Cell] = (),
    width: int | None = None,
    title: str = "",
) -> go.Figure:
    """What the image says: the best word printed in each patch, fitted to it, over the faded photo.

    Arguments as for :func:`patch_picture`; given ``values``, the patches are tinted by them and the ink is chosen to
    stand out. By default the figure is wide enough for patches of 52 pixels (within 640 to 1600).
    """
    grid = np.asarray(boxes, dtype=float)
    if width is None:
        width = round(float(np.clip(52 * image.width / max(np.median(grid[..., 2] - grid[..., 0]), 1e-6), 640, 1600)))
    bar, span = values is not None, (0.0, 1.0)
    cells = np.full((*grid.shape[:2], 4), (255, 255, 255, 175), dtype=np.uint8)
    ink = np.full(grid.shape[:2], INK, dtype=object)
    if values is not None:
        span = value_range or limits(values)
        cells[..., :3] = colours(values, *span)
        cells[..., 3] = 205
        # Rec. 601 luma of the tint: dark ink on light patches, white on dark ones.
        ink[(cells[..., :3] @ (0.299, 0.587, 0.114)) < 140] = "#ffffff"
    figure = picture_figure(image, grid, cells, width, bar=bar, title=label(title, 200) if title else "")
    if bar:
        colour_bar(figure, *span, value_name)
    scale = scale_of(image, width, bar=bar)
    _print_words(figure, grid, words, ink, scale)
    outline(figure, grid, selected)
    clickable(figure, grid, _hover(grid, words, values, value_name), scale)
    return figure


SMALLEST, EASY, LARGEST = 6.0, 8.0, 12.0
"""Font sizes of a printed word in pixels: the least, the least for which a word isn't broken into lines, the greatest."""
GLYPH = 0.56
"""Mean width of a sans-serif letter for a font of size 1."""
LINES = 3


def _print_words(figure: go.Figure, boxes: np.ndarray, words: WordGrid, ink: np.ndarray, scale: float) -> None:
    cells = list(np.ndindex(boxes.shape[:2]))
    sizes, texts = [], []
    for row, col in cells:
        x0, y0, x1, y1 = boxes[row, col] * scale
        text, size = fitted(words[int(row)][int(col)], x1 - x0 - 2, y1 - y0)
        texts.append(text)
        sizes.append(size)
    figure.add_trace(
        go.Scatter(
            x=[float(boxes[cell][0] + boxes[cell][2]) / 2 for cell in cells],
            y=[float(boxes[cell][1] + boxes[cell][3]) / 2 for cell in cells],
            mode="text",
            text=texts,
            textfont={"size": sizes, "color": [ink[cell] for cell in cells]},
            hoverinfo="skip",
            name="words",
        )
    )


def fitted(word: str, width: float, height: float) -> tuple[str, float]:
    """The escaped word and its font size so that it fits ``width`` x ``height`` pixels.

    A word that would become smaller than ``EASY`` is broken into up to three lines; what even ``SMALLEST`` can't hold is
    cut with an ellipsis.
    """

    def size(lines: int) -> float:
        return min(width / (GLYPH * -(-len(plain) // lines)), height / (1.2 * lines))

    room = max(int(width / (GLYPH * SMALLEST)), 1) * max(min(int(height / (1.2 * SMALLEST)), LINES), 1)
    plain = html.unescape(label(word, room))
    lines = 1 if size(1) >= EASY else max(range(1, LINES + 1), key=size)
    step = -(-len(plain) // lines)
    text = "<br>".join(html.escape(plain[i : i + step], quote=False) for i in range(0, len(plain), step))
    return text, math.floor(10 * min(max(size(lines), SMALLEST), LARGEST)) / 10


TOP, BOTTOM, LEFT, RIGHT, BAND = 10, 52, 78, 40, 76
"""Margins of a profile in pixels, and the band above each row that holds its words."""


def layer_profile(
    profiles: Sequence[Profile],
    *,
    selected_layer: int | None = None,
    width: int = 760,
    row_height: int = 200,
    title: str = "",
) -> go.Figure:
    """One patch through the layers: a row a lens (their units differ), the best word of each layer above its point."""
    top = TOP + (26 if title else 0)
    rows = max(len(profiles), 1)
    margin = {"l": LEFT, "r": RIGHT, "t": top, "b": BOTTOM, "autoexpand": False}
    figure = new_figure(width, top + BOTTOM + rows * row_height, margin=margin, showlegend=False)
    if title:
        heading = {"text": label(title, 200), "y": 1, "yref": "container", "pad": {"t": 12}, "yanchor": "top"}
        figure.update_layout(title=heading)
    layers = sorted({layer for profile in profiles for layer in profile.layers}) or [0]
    per_layer = (width - LEFT - RIGHT) / (layers[-1] - layers[0] + 1)
    printed: list[dict[str, object]] = []
    for number, profile in enumerate(profiles):
        axis = "" if number == 0 else str(number + 1)
        upper = 1 - number / rows
        domain = (max(upper - (1 - 14 / row_height) / rows, 0.0), upper - BAND / row_height / rows)
        _profile_axes(figure, profile, axis, domain, layers, per_layer, last=number == rows - 1)
        _profile_line(figure, profile, axis, CATEGORIES[number % len(CATEGORIES)])
        printed += _profile_words(profile, axis, selected_layer, per_layer)
        if selected_layer is not None:
            line = {"color": INK, "width": 1, "dash": "dot"}
            ends = {"x0": selected_layer, "x1": selected_layer, "y0": 0, "y1": 1}
            figure.add_shape(type="line", xref=f"x{axis}", yref=f"y{axis} domain", line=line, layer="below", **ends)
    figure.update_layout(annotations=printed)  # at once: adding them one by one takes half a second
    return figure


def _profile_axes(
    figure: go.Figure,
    profile: Profile,
    axis: str,
    domain: tuple[float, float],
    layers: Sequence[int],
    per_layer: float,
    *,
    last: bool,
) -> None:
    low, high = limits(np.array(profile.values, dtype=float))
    pad = (high - low) * 0.08 or 0.1
    ticks: list[int] = []
    for layer in layers:
        if not ticks or (layer - ticks[-1]) * per_layer >= 17:  # two digits and a gap
            ticks.append(layer)
    lens_and_unit = f"<b>{label(profile.lens)}</b><br>{label(profile.unit)}"
    figure.update_layout({
        f"xaxis{axis}": {
            "anchor": f"y{axis}", "range": [layers[0] - 0.5, layers[-1] + 0.5], "tickvals": ticks,
            "showgrid": False, "showticklabels": last,
            "tickfont": {"size": 11}, "tickangle": 0,
            "title": {"text": "layer" if last else "", "standoff": 6, "font": {"size": 13}},
        },
        f"yaxis{axis}": {
            "anchor": f"x{axis}", "domain": list(domain), "range": [low - pad, high + pad], "nticks": 5,
            "tickfont": {"size": 11}, "title": {"text": lens_and_unit, "font": {"size": 12}},
        },
    })  # fmt: skip


def _profile_line(figure: go.Figure, profile: Profile, axis: str, colour: str) -> None:
    unit = label(profile.unit)
    hover = [f"<b>{label(word)}</b><br>layer {layer}<br>{unit} {value:.3f}" for layer, value, word in _points(profile)]
    figure.add_trace(
        go.Scatter(
            x=list(profile.layers), y=[float(v) for v in profile.values], mode="lines+markers", name=label(profile.lens),
            line={"color": colour, "width": 2}, marker={"size": 7, "line": {"color": "#ffffff", "width": 1}},
            text=hover, hovertemplate="%{text}<extra></extra>", customdata=list(profile.layers),
            xaxis=f"x{axis}", yaxis=f"y{axis}",
        )
    )  # fmt: skip


def _profile_words(
    profile: Profile, axis: str, selected_layer: int | None, per_layer: float
) -> list[dict[str, object]]:
    """The words in a band above the row, flat where they fit between two layers, else slanted; "" prints nothing."""
    closest = min((b - a for a, b in pairwise(profile.layers)), default=1) * per_layer
    flat = closest > 6.5 * max((min(len(word), 14) for word in profile.words), default=0)
    found: list[dict[str, object]] = []
    for layer, _, word in _points(profile):
        if not word:
            continue
        shown = label(word, 14)
        found.append({
            "x": layer, "xref": f"x{axis}", "y": 1, "yref": f"y{axis} domain", "showarrow": False, "font": {"size": 11},
            "text": f"<b>{shown}</b>" if layer == selected_layer else shown, "textangle": 0 if flat else -50, "yshift": 3,
            "yanchor": "bottom", "xanchor": "center" if flat else "left", "xshift": 0 if flat else -7,
        })  # fmt: skip
    return found


def _points(profile: Profile) -> list[tuple[int, float, str]]:
    return list(zip(profile.layers, profile.values, profile.words, strict=True))
