"""A mask says the same however it is stored: opaque alpha, palettes in any order, deep or reversed greys, turned by EXIF."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lens.backend.maskfiles import Mask, read_mask
from lens.backend.regions import box_mask
from lens.errors import MaskUnusable

SIZE = (50, 40)
BOX = box_mask((10, 3, 45, 30), SIZE)
GREY = Image.fromarray(BOX.astype(np.uint8) * 255)
CLEAR = Image.new("L", SIZE, 0)
OPAQUE = Image.new("L", SIZE, 255)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(image: Image.Image, kind: str = "PNG", **options) -> Mask:
    return read_mask(saved(image, kind, **options), SIZE)


def palette(index: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    """Indices with the colours given; the other entries a ramp of colours that are no greys."""
    image = Image.fromarray(index.astype(np.uint8), "L")
    image.putpalette([value for k in range(256) for value in colours.get(k, (k, 0, 255 - k))])
    return image


def ramp(index: np.ndarray) -> Image.Image:
    return palette(index, {k: (k, k, k) for k in range(256)})


def with_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("opacity", [0, 100, 200, 255])
def test_alpha_that_is_the_same_everywhere_says_nothing(kind: str, mode: str, opacity: int):
    stored = with_alpha(GREY.convert(mode), Image.new("L", SIZE, opacity))
    assert stored.mode in ("LA", "RGBA")
    assert (read(stored, kind).inside == BOX).all()


def test_alpha_that_hardly_varies_says_nothing():
    noisy = Image.fromarray(np.random.default_rng(0).integers(250, 256, (40, 50), dtype=np.uint8))
    assert (read(with_alpha(GREY.convert("RGB"), noisy)).inside == BOX).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("colour", [0, 90, 255])
def test_alpha_that_varies_decides_whatever_the_colour(mode: str, colour: int):
    stored = with_alpha(Image.new("L", SIZE, colour).convert(mode), GREY)
    assert (read(stored).inside == BOX).all()


def test_the_opaque_alpha_of_webp_and_of_a_palette():
    stored = with_alpha(GREY.convert("RGB"), OPAQUE)
    assert (read(stored, "WEBP", lossless=True, exact=True).inside == BOX).all()
    shown = palette(BOX, {0: (0, 0, 0), 1: (255, 255, 255)})
    assert (read(shown, transparency=bytes([255, 255])).inside == BOX).all(), "tRNS, opaque throughout"
    assert (read(shown, transparency=7).inside == BOX).all(), "tRNS of an index that nothing has"
    assert (read(shown, transparency=0).inside == BOX).all()
    assert (read(shown, transparency=bytes([255, 0])).inside == ~BOX).all(), "alpha varies, so that it decides"


@pytest.mark.parametrize(
    "image",
    [
        ramp(BOX * 255),
        palette(BOX, {0: (0, 0, 0), 1: (255, 255, 255)}),
        palette(~BOX, {0: (255, 255, 255), 1: (0, 0, 0)}),
        palette(np.where(BOX, 0, 255), {0: (255, 255, 255), 255: (0, 0, 0)}),
        palette(np.where(BOX, 200, 7), {7: (3, 2, 4), 200: (250, 251, 249)}),
        GREY.convert("P"),
        GREY.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE),
        GREY.convert("RGB").quantize(4),
    ],
    ids=["255", "0 and 1", "reversed", "white at 0, black at 255", "nearly", "web", "adaptive", "quantised"],
)
@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_a_palette_of_black_and_white_is_read_by_its_colours(image: Image.Image, kind: str):
    assert image.mode == "P"
    mask = read(image, kind)
    assert (mask.inside == BOX).all() and not mask.ignored.any()


def test_edges_between_black_and_white_are_shades():
    soft = np.asarray(GREY.resize((500, 400)).rotate(7).resize(SIZE, Image.Resampling.BILINEAR))
    assert len(np.unique(soft)) > 3
    assert (read(ramp(soft)).inside == (soft >= 128)).all()


def index_of_classes(border: int) -> np.ndarray:
    index = np.zeros((40, 50), dtype=np.uint8)
    index[5:20, 5:20] = border
    index[8:17, 8:17] = 3
    index[25:35, 5:30] = 1
    return index


@pytest.mark.parametrize(
    "colours",
    [
        {0: (0, 0, 0), 1: (128, 0, 0), 3: (128, 128, 0), 255: (224, 224, 192)},  # Pascal VOC's
        {0: (0, 0, 0), 1: (128, 0, 0), 3: (255, 255, 255), 255: (255, 255, 255)},
        {0: (255, 255, 255), 1: (0, 0, 0), 3: (255, 0, 0), 255: (9, 9, 9)},
        {k: (k, k, k) for k in range(256)},
        dict.fromkeys(range(256), (0, 0, 0)),
    ],
    ids=["VOC", "white void", "white background", "ramp", "no colours"],
)
def test_class_indices_are_read_by_number(colours: dict):
    mask = read(palette(index_of_classes(255), colours))
    assert mask.inside.sum() == 81 + 250 and mask.ignored.sum() == 15 * 15 - 81


def test_a_small_class_within_much_that_is_ignored():
    """A grey ramp, which is what indices get that were given no colours: the object is no shade of the border."""
    index = np.zeros((40, 50), dtype=np.uint8)
    index[5:21, 5:21] = 255
    index[10:16, 10:16] = 1
    mask = read(ramp(index))
    assert mask.inside.sum() == 36 and mask.ignored.sum() == 16 * 16 - 36


def test_a_class_of_one_colour_on_black_or_white():
    for ground in ((0, 0, 0), (255, 255, 255)):
        assert (read(palette(BOX, {0: ground, 1: (200, 30, 30)})).inside == BOX).all()


def test_one_colour_throughout():
    whole = np.zeros((40, 50), dtype=np.uint8)
    reversed_ = {0: (255, 255, 255), 1: (0, 0, 0)}
    assert read(palette(whole, reversed_)).inside.all()
    for image in (palette(whole + 1, reversed_), palette(whole, {0: (0, 0, 0)}), Image.new("1", SIZE, 0)):
        with pytest.raises(MaskUnusable, match="is empty"):
            read(image)
    assert read(palette(whole + 1, {0: (0, 0, 0), 1: (128, 0, 0)})).inside.all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("PNG", "TIFF") for mode in ("L", "P", "RGBA", "I;16")] + [("WEBP", "L"), ("JPEG", "L")],
)
def test_a_turned_mask_is_turned_back(kind: str, orientation: int, mode: str):
    """The stored pixels are such that the viewer's turn (EXIF 2.3) shows the box; read as a picture, they do too."""
    turns = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    grey = Image.fromarray(np.ascontiguousarray(turns[orientation](np.asarray(GREY))))
    stored = {
        "L": lambda: grey,
        "P": lambda: palette(np.asarray(grey) == 0, {0: (255, 255, 255), 1: (0, 0, 0)}),
        "RGBA": lambda: with_alpha(Image.new("RGB", grey.size), grey),
        "I;16": lambda: Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
    }[mode]()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    assert (read(stored, kind, exif=exif, **options).inside == BOX).mean() > (0.99 if kind == "JPEG" else 1 - 1e-9)


