"""Damaged pictures of every kind that is read: a picture, or a sentence, and soon."""

from __future__ import annotations

import io
import random
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lens.backend.images import MAX_PIXELS, open_picture
from lens.errors import ImageTooLarge, ImageUnreadable
from tests.fuzz.mutating import RUNS, damaged

SECONDS = 5.0
"""Of processor time for one picture at most."""


def photo(mode: str = "RGB") -> Image.Image:
    seeds = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(seeds).resize((40, 30)).convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    held = Image.Exif()
    held[0x0112] = 6
    held[0x010E] = "a photograph"
    held.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    return held


def several(kind: str, **options) -> bytes:
    return saved(photo(), kind, save_all=True, append_images=[photo().rotate(90), photo("L").convert("RGB")], **options)


KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved(photo(), "JPEG", exif=exif(), icc_profile=bytes(300), comment=b"a comment"),
    "JPEG, progressive": lambda: saved(photo(), "JPEG", progressive=True),
    "JPEG, four inks": lambda: saved(photo("CMYK"), "JPEG"),
    "MPO": lambda: several("MPO"),
    "PNG": lambda: saved(photo(), "PNG", exif=exif(), dpi=(72, 72), icc_profile=bytes(300)),
    "PNG, palette": lambda: saved(photo("P"), "PNG", transparency=bytes(range(256))),
    "PNG, alpha": lambda: saved(photo("RGBA"), "PNG"),
    "PNG, 16 bits": lambda: saved(
        Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG", transparency=7
    ),
    "APNG": lambda: several("PNG"),
    "WebP": lambda: saved(photo(), "WEBP", exif=exif()),
    "WebP, animated": lambda: several("WEBP", lossless=True),
    "BMP": lambda: saved(photo("P"), "BMP"),
    "GIF": lambda: several("GIF", comment=b"a comment"),
    "TIFF": lambda: saved(photo(), "TIFF", exif=exif()),
    "TIFF, packed": lambda: saved(photo("RGBA"), "TIFF", compression="tiff_lzw", tiffinfo={278: 7}),
    "TIFF, JPEG": lambda: saved(photo(), "TIFF", compression="jpeg"),
    "TIFF, floats": lambda: saved(photo("F"), "TIFF", tiffinfo={262: 0}),
    "BigTIFF": lambda: several("TIFF", big_tiff=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_is_read_or_refused(kind: str):
    data, rng = KINDS[kind](), random.Random(kind)
    assert open_picture(data).image.size in ((40, 30), (30, 40))
    read = 0
    for run in range(RUNS):
        hurt = damaged(data, rng)
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF
            try:
                picture = open_picture(hurt, "hurt")
            except (ImageUnreadable, ImageTooLarge) as error:
                assert str(error).startswith("“hurt”") and "\n" not in str(error), run
            else:
                assert picture.image.mode == "RGB" and picture.width * picture.height <= MAX_PIXELS, run
                read += 1
        assert time.process_time() - started < SECONDS, run
    assert 0 < read < RUNS, "the damage is neither always fatal nor never"
