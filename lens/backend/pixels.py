"""What an image file's pixels show, however they are stored: bit depth, reversed greys, palette, opacity, EXIF orientation.

Pictures and masks are both read through here. Pixels are gone through in parts of at most :data:`PART` of them, so that no
more than two pictures of the full size stand in memory at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image

from lens.backend.structure import check_structure

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""The decoders that are tried. Pillow knows some forty more, which nobody asked for and an attacker could reach."""

PART = 1 << 21
"""Pixels that are converted at once."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (EXIF 2.3, tag 0x0112) → the transposition that shows the picture upright."""

_PHOTOMETRIC = 262
"""TIFF 6.0's tag PhotometricInterpretation; 0 is WhiteIsZero."""
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colours are multiplied with their opacity → those whose aren't."""


def load(data: bytes, check: Callable[[Image.Image], None]) -> Image.Image:
    """The first frame as it is stored, not yet turned upright; ``check`` is called with it before a pixel is decoded.
    Raises TooElaborate, and whatever Pillow raises."""
    check_structure(data)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    check(image)
    kept = _stored(image)
    image.load()
    # A file may say what is transparent only after its pixels.
    if (key := image.info.get("transparency")) is not None and image.format == "PNG":
        image.info["transparency"] = _in_decoded_units(key, kept)
    return image


def _stored(image: Image.Image) -> str:
    """How the pixels lie in the file, as Pillow calls it (``RGB;16B``, ``L;4``)."""
    args = image.tile[0][3] if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    return args if isinstance(args, str) else ""


def _in_decoded_units(key: object, stored: str) -> object:
    """A PNG's transparent value is in the file's units, which Pillow leaves it in while it scales the pixels to 8 bits."""
    if isinstance(key, int):
        return key * {"L;2": 85, "L;4": 17}.get(stored, 1)
    if isinstance(key, tuple) and stored == "RGB;16B":
        return tuple(value >> 8 for value in key)
    return key


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The transposition that shows a *decoded* image upright: Pillow turns TIFFs itself while it loads them, and then drops
    the tag."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None  # a damaged EXIF block says nothing about the pixels
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def opacity(image: Image.Image) -> Image.Image | None:
    """The opacity of every pixel, mode L; None where the file gives none."""
    if not image.has_transparency_data:
        return None
    if len(image.getbands()) in (2, 4) and image.mode != "CMYK":
        return image.getchannel(len(image.getbands()) - 1)
    key = image.info["transparency"]
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if image.mode in ("L", "P") and isinstance(key, int | bytes):
        single = isinstance(key, int)
        table = [255 * (index != key) for index in range(256)] if single else [*key, *[255] * (256 - len(key))]
        return image.point(table[:256], "L")
    return image.convert("RGBA").getchannel("A")


def greys(image: Image.Image, reversed_: bool) -> np.ndarray:
    """The values [h, w] of an image of more than 8 bits, greater ones lighter."""
    values = np.asarray(image)
    if not reversed_:
        return values
    return 65535 - values if image.mode.startswith("I;16") else -values


def is_wide(image: Image.Image) -> bool:
    """Whether the pixels are greys of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def white_is_zero(image: Image.Image) -> bool:
    """Whether greater values are darker and Pillow left them so: it reverses those of up to 8 bits alone."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == 0 and is_wide(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """What a decoded image shows, on white where it is transparent; not turned."""
    reversed_ = white_is_zero(image)
    limits = _limits(image, reversed_)
    shown = Image.new("RGB", image.size, "white")
    for box in _parts(image.size):
        part = image.crop(box)
        part = part.convert(_STRAIGHT.get(part.mode, part.mode))
        alpha = opacity(part)
        part.info.pop("transparency", None)  # dealt with; Pillow would warn that RGB has none
        colours = _eight_bits(greys(part, reversed_), limits) if is_wide(part) else part
        shown.paste(colours.convert("RGB"), box, alpha)
    return shown


def _parts(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cover a picture, of at most :data:`PART` pixels each."""
    width, height = min(size[0], PART), max(1, PART // size[0])
    for top in range(0, size[1], height):
        for left in range(0, size[0], width):
            yield left, top, min(left + width, size[0]), min(top + height, size[1])


def _limits(image: Image.Image, reversed_: bool) -> tuple[float, float] | None:
    """The least and the greatest finite value of an image without a nominal range; None where the mode has one."""
    if image.mode not in ("I", "F"):
        return None
    low, high = np.inf, -np.inf
    for box in _parts(image.size):
        values = greys(image.crop(box), reversed_)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _eight_bits(values: np.ndarray, limits: tuple[float, float] | None) -> Image.Image:
    """Greys: of 16 bits scaled (Pillow's own conversion clips at 255, which turns nearly every such picture white), of those
    without a nominal range the least black and the greatest white."""
    if limits is None:
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    low, high = limits
    finite = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return Image.fromarray(np.rint(np.clip((finite - low) / ((high - low) or 1.0), 0, 1) * 255).astype(np.uint8))
