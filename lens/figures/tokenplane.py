"""Visual tokens among their text neighbours: points of a plane, coloured by layer, by word or by place in the picture.

Circles are visual tokens (``customdata`` is [row, col]), diamonds contexts of the text index. Foreign text passes
:func:`lens.figures.theme.label`.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lens.figures.canvas import Cell
from lens.figures.theme import CATEGORIES, FAINT, INK, PAPER, SCALE, label, new_figure

COLOURS = ("word", "layer", "position")
MOST = 5
"""Words with a colour of their own; the others are grey."""
OTHERS = "other words"
PATCHES, TEXTS = "visual tokens", "text neighbours"
CORNERS = np.array([[[0, 114, 178], [230, 159, 0]], [[0, 158, 115], [204, 121, 167]]], dtype=float)
"""Colours of the picture's upper left, upper right, lower left and lower right corner, after Okabe & Ito."""


@dataclass(frozen=True)
class Dots:
    """Points of one kind.

    Attributes:
        plane: [n, 2].
        words, layers: of each.
        notes: one more line for the hover box, not yet escaped.
        cells: (row, col) of visual tokens; ``None`` for text.
    """

    plane: np.ndarray
    words: Sequence[str]
    layers: Sequence[int]
    notes: Sequence[str]
    cells: Sequence[Cell] | None = None


def token_plane(
    patches: Dots,
    texts: Dots,
    shape: tuple[int, int],
    *,
    colour: str = "word",
    depth: int = 1,
    selected: Cell | None = None,
    axes: tuple[str, str] = ("", ""),
    width: int = 1160,
    height: int = 620,
) -> go.Figure:
    """The map. ``shape``: rows and columns of the patch grid; ``depth``: the greatest layer; ``axes``: titles, without which
    the axes have no numbers. Raises ValueError for a colouring that there isn't."""
    if colour not in COLOURS:
        raise ValueError(f"expected one of {COLOURS}, got {colour!r}")
    bare = colour == "word"  # nothing stands at the right
    figure = new_figure(
        width, height, margin={"l": 56, "r": 16 if bare else 120, "t": 40, "b": 48}, uirevision=colour,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top", "itemsizing": "constant"},
    )  # fmt: skip
    counts = Counter(word.casefold() for word in patches.words).most_common(MOST)
    for dots, name, symbol, size in ((texts, TEXTS, "diamond", 6), (patches, PATCHES, "circle", 9)):
        for part, legend, colours in _coloured(dots, name, colour, counts, shape):
            _add(figure, dots, part, legend, symbol, size, colours, depth, listed=bare and dots.cells is not None)
    if not bare:
        _key(figure, PATCHES, "circle")
    _key(figure, TEXTS, "diamond")
    if colour == "position":
        _corner_key(figure, shape)
    if selected is not None and patches.cells is not None:
        at = [i for i, cell in enumerate(patches.cells) if cell == selected]
        ring = {"symbol": "circle-open", "size": 19, "color": INK, "line": {"width": 2.5}}
        figure.add_trace(
            go.Scatter(x=patches.plane[at, 0].tolist(), y=patches.plane[at, 1].tolist(), mode="markers", marker=ring,
                       hoverinfo="skip", name="chosen patch", showlegend=False)
        )  # fmt: skip
    for axis, title in zip((figure.layout.xaxis, figure.layout.yaxis), axes, strict=True):
        axis.update(title={"text": label(title)} if title else None, showticklabels=bool(title), ticks="")
    return figure


def _coloured(
    dots: Dots, name: str, colour: str, counts: Sequence[tuple[str, int]], shape: tuple[int, int]
) -> list[tuple[list[int], str, object]]:
    """Which points make one trace, its name, and their colour: one, or one each.

    ``counts``: the words with a colour of their own, and of how many visual tokens each is the best.
    """
    everything = list(range(len(dots.words)))
    if colour == "layer":
        return [(everything, name, list(dots.layers))]
    if colour == "position":
        if dots.cells is None:
            return [(everything, name, FAINT)]
        return [(everything, name, [corner_colour(cell, shape) for cell in dots.cells])]
    folded = [word.casefold() for word in dots.words]
    groups = [([i for i in everything if folded[i] == word], f"{label(word, 18)} ({count})", CATEGORIES[n])
              for n, (word, count) in enumerate(counts)]  # fmt: skip
    top = {word for word, _count in counts}
    return [([i for i in everything if folded[i] not in top], OTHERS, "#b6bec7"), *groups]


