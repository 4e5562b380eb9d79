"""The benchmark's own drawings: letters, digits and a small set of silhouettes, as masks of any size.

Nothing is taken from an emoji set. Letters and digits are Aileron's (CC0), which is built into Pillow; silhouettes are a few
polygons and ellipses each, in a unit square with y down. A mask is drawn large and averaged down, so that edges are smooth
and no ink leaves its square.
"""

from __future__ import annotations

import math
import string
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

LETTERS = tuple(string.ascii_uppercase)
DIGITS = tuple(string.digits)
FINE = 512
"""Pixels of a side at which a mask is drawn before it is averaged down."""
WEIGHT = 0.035
"""Stroke added around a glyph, of its size: the built-in font is too thin for a patch of a few pixels."""

Part = tuple[str, int, tuple[float, ...]]
"""``("polygon" | "ellipse" | "box" | "line", ink 1 or hole 0, numbers)``: x, y of the corners; x0, y0, x1, y1; for a line
its width, then x, y of its points."""


def _regular(corners: int, inner: float = 1.0, turn: float = -90.0) -> tuple[float, ...]:
    """A regular polygon, or with ``inner`` a star, around the middle."""
    points: list[float] = []
    steps = corners if inner == 1.0 else 2 * corners
    for step in range(steps):
        radius = 0.5 * (inner if inner != 1.0 and step % 2 else 1.0)
        angle = math.radians(turn + 360 * step / steps)
        points += [0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)]
    return tuple(points)


SHAPES: dict[str, tuple[Part, ...]] = {
    "circle": (("ellipse", 1, (0, 0, 1, 1)),),
    "square": (("box", 1, (0, 0, 1, 1)),),
    "triangle": (("polygon", 1, (0.5, 0, 1, 0.9, 0, 0.9)),),
    "star": (("polygon", 1, _regular(5, 0.4)),),
    "heart": (
        ("ellipse", 1, (0, 0.02, 0.53, 0.55)),
        ("ellipse", 1, (0.47, 0.02, 1, 0.55)),
        ("polygon", 1, (0.045, 0.42, 0.5, 0.3, 0.955, 0.42, 0.5, 0.98)),
    ),
    "cross": (("box", 1, (0.34, 0, 0.66, 1)), ("box", 1, (0, 0.34, 1, 0.66))),
    "arrow": (("polygon", 1, (0, 0.36, 0.55, 0.36, 0.55, 0.1, 1, 0.5, 0.55, 0.9, 0.55, 0.64, 0, 0.64)),),
    "ring": (("ellipse", 1, (0, 0, 1, 1)), ("ellipse", 0, (0.22, 0.22, 0.78, 0.78))),
    "moon": (("ellipse", 1, (0, 0, 1, 1)), ("ellipse", 0, (0.3, -0.08, 1.22, 0.84))),
    "house": (
        ("polygon", 1, (0.5, 0, 1, 0.45, 0, 0.45)),
        ("box", 1, (0.14, 0.42, 0.86, 1)),
        ("box", 0, (0.42, 0.62, 0.6, 1)),
    ),
    "tree": (
        ("polygon", 1, (0.5, 0, 0.8, 0.36, 0.2, 0.36)),
        ("polygon", 1, (0.5, 0.2, 0.92, 0.78, 0.08, 0.78)),
        ("box", 1, (0.42, 0.76, 0.58, 1)),
    ),
    "flower": (
        *(
            ("ellipse", 1, (0.32 + 0.3 * x, 0.22 + 0.22 * y, 0.68 + 0.3 * x, 0.48 + 0.22 * y))
            for x, y in ((-1, 0), (1, 0), (-0.6, -1), (0.6, -1), (-0.6, 1), (0.6, 1))
        ),
        ("ellipse", 1, (0.34, 0.2, 0.66, 0.5)),
        ("ellipse", 0, (0.41, 0.27, 0.59, 0.43)),
        ("box", 1, (0.46, 0.6, 0.54, 1)),
        ("ellipse", 1, (0.52, 0.76, 0.82, 0.9)),
    ),
    "fish": (
        ("ellipse", 1, (0, 0.22, 0.76, 0.78)),
        ("polygon", 1, (0.62, 0.5, 1, 0.2, 0.92, 0.5, 1, 0.8)),
        ("ellipse", 0, (0.14, 0.38, 0.23, 0.47)),
    ),
    "cat": (
        ("polygon", 1, (0.1, 0.0, 0.42, 0.2, 0.12, 0.42)),
        ("polygon", 1, (0.9, 0.0, 0.58, 0.2, 0.88, 0.42)),
        ("ellipse", 1, (0.06, 0.14, 0.94, 0.94)),
        ("ellipse", 0, (0.24, 0.42, 0.38, 0.56)),
        ("ellipse", 0, (0.62, 0.42, 0.76, 0.56)),
        ("polygon", 0, (0.44, 0.64, 0.56, 0.64, 0.5, 0.72)),
    ),
    "bird": (
        ("ellipse", 1, (0.2, 0.36, 0.84, 0.86)),
        ("ellipse", 1, (0.08, 0.16, 0.44, 0.52)),
        ("polygon", 1, (0.1, 0.28, 0.1, 0.42, 0, 0.36)),
        ("polygon", 1, (0.7, 0.5, 1, 0.34, 0.86, 0.74)),
        ("ellipse", 0, (0.18, 0.26, 0.25, 0.33)),
    ),
    "boat": (
        ("polygon", 1, (0, 0.7, 1, 0.7, 0.82, 0.98, 0.16, 0.98)),
        ("polygon", 1, (0.46, 0, 0.46, 0.64, 0.04, 0.64)),
        ("polygon", 1, (0.54, 0.12, 0.9, 0.64, 0.54, 0.64)),
    ),
    "car": (
        ("polygon", 1, (0, 0.52, 0.2, 0.48, 0.32, 0.24, 0.7, 0.24, 0.84, 0.48, 1, 0.54, 1, 0.72, 0, 0.72)),
        ("polygon", 0, (0.29, 0.46, 0.37, 0.31, 0.48, 0.31, 0.48, 0.46)),
        ("polygon", 0, (0.54, 0.31, 0.66, 0.31, 0.74, 0.46, 0.54, 0.46)),
        ("ellipse", 1, (0.12, 0.58, 0.36, 0.82)),
        ("ellipse", 1, (0.64, 0.58, 0.88, 0.82)),
    ),
    "cup": (
        ("polygon", 1, (0.06, 0.14, 0.72, 0.14, 0.64, 0.9, 0.14, 0.9)),
        ("ellipse", 1, (0.56, 0.26, 0.98, 0.68)),
        ("ellipse", 0, (0.68, 0.37, 0.87, 0.57)),
    ),
    "key": (
        ("ellipse", 1, (0, 0.3, 0.4, 0.7)),
        ("ellipse", 0, (0.12, 0.42, 0.28, 0.58)),
        ("box", 1, (0.36, 0.44, 1, 0.56)),
        ("box", 1, (0.74, 0.52, 0.82, 0.74)),
        ("box", 1, (0.9, 0.52, 0.98, 0.7)),
    ),
    "bottle": (
        ("box", 1, (0.42, 0, 0.58, 0.3)),
        ("polygon", 1, (0.42, 0.24, 0.58, 0.24, 0.72, 0.46, 0.72, 1, 0.28, 1, 0.28, 0.46)),
    ),
    "umbrella": (
        ("ellipse", 1, (0, 0.06, 1, 1.06)),
        ("box", 0, (0, 0.56, 1, 1.1)),
        ("line", 1, (0.07, 0.5, 0.5, 0.5, 0.9, 0.58, 0.96, 0.66, 0.94, 0.7, 0.86)),
    ),
    "mushroom": (
        ("ellipse", 1, (0, 0.02, 1, 1.0)),
        ("box", 0, (0, 0.52, 1, 1.0)),
        ("polygon", 1, (0.36, 0.5, 0.64, 0.5, 0.7, 1, 0.3, 1)),
    ),
    "bell": (
        ("ellipse", 1, (0.18, 0.04, 0.82, 0.72)),
        ("polygon", 1, (0.18, 0.4, 0.82, 0.4, 0.98, 0.82, 0.02, 0.82)),
        ("ellipse", 1, (0.4, 0.78, 0.6, 0.98)),
    ),
    "ladder": (
        ("box", 1, (0.2, 0, 0.32, 1)),
        ("box", 1, (0.68, 0, 0.8, 1)),
        *(("box", 1, (0.3, y, 0.7, y + 0.09)) for y in (0.1, 0.34, 0.58, 0.82)),
    ),
}
"""Name → parts, drawn one over the other."""


