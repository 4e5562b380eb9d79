"""A picture in a figure: the photo, what is painted over its patches, and the cells a reader can click.

Coordinates are pixels of the original image, y down. A patch grid comes as ``boxes``, float ``[rows, cols, 4]`` with
(x0, y0, x1, y1); boxes may reach outside the image (padding) or cover nothing. Photo and paint are one layout image:
no trace, so it takes no clicks; the clickable cells are the only trace that answers to the pointer.

Clicks. Streamlit reports a click on a scatter marker, not on a Heatmap or an Image (measured on 1.67). Plotly gives the
click to the nearest marker, and the Voronoi cell of a rectangular lattice's point is its rectangle: so the nearest
marker is the clicked patch at any displayed size, also where markers overlap.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lens.errors import PatchOutsideGrid
from lens.figures.theme import CATEGORIES, INK, PAPER, SCALE, new_figure

LONGEST = 900
"""Pixels of the longer side of the photo inside a figure."""
MARGIN = 8
BAR = 98
"""Pixels at the right that a colour bar takes: its ends with a sign and two decimals, and its title."""
REGION = CATEGORIES[4]
"""Colour of a region's outline, beside the white one of the chosen patch."""
TALLEST = 1.2
"""Greatest height of the photo, in widths of the figure."""
VEIL, HATCH = (255, 255, 255, 165), (110, 119, 129, 150)

Cell = tuple[int, int]


def picture_figure(
    image: Image.Image, boxes: np.ndarray, cells: np.ndarray, width: int, *, bar: bool, title: str = ""
) -> go.Figure:
    """The painted photo, ``width`` pixels wide with its margins, equal aspect, no axes, zoom kept between redraws.

    ``cells``: uint8 RGBA ``[rows, cols, 4]``, laid over the patches. Very long or tall photos get at least 60 and at most
    ``TALLEST`` x ``width`` pixels of height. ``title`` is escaped text.
    """
    height = round(min(max(_inner(width, bar) * image.height / image.width, 60), TALLEST * width))
    top = 36 if title else MARGIN
    figure = new_figure(
        width,
        height + top + MARGIN,
        margin={"l": MARGIN, "r": BAR if bar else MARGIN, "t": top, "b": MARGIN, "autoexpand": False},
        showlegend=False,
        uirevision="picture",
        dragmode="pan",
        hoverdistance=3,
    )
    if title:
        # Small enough that a line which names model, picture and layer fits into half a window.
        place = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 10}, "font": {"size": 12}}
        figure.update_layout(title={"text": title, **place})
    figure.update_xaxes(visible=False, range=[0, image.width], constrain="domain")
    figure.update_yaxes(visible=False, range=[image.height, 0], constrain="domain", scaleanchor="x")
    figure.add_layout_image(
        source=_painted(image, boxes, cells), xref="x", yref="y", x=0, y=0, sizex=image.width, sizey=image.height,
        sizing="stretch", layer="below",
    )  # fmt: skip
    return figure


def _inner(width: int, bar: bool) -> int:
    return max(width - MARGIN - (BAR if bar else MARGIN), 40)


def scale_of(image: Image.Image, width: int, *, bar: bool) -> float:
    """Figure pixels for one image pixel in a figure made by :func:`picture_figure`."""
    return min(_inner(width, bar) / image.width, TALLEST * width / image.height)


def _painted(image: Image.Image, boxes: np.ndarray, cells: np.ndarray) -> str:
    """The photo under its cells as a data URI; what no box covers, the encoder never saw: veiled and hatched."""
    photo = image.convert("RGB")
    photo.thumbnail((LONGEST, LONGEST))
    width, height = photo.size
    down, across = np.ogrid[0:height, 0:width]
    layer = np.full((height, width, 4), VEIL, dtype=np.uint8)
    layer[(across + down) % 11 < 1] = HATCH
    to_pixels = np.array([width / image.width, height / image.height] * 2)
    pixels = np.clip(np.rint(boxes * to_pixels), 0, [width, height] * 2).astype(int)
    for row, col in np.ndindex(boxes.shape[:2]):
        x0, y0, x1, y1 = pixels[row, col]
        layer[y0:y1, x0:x1] = cells[row, col]
    photo.paste(Image.fromarray(layer[..., :3]), mask=Image.fromarray(layer[..., 3]))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def colour_bar(figure: go.Figure, low: float, high: float, name: str) -> None:
    """A colour bar of the common scale, carried by a trace without points."""
    bar = {"title": {"text": name, "side": "right"}, "thickness": 14, "len": 0.9, "outlinewidth": 0, "x": 1.01}
    marker = {"color": [low], "cmin": low, "cmax": high, "colorscale": SCALE, "showscale": True, "colorbar": bar}
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip", name=name))


