"""Every kind of file a reader may give: what opens, opens right; what doesn't, says so in one sentence."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens.backend import images
from lens.backend.images import endings, open_picture
from lens.backend.pixels import TURNS
from lens.errors import ImageTooLarge, ImageUnreadable, LensError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners() -> Image.Image:
    """40 x 24, red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (40, 24), WHITE)
    image.paste(RED, (0, 0, 20, 12))
    image.paste(GREEN, (20, 0, 40, 12))
    image.paste(BLUE, (0, 12, 20, 24))
    return image


@functools.cache
def blank_png(side: int) -> bytes:
    """A square black PNG, compressed row by row so that it never stands in memory."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer, row = zlib.compressobj(9), bytes(1 + side)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def near(found: tuple[int, ...], wanted: tuple[int, ...], tolerance: int = 3) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_lossless_formats_keep_every_pixel(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = open_picture(saved(corners(), kind, **options), "a")
    assert picture.image.mode == "RGB"
    assert (picture.width, picture.height) == (40, 24)
    assert np.array_equal(np.asarray(picture.image), np.asarray(corners()))


@pytest.mark.parametrize("name", ["a", "a.jfif", "a.jpe", "a.mpo", "a.txt", "a.png"])
def test_the_content_decides_and_not_the_name(name: str, tmp_path: Path):
    kind = "MPO" if name == "a.mpo" else "JPEG"
    (tmp_path / name).write_bytes(saved(corners(), kind, quality=95, subsampling=0))
    assert near(open_picture(tmp_path / name).image.getpixel((3, 3)), RED)


def test_the_endings_are_those_of_what_is_read():
    common = {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".gif",
    }
    assert common <= endings() and not {".ppm", ".pdf", ".svg", ".eps", ".ico", ".avif", ""} & endings()


def test_jpeg_is_close():
    picture = open_picture(saved(corners(), "JPEG", quality=95, subsampling=0), "a.jpg")
    assert near(picture.image.getpixel((3, 3)), RED) and near(picture.image.getpixel((36, 3)), GREEN)


def test_name_digest_and_equality(tmp_path):
    data = saved(corners())
    path = tmp_path / "three & <b>.png"
    path.write_bytes(data)
    picture = open_picture(path)
    assert picture.name == "three & <b>.png"
    assert picture.digest == hashlib.sha256(data).hexdigest()
    assert picture == open_picture(str(path)) == open_picture(data, "three & <b>.png")
    assert open_picture(data).name == "image"
    assert len({picture, open_picture(path)}) == 1


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000)])
def test_extreme_shapes_work(size):
    picture = open_picture(saved(Image.new("RGB", size, RED)))
    assert picture.image.size == size and picture.image.getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    picture = open_picture(saved(Image.fromarray(ramp), kind))
    assert np.array_equal(np.asarray(picture.image)[..., 1].ravel(), np.arange(256))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_nominal_range_are_stretched(dtype):
    values = np.array([[-1000, 0], [500, 1000]], dtype=dtype)
    grey = np.asarray(open_picture(saved(Image.fromarray(values), "TIFF")).image)[..., 0]
    assert grey.tolist() == [[0, 128], [191, 255]]


def test_float_pictures_survive_nan_and_a_constant():
    values = np.array([[np.nan, 0.0], [1.0, np.inf]], dtype=np.float32)
    assert np.asarray(open_picture(saved(Image.fromarray(values), "TIFF")).image)[..., 0].tolist() == [
        [0, 0],
        [255, 255],
    ]
    constant = np.full((2, 2), 7.0, dtype=np.float32)
    assert open_picture(saved(Image.fromarray(constant), "TIFF")).image.getpixel((0, 0)) == (0, 0, 0)


def test_cmyk_keeps_its_colours():
    picture = open_picture(saved(corners().convert("CMYK"), "TIFF"))
    assert picture.image.getpixel((3, 3)) == RED and picture.image.getpixel((36, 20)) == WHITE
    assert near(open_picture(saved(corners().convert("CMYK"), "JPEG", quality=95)).image.getpixel((3, 3)), RED, 8)


def test_palette_and_bilevel():
    quantised = corners().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert open_picture(saved(quantised)).image.getpixel((36, 3)) == GREEN
    assert open_picture(saved(Image.new("1", (4, 4), 1))).image.getpixel((1, 1)) == WHITE


def test_alpha_is_composited_on_white():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    half.putpixel((0, 0), (0, 0, 0, 0))
    picture = open_picture(saved(half))
    assert picture.image.getpixel((0, 0)) == WHITE
    assert near(picture.image.getpixel((1, 1)), (255, 127, 127), 1)


def test_other_transparencies_too():
    assert open_picture(saved(Image.new("LA", (4, 4), (0, 0)))).image.getpixel((2, 2)) == WHITE
    assert open_picture(saved(Image.new("P", (4, 4), 0), transparency=0)).image.getpixel((2, 2)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animated_shows_the_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = open_picture(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert picture.image.getpixel((8, 8)) == RED


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_once(kind, orientation):
    # What a camera stores so that the viewer's turn gives `corners` again: the inverse transposition.
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = corners() if orientation == 1 else corners().transpose(TURNS[inverse])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = open_picture(saved(stored, kind, exif=exif, **options))
    assert picture.image.size == (40, 24)
    assert np.array_equal(np.asarray(picture.image), np.asarray(corners()))


def test_orientation_six_turns_clockwise():
    """EXIF 6: row 0 of the stored pixels is the visual right side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = open_picture(saved(corners(), exif=exif))
    assert picture.image.size == (24, 40)
    assert picture.image.getpixel((20, 3)) == RED and picture.image.getpixel((3, 3)) == BLUE