@lru_cache(maxsize=512)
def mask(kind: str, name: str, side: int) -> Float[np.ndarray, "side side"]:
    """How much ink each pixel of a square holds, 0 to 1: the item centred, its longer side the square's. Not to be
    written to: it is kept."""
    fine = _silhouette(SHAPES[name]) if kind == "object" else _glyph(name)
    tight = fine.crop(fine.getbbox())
    scale = FINE / max(tight.size)
    size = max(1, round(tight.width * scale)), max(1, round(tight.height * scale))
    whole = Image.new("L", (FINE, FINE))
    whole.paste(tight.resize(size, Image.Resampling.BILINEAR), ((FINE - size[0]) // 2, (FINE - size[1]) // 2))
    return np.asarray(whole.resize((side, side), Image.Resampling.BOX), dtype=np.float64) / 255


def _glyph(character: str) -> Image.Image:
    """A character drawn large, with room around it."""
    image = Image.new("L", (2 * FINE, 2 * FINE))
    stroke = round(WEIGHT * FINE)
    ImageDraw.Draw(image).text(
        (FINE // 2, FINE // 2), character, fill=255, font=ImageFont.load_default(FINE), stroke_width=stroke
    )
    return image


def _silhouette(parts: tuple[Part, ...]) -> Image.Image:
    """A shape drawn large, with room around it."""
    image = Image.new("L", (2 * FINE, 2 * FINE))
    draw = ImageDraw.Draw(image)

    def at(number: float) -> float:
        return FINE * (0.5 + number)

    for form, ink, numbers in parts:
        fill = 255 * ink
        if form == "polygon":
            draw.polygon([at(n) for n in numbers], fill=fill)
        elif form == "line":
            draw.line([at(n) for n in numbers[1:]], fill=fill, width=round(FINE * numbers[0]), joint="curve")
        elif form == "ellipse":
            draw.ellipse([at(n) for n in numbers], fill=fill)
        else:
            draw.rectangle([at(n) for n in numbers], fill=fill)
    return image
