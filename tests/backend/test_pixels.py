"""What the pixels of a file show: values given by hand against the specifications of PNG and TIFF."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lens.backend import pixels
from lens.backend.images import open_picture
from lens.backend.pixels import to_rgb


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: tuple[int, int], depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """A PNG of one row, with chunks of its own before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, photometric: int, order: str = "<") -> bytes:
    """A grey TIFF of one strip of 16 or 32 bits, written by hand."""
    bits, sample = values.dtype.itemsize * 8, 3 if values.dtype.kind == "f" else 1
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 3, values.shape[1]), (257, 3, values.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 3, values.shape[0]), (279, 4, len(body)), (339, 3, sample),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack(order + ("HHLHxx" if kind == 3 else "HHLL"), tag, kind, 1, value) for tag, kind, value in tags
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8 + len(body))
    return head + body + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def greys(data: bytes) -> list[int]:
    shown = np.asarray(open_picture(data).image)
    assert (shown == shown[..., :1]).all()
    return shown[0, :, 0].tolist()


WIDE = np.array([[0, 65535, 32768, 12850]], dtype=np.uint16)


def test_sixteen_bits_where_white_is_zero():
    assert greys(tiff(WIDE, 0)) == [255, 0, 127, 205]
    assert greys(tiff(WIDE, 1)) == greys(tiff(WIDE, 1, ">")) == [0, 255, 128, 50]


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_sixteen_bits_where_white_is_zero_compressed(compression: str):
    buffer = io.BytesIO()
    Image.fromarray(WIDE).save(buffer, "TIFF", compression=compression, tiffinfo={262: 0})
    assert greys(buffer.getvalue()) == [255, 0, 127, 205]


def test_floats_where_white_is_zero():
    values = np.array([[0, 1, 0.5, 0.2]], dtype=np.float32)
    assert greys(tiff(values, 0)) == [255, 0, 128, 204]
    assert greys(tiff(values, 1)) == [0, 255, 128, 51]


@pytest.mark.parametrize(
    ("depth", "row", "key", "seen"),
    [
        (1, b"\xa0", 1, [255, 0, 255, 0]),
        (1, b"\xa0", 0, [255, 255, 255, 255]),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x0f\x51", 5, [0, 255, 255, 17]),
        (8, bytes([0, 15, 255, 17]), 17, [0, 15, 255, 255]),
        (16, struct.pack(">4H", *WIDE[0]), 12850, [0, 255, 128, 255]),
        (16, struct.pack(">4H", *WIDE[0]), 0, [255, 255, 128, 50]),
    ],
)
def test_a_transparent_grey_of_any_depth_shows_white(depth: int, row: bytes, key: int, seen: list[int]):
    assert greys(png((4, 1), depth, 0, row, chunk(b"tRNS", struct.pack(">H", key)))) == seen


def test_a_transparent_colour_of_sixteen_bits():
    colours = [(0x1234, 0x5678, 0x9ABC), (0x0100, 0x0200, 0x0300)]
    row = b"".join(struct.pack(">3H", *colour) for colour in colours)
    picture = open_picture(png((2, 1), 16, 2, row, chunk(b"tRNS", struct.pack(">3H", *colours[0])))).image
    assert np.asarray(picture)[0].tolist() == [[255, 255, 255], [1, 2, 3]]


@pytest.mark.parametrize("size", [(7, 5), (3005, 1), (1, 3005), (90, 71)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "F"])
def test_parts_make_up_the_whole(size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch):
    """Converted in parts, a picture is what it is converted at once."""
    monkeypatch.setattr(pixels, "PART", 1000)
    seeds = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    image = Image.fromarray(seeds).convert("F" if mode == "F" else mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(255 - seeds))
        whole = Image.alpha_composite(Image.new("RGBA", size, "white"), image.convert("RGBA")).convert("RGB")
    elif mode == "F":
        whole = Image.fromarray(np.rint((seeds - float(seeds.min())) / np.ptp(seeds) * 255).astype(np.uint8)).convert(
            "RGB"
        )
    else:
        whole = image.convert("RGB")
    assert np.abs(np.asarray(to_rgb(image)).astype(int) - np.asarray(whole)).max() <= (
        1 if mode in ("RGBA", "LA") else 0
    )