def _key(figure: go.Figure, name: str, symbol: str) -> None:
    """An entry of the legend for a symbol, whatever its colour: a trace's own entry has the colour of its first point."""
    marker = {"symbol": symbol, "size": 9, "color": FAINT, "line": {"color": INK, "width": 0.8}}
    figure.add_trace(
        go.Scatter(x=[None], y=[None], mode="markers", name=name, legendgroup=name, legendrank=1002, marker=marker,
                   hoverinfo="skip")
    )  # fmt: skip


def _add(
    figure: go.Figure,
    dots: Dots,
    part: list[int],
    name: str,
    symbol: str,
    size: int,
    colours: object,
    depth: int,
    *,
    listed: bool,
) -> None:
    if not part:
        return
    text = dots.cells is None
    marker: dict[str, object] = {
        "symbol": symbol, "size": size, "color": colours, "opacity": 0.75 if text else 1.0,
        "line": {"color": PAPER if text else INK, "width": 0.4 if text else 0.8},
    }  # fmt: skip
    if isinstance(colours, list) and colours and isinstance(colours[0], (int, np.integer)):
        bar = {"title": {"text": "layer", "side": "right"}, "thickness": 14, "outlinewidth": 0}
        marker |= {"cmin": 0, "cmax": depth, "colorscale": SCALE, "showscale": not text, "colorbar": bar}
    same = {"marker": {"opacity": marker["opacity"]}}
    kind = "text layer" if text else "layer"
    hover = [f"<b>{label(dots.words[i])}</b> · {kind} {dots.layers[i]}<br>{label(dots.notes[i], 90)}" for i in part]
    figure.add_trace(
        go.Scatter(
            x=np.round(dots.plane[part, 0], 5).tolist(), y=np.round(dots.plane[part, 1], 5).tolist(), mode="markers",
            name=name, legendgroup=name, legendrank=1001 if name == OTHERS else 1000, showlegend=listed, marker=marker,
            text=hover, hovertemplate="%{text}<extra></extra>", selected=same, unselected=same,
            customdata=None if text else [list(dots.cells[i]) for i in part],  # type: ignore[index]
        )
    )  # fmt: skip


def corner_colour(cell: Cell, shape: tuple[int, int]) -> str:
    """The colour of a place in the picture, bilinear between the corners'."""
    down, across = (at / max(size - 1, 1) for at, size in zip(cell, shape, strict=True))
    left, right = ((1 - down) * CORNERS[0, side] + down * CORNERS[1, side] for side in (0, 1))
    return "#{:02x}{:02x}{:02x}".format(*np.rint((1 - across) * left + across * right).astype(int))


def _corner_key(figure: go.Figure, shape: tuple[int, int]) -> None:
    """The picture's grid in its colours, at the right: which colour is where."""
    pixels = [[corner_colour((r, c), shape) for c in range(shape[1])] for r in range(shape[0])]
    grid = np.array([[[int(p[i : i + 2], 16) for i in (1, 3, 5)] for p in row] for row in pixels], dtype=np.uint8)
    key = Image.fromarray(grid).resize((8 * shape[1], 8 * shape[0]), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    key.save(buffer, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    figure.add_layout_image(source=source, xref="paper", yref="paper", x=1.01, y=1, sizex=0.09, sizey=0.16,
                            xanchor="left", yanchor="top")  # fmt: skip
    figure.add_annotation(text="place in<br>the picture", xref="paper", yref="paper", x=1.012, y=0.83, xanchor="left",
                          yanchor="top", showarrow=False, align="left", font={"size": 11})  # fmt: skip
