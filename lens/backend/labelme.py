"""The shapes of labelme's JSON files: polygons, rectangles, circles and masks; what has no area is refused by name."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from PIL import Image

from lens.backend.areas import Area
from lens.backend.maskimages import split
from lens.backend.pixels import load
from lens.errors import MaskUnusable


def add_shape(area: Area, shape: Any) -> None:
    """Add one of a file's shapes to an area; MaskUnusable for a kind that isn't read, or whose points don't fit it.

    A rectangle has two corners opposite each other, or all four; a circle its centre and a place on it; a mask the first
    and the last pixel (inclusive) of its place, and a PNG in base64. A shape without a type is a polygon.
    """
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], dtype=float).reshape(-1, 2)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        area.add_polygon(points)
    elif kind == "circle" and len(points) == 2:
        (x, y), (dx, dy) = points[0].tolist(), (points[1] - points[0]).tolist()
        area.add_circle(x, y, math.hypot(dx, dy))
    elif kind == "mask" and len(points) == 2:
        _add_mask(area, points, shape["mask"])
    else:
        raise MaskUnusable(
            f"The mask has a shape of type {str(kind)[:40]!r} with {len(points)} points (label "
            f"{str(shape.get('label', ''))[:40]!r}), from which no area can be read; polygons, rectangles, circles of two "
            "points and masks are; redraw it or leave it out."
        )


def _add_mask(area: Area, points: np.ndarray, encoded: str) -> None:
    (left, top), (right, bottom) = (tuple(map(round, point)) for point in points.tolist())
    size = (right - left + 1, bottom - top + 1)
    if not (0 <= left <= right < area.size[0] and 0 <= top <= bottom < area.size[1]):
        raise MaskUnusable(
            f"The mask has a part from {left}, {top} to {right}, {bottom}, outside its picture of {area.size[0]} x "
            f"{area.size[1]} pixels; mend it or leave it out."
        )

    def fits(stored: Image.Image) -> None:
        found = stored.size
        if found != size:
            raise MaskUnusable(
                f"The mask has a part of {found[0]} x {found[1]} pixels at a place of {size[0]} x {size[1]}; save it again."
            )

    area.claim(size[0] * size[1])
    try:
        inside, _ = split(load(base64.b64decode(encoded), fits))
    except MaskUnusable:
        raise
    except Exception as error:  # decoders of damaged bytes raise whatever comes up
        raise MaskUnusable("The mask has a part whose picture can't be read; save it again or leave it out.") from error
    area.add_block(left, top, inside)