def test_a_turned_mask_of_another_size_is_refused_with_the_size_it_shows():
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(MaskUnusable, match="40 x 50 pixels, but the picture has 50 x 40"):
        read(GREY, exif=exif)
    with pytest.raises(MaskUnusable, match="50 x 41 pixels, but the picture has 50 x 40"):
        read(Image.new("L", (50, 41), 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_greys_and_single_bits(kind: str):
    for image in (
        Image.fromarray(BOX),
        Image.fromarray(BOX.astype(np.uint16) * 65535),
        Image.fromarray(BOX.astype(np.uint16)),
    ):
        assert (read(image, kind).inside == BOX).all(), image.mode


@pytest.mark.parametrize(
    "values", [BOX * np.int32(70000), BOX - (~BOX).astype(np.int32), np.where(BOX, np.float32(0.7), np.float32(np.nan))]
)
def test_values_without_a_nominal_range(values: np.ndarray):
    assert (read(Image.fromarray(values), "TIFF").inside == BOX).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("kind", ["bits", "8", "16", "float"])
def test_white_is_zero(compression: str, kind: str):
    """TIFF 6.0, PhotometricInterpretation 0: white is stored as 0."""
    stored = {
        "bits": Image.fromarray(BOX),
        "8": Image.fromarray(BOX.astype(np.uint8) * 255),
        "16": Image.fromarray((~BOX).astype(np.uint16) * 65535),
        "float": Image.fromarray((~BOX).astype(np.float32)),
    }[kind]
    data = saved(stored, "TIFF", compression=compression, tiffinfo={262: 0})
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0  # type: ignore[attr-defined]
    assert (read_mask(data, SIZE).inside == BOX).all()


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_white_is_no_ink(kind: str):
    options = {"quality": 95} if kind == "JPEG" else {}
    assert (read(GREY.convert("RGB").convert("CMYK"), kind, **options).inside == BOX).mean() > 0.99


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_of_several_frames_the_first_as_in_pictures(kind: str):
    assert (read(GREY, kind, save_all=True, append_images=[OPAQUE, CLEAR]).inside == BOX).all()
