"""Small multiples of the EmbedLens page: a panel for each layer or each rule, with a line of text below it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw

from lens.figures.canvas import MARGIN, picture_figure
from lens.figures.embedlens import LOOKS, class_legend, rgb
from lens.figures.theme import INK, PAPER, colours, label, limits, new_figure

PANEL, GAP, CAPTION, FRAME = 128, 14, 38, 5
"""Pixels of a small multiple's side, between two of them, of the text below each, and around all for a frame."""
PIXELS = 9
"""Pixels of a patch in a small multiple's picture: enough for its hatch."""


def class_multiples(
    labels: Mapping[int, np.ndarray], *, selected_layer: int | None = None, width: int = 1160
) -> go.Figure:
    """The class map of each layer, side by side, with the shares of the classes below; the chosen layer is framed."""
    panels = {
        layer: (class_tile(grid), " · ".join(f"{(grid == name).mean():.0%}" for name in LOOKS))
        for layer, grid in labels.items()
    }
    figure = _layer_panels(panels, selected_layer, width, "")
    class_legend(figure, {name: name for name in LOOKS})
    return figure


def _layer_panels(
    panels: Mapping[int, tuple[Image.Image, str]], selected_layer: int | None, width: int, title: str
) -> go.Figure:
    """A picture and a line of text for each layer, side by side; the chosen layer is framed."""
    sources, notes = [], []
    for layer, (tile, note) in panels.items():
        buffer = io.BytesIO()
        tile.save(buffer, "PNG", optimize=True)
        sources.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
        notes.append(f"<b>layer {layer}</b><br>{note}" if layer == selected_layer else f"layer {layer}<br>{note}")
    figure, places = panel_grid(sources, notes, PANEL, PANEL, width)
    if selected_layer is not None and selected_layer in panels:
        x, y = places[list(panels).index(selected_layer)]
        frame = {"x0": x - 3, "x1": x + PANEL + 3, "y0": y - 3, "y1": y + PANEL + 3}
        figure.add_shape(type="rect", line={"color": INK, "width": 3}, **frame)
    if title:
        figure.update_layout(title={"text": title, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 8}})
        figure.update_layout(height=figure.layout.height + 28, margin={"t": MARGIN + 28})
    return figure


def value_multiples(
    values: Mapping[int, np.ndarray], *, name: str, selected_layer: int | None = None, width: int = 1160
) -> go.Figure:
    """A measure of every patch at each layer, side by side, each layer in its own range, which stands below it.

    ``values``: by layer, [rows, cols]. Dark is low, bright is high (Viridis).
    """
    panels = {}
    for layer, grid in values.items():
        low, high = limits(grid)
        tile = Image.fromarray(colours(grid, low, high), "RGB")
        tile = tile.resize((PIXELS * grid.shape[1], PIXELS * grid.shape[0]), Image.Resampling.NEAREST)
        panels[layer] = (tile, f"{low:.3g} to {high:.3g}")
    return _layer_panels(panels, selected_layer, width, label(name))


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
        shade = tuple(round(255 - (255 - part) * max(look.opacity, 0.5)) for part in rgb(look.colour))
        draw.rectangle((x, y, x + side - 1, y + side - 1), fill=shade if not look.strokes else look.colour)
        for a, b, c, d in look.strokes:
            draw.line([(x + a * (side - 1), y + b * (side - 1)), (x + c * (side - 1), y + d * (side - 1))], fill=PAPER)
    return tile


def panel_grid(
    sources: Sequence[str], notes: Sequence[str], wide: int, high: int, width: int
) -> tuple[go.Figure, list[tuple[float, float]]]:
    """Pictures in rows, a note below each; and the upper left corner of each panel.

    Everything is put in at once: Plotly checks the whole list anew for each image or annotation that is added singly.
    """
    inner = width - 2 * MARGIN
    across = max(1, (inner - 2 * FRAME + GAP) // (wide + GAP))
    height = max(1, math.ceil(len(sources) / across)) * (high + CAPTION) + 2 * FRAME
    places: list[tuple[float, float]] = [
        (FRAME + (n % across) * (wide + GAP), FRAME + (n // across) * (high + CAPTION)) for n in range(len(sources))
    ]
    images = [
        {"source": source, "xref": "x", "yref": "y", "x": x, "y": y, "sizex": wide, "sizey": high, "sizing": "contain",
         "xanchor": "left", "yanchor": "top", "layer": "above"}
        for source, (x, y) in zip(sources, places, strict=True)
    ]  # fmt: skip
    annotations = [
        {"text": text, "font": {"size": 11}, "x": x + wide / 2, "y": y + high + 2, "xanchor": "center", "yanchor": "top",
         "showarrow": False}
        for text, (x, y) in zip(notes, places, strict=True)
    ]  # fmt: skip
    margin = {"l": MARGIN, "r": MARGIN, "t": MARGIN, "b": MARGIN, "autoexpand": False}
    figure = new_figure(
        width, height + 2 * MARGIN, margin=margin, dragmode=False, images=images, annotations=annotations
    )
    figure.update_xaxes(visible=False, range=[0, inner])
    figure.update_yaxes(visible=False, range=[height, 0])
    return figure, places


def keep_sets(
    image: Image.Image, boxes: np.ndarray, kept: Mapping[str, np.ndarray], *, width: int = 1160, side: int = 214
) -> go.Figure:
    """What each rule would keep at one budget: its patches bare, the others covered.

    ``kept``: by the rule's name, bool ``[rows, cols]``.
    """
    scale = side / max(image.size)
    photo = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    sources = []
    for mask in kept.values():
        cells = np.zeros((*mask.shape, 4), dtype=np.uint8)
        cells[~mask] = (31, 35, 40, 215)
        sources.append(picture_figure(photo, boxes * scale, cells, side, bar=False).layout.images[0].source)
    notes = [f"{label(name)}<br>keeps {int(mask.sum())} of {mask.size}" for name, mask in kept.items()]
    return panel_grid(sources, notes, photo.width, photo.height, width)[0]