def test_damaged_exif_leaves_the_picture_readable():
    data = saved(corners(), "JPEG", quality=95, subsampling=0, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert open_picture(data).image.size == (40, 24)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [8001, 13000, 16000])
def test_huge_picture_is_refused_before_decoding(side):
    data = blank_png(side)
    started = time.process_time()
    with pytest.raises(ImageTooLarge, match=r"megapixels"):
        open_picture(data, "huge.png")
    assert len(data) < 1_000_000
    assert time.process_time() - started < 0.1  # decoding 13000 x 13000 takes 1.4 s and 1.3 GB


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refusal_names_size_and_limit():
    with pytest.raises(
        ImageTooLarge, match=r"“huge.png” is 13000 x 13000 pixels \(169 megapixels\).*64 megapixels.*scale"
    ):
        open_picture(blank_png(13000), "huge.png")


def test_too_many_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    data = saved(corners())
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(ImageTooLarge, match="smaller version"):
            open_picture(source)


def test_text_named_png(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("these are my notes\n" * 9)
    with pytest.raises(ImageUnreadable, match=r"“notes.png” is no image.*171 bytes.*PNG, JPEG"):
        open_picture(path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (
            saved(Image.new("L", (4, 4)), "TIFF").replace(b"\x02\x01\x03\0\1\0\0\0\x08", b"\x02\x01\x03\0\1\0\0\0\x09"),
            "TIFF",
        ),
    ],
)
def test_a_format_that_is_known_and_a_kind_that_is_not(data: bytes, kind: str):
    """No file that begins like a PNG is told that it doesn't."""
    with pytest.raises(ImageUnreadable, match=f"is a damaged {kind}, or of bits, colours"):
        open_picture(data)


def test_empty_missing_folder(tmp_path):
    with pytest.raises(ImageUnreadable, match="empty"):
        open_picture(b"", "a.png")
    with pytest.raises(ImageUnreadable, match="does not exist"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(ImageUnreadable, match="folder"):
        open_picture(tmp_path)
    with pytest.raises(ImageUnreadable):
        open_picture("a\0b.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_is_refused(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    with pytest.raises(ImageUnreadable, match=r"“cut” is"):
        open_picture(data[: len(data) // 2], "cut")


def test_other_formats_are_not_decoded():
    for kind in ("PPM", "ICO", "TGA"):
        with pytest.raises(ImageUnreadable, match="no image that can be read"):
            open_picture(saved(corners(), kind), "a.png")


def test_name_in_a_message_is_one_short_plain_line():
    with pytest.raises(ImageUnreadable) as caught:
        open_picture(b"x", "a\n\u202eb" + "c" * 500)
    assert "\n" not in str(caught.value) and "\u202e" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_flipped_bytes_give_a_picture_or_a_sentence(kind):
    good, chance = saved(corners(), kind), random.Random(7)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            picture = open_picture(bytes(data), "flipped")
        except LensError as error:
            assert str(error).startswith("“flipped”")
        else:
            assert picture.image.mode == "RGB"


def test_many_threads_at_once():
    sources = [saved(corners(), kind) for kind in ("PNG", "GIF", "BMP", "TIFF")] * 20
    barrier = threading.Barrier(8)

    def opened(chunk: int) -> list[bytes]:
        barrier.wait()
        return [open_picture(data).image.tobytes() for data in sources[chunk::8]]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(opened, range(8)))
    assert {one for part in results for one in part} == {corners().tobytes()}