def clickable(figure: go.Figure, boxes: np.ndarray, hover: Sequence[Sequence[str]], scale: float) -> None:
    """One nearly transparent square a patch: ``customdata`` is [row, col], ``hover`` ``[rows][cols]`` its escaped text.

    ``scale`` is figure pixels for one image pixel. Patches without an area (all padding) get no marker.
    """
    cells = [(r, c) for r, c in np.ndindex(boxes.shape[:2]) if _area(boxes[r, c]) > 0]
    at = [boxes[cell] for cell in cells]
    sides = [max(b[2] - b[0], b[3] - b[1]) for b in at]
    same = {"marker": {"opacity": 0.01}}  # Streamlit's selection must not fade the others in or out
    figure.add_trace(
        go.Scatter(
            x=np.array([(b[0] + b[2]) / 2 for b in at]),
            y=np.array([(b[1] + b[3]) / 2 for b in at]),
            mode="markers",
            marker={"symbol": "square", "size": round(max(sides, default=1) * scale, 1), "opacity": 0.01, "color": INK},
            selected=same,
            unselected=same,
            customdata=[list(cell) for cell in cells],
            text=[hover[r][c] for r, c in cells],
            hovertemplate="%{text}<extra></extra>",
            name="patches",
        )
    )


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def outline(figure: go.Figure, boxes: np.ndarray, selected: Collection[Cell], colour: str = PAPER) -> None:
    """Outline the selected cells, white on black so that it shows on any photo, or in another ``colour`` on black.

    The frame goes around the cells together. Raises PatchOutsideGrid.
    """
    rows, cols = boxes.shape[:2]
    for row, col in selected:
        if not (0 <= row < rows and 0 <= col < cols):
            raise PatchOutsideGrid(
                f"Patch ({row}, {col}) lies outside the grid of {rows} x {cols} patches; "
                f"give a row from 0 to {rows - 1} and a column from 0 to {cols - 1}."
            )
    if not selected:
        return
    cells = sorted(set(selected))
    frames = [boxes[cell] for cell in cells]
    low, high = np.min(cells, axis=0), np.max(cells, axis=0)
    if np.prod(high - low + 1) == len(frames):
        whole = np.concatenate([np.min(frames, axis=0)[:2], np.max(frames, axis=0)[2:]])
        path = "M{:g},{:g}L{:g},{:g}L{:g},{:g}L{:g},{:g}Z".format(*_corners(whole))
    else:
        path = _border(boxes, cells)
    for shade, thick in (("#000000", 5), (colour, 2)):
        figure.add_shape(type="path", path=path, line={"color": shade, "width": thick}, layer="above")


def _border(boxes: np.ndarray, cells: Sequence[Cell]) -> str:
    """The sides of cells that no other of them shares, as strokes."""
    inside, strokes = set(cells), []
    for row, col in cells:
        x0, y0, x1, y1 = (float(value) for value in boxes[row, col])
        sides = {(row - 1, col): (x0, y0, x1, y0), (row + 1, col): (x0, y1, x1, y1),
                 (row, col - 1): (x0, y0, x0, y1), (row, col + 1): (x1, y0, x1, y1)}  # fmt: skip
        strokes += ["M{:g},{:g}L{:g},{:g}".format(*ends) for beyond, ends in sides.items() if beyond not in inside]
    return "".join(strokes)


def _corners(box: np.ndarray) -> tuple[float, ...]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return x0, y0, x1, y0, x1, y1, x0, y1
