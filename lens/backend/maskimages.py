"""What is inside a mask that is an image: taken from what the file shows, not from how it stores it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from lens.backend.pixels import greys, is_wide, opacity, turn_of, white_is_zero

IGNORED = 255
"""The index of a palette image whose pixels count neither as inside nor as outside (Pascal VOC, ReasonSeg)."""
BRIGHT = 128
"""The opacity, or of black and white the lightness, from which a pixel is inside: half of 255."""

_GREY = 8
"""How far apart a grey's three channels may be."""
_DARK, _LIGHT = 32, 224
"""Lightness up to which a palette's colour is taken for black, and from which for white."""
_SHADES, _SHADE = 0.5, 0.04
"""Pixels neither black nor white that a palette of black and white may have for each white one, in all and of one colour:
edges have few of many shades, classes many of few."""

Pixels = Bool[np.ndarray, "h w"]


def split(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    """The pixels inside, and those that count neither way, of a decoded image turned upright.

    Opacity decides where it lies on both sides of half; an image that is opaque (or transparent) throughout is read by
    its colours. A palette of black and white is read by its colours too; of any other the object is every index but 0, and
    index 255 is ignored. Else the object is what is at least half as light as the lightest pixel.
    """
    reversed_, turn = white_is_zero(image), turn_of(image)
    image = image if turn is None else image.transpose(turn)
    if (alpha := opacity(image)) is not None and 0 < sum(alpha.histogram()[BRIGHT:]) < alpha.width * alpha.height:
        return np.asarray(alpha) >= BRIGHT, None
    if image.mode in ("P", "PA"):
        return _by_palette(image)
    values = greys(image, reversed_) if is_wide(image) else np.asarray(image.convert("L"))
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
        values = values - values.min() if reversed_ else values
    return (values >= values.max() / 2) & (values > 0), None


def _by_palette(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    index = image.getchannel(0)
    counts = np.array(index.histogram())
    colours = _colours(image)
    if _is_black_and_white(colours, counts):
        return (colours.mean(axis=1) >= BRIGHT)[np.asarray(index)], None
    stored = np.asarray(index)
    return stored != 0, stored == IGNORED


def _colours(image: Image.Image) -> UInt8[np.ndarray, "256 3"]:
    """The palette's colours; black where it is shorter than 256."""
    listed = np.array(image.getpalette("RGB") or [], dtype=np.uint8)[: 3 * 256]
    return np.concatenate([listed, np.zeros(3 * 256 - len(listed), np.uint8)]).reshape(-1, 3)


def _is_black_and_white(colours: UInt8[np.ndarray, "256 3"], counts: np.ndarray) -> bool:
    """Whether the colours of a palette say what is inside: black and white, with few shades between them.

    Where every index is a grey of its own number, the palette may be no more than a way to store class indices, and only
    0 and 255 themselves are black and white.
    """
    used, light = np.flatnonzero(counts), colours.mean(axis=1)
    if (np.ptp(colours[used].astype(int), axis=1) > _GREY).any():
        return False
    dark, bright = (0, IGNORED) if np.array_equal(light[used], used) else (_DARK, _LIGHT)
    white, shades = counts[light >= bright].sum(), counts[(light > dark) & (light < bright)]
    if not white:  # all black, in a palette that has white too
        return len(used) == 1 and not shades.any() and bool((light >= bright).any())
    return bool(shades.sum() <= _SHADES * white and shades.max(initial=0) <= _SHADE * white)
