"""A similarity map as one PNG, drawn without a browser: photo, map, contours, masks' outlines, points and a colour bar."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lens.figures.segmaps import NOTHING, POINTS, Drawn, Layer, painted_photo
from lens.figures.theme import INK, PAPER, colours, limits

BAR, MARGIN, LINE, LEAST = 96, 10, 22, 720
"""Pixels of the colour bar with its numbers, around everything, of a line of text, and at least of the photo's longer
side."""


def map_png(
    image: Image.Image, layer: Layer, *, title: str, name: str, drawn: Drawn = NOTHING, opacity: float = 0.6
) -> bytes:
    """The picture as PNG bytes, 720 to 900 pixels of photo along its longer side.

    ``title``: one line above; ``name``: of the quantity at the colour bar. Control characters are left out.
    """
    photo = painted_photo(image, layer, opacity)
    if max(photo.size) < LEAST:  # so that lines and points leave something of a small photo to be seen
        grown = LEAST / max(photo.size)
        photo = photo.resize((round(photo.width * grown), round(photo.height * grown)), Image.Resampling.BILINEAR)
    scale = photo.width / image.width
    pen = ImageDraw.Draw(photo)
    for segments, colour, thick in drawn.lines(layer, image.size):
        for shade, wide in ((INK, thick + 1.6), (colour, thick)):
            for segment in (segments * scale).tolist():
                pen.line(segment, fill=shade, width=max(1, round(wide)))
    for x, y, which in drawn.points:
        _point(pen, x * scale, y * scale, *POINTS[which])
    counts = {which: sum(point[2] == which for point in drawn.points) for which in POINTS}
    high = photo.height + (LINE + MARGIN if drawn.points else 0) + LINE + 2 * MARGIN
    sheet = Image.new("RGB", (photo.width + BAR + 2 * MARGIN, high), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    pen.text((MARGIN, MARGIN), _plain(title), fill=INK, font=font)
    left, top = MARGIN + 8, photo.height + LINE + 3 * MARGIN
    for which, number in counts.items():
        if number:
            _point(pen, left, top, *POINTS[which])
            pen.text((left + 12, top), f"{which} {number}", fill=INK, font=font, anchor="lm")
            left += 140
    sheet.paste(photo, (MARGIN, MARGIN + LINE))
    _bar(sheet, layer.values, photo.height, photo.width + 2 * MARGIN, _plain(name))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _point(pen: ImageDraw.ImageDraw, x: float, y: float, symbol: str, colour: str) -> None:
    if symbol == "x":
        for shade, wide in (("#ffffff", 6), (colour, 3)):
            pen.line((x - 5, y - 5, x + 5, y + 5), fill=shade, width=wide)
            pen.line((x - 5, y + 5, x + 5, y - 5), fill=shade, width=wide)
    elif symbol == "circle":
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour, outline="#ffffff", width=2)
    else:
        pen.polygon([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], fill=colour, outline="#ffffff")


def _bar(sheet: Image.Image, values: np.ndarray, high: int, left: int, name: str) -> None:
    low, top = limits(values)
    ramp = colours(np.linspace(top, low, max(high, 2)), low, top)
    sheet.paste(Image.fromarray(np.repeat(ramp[:, None], 14, axis=1)), (left, MARGIN + LINE))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pen.text((left + 18, MARGIN + LINE), f"{top:.3g}", fill=INK, font=font)
    pen.text((left + 18, MARGIN + LINE + high - 16), f"{low:.3g}", fill=INK, font=font)
    pen.text((left, MARGIN), name[:14], fill=INK, font=font)
