"""Small files that say much: refused before anything is decoded. What cameras and programs write is never refused, and the
most that passes takes 5 s and 1 GB at most."""

from __future__ import annotations

import io
import re
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lens.backend.images import open_picture
from lens.backend.maskfiles import read_mask
from lens.backend.structure import TooElaborate, check_structure
from lens.errors import ImageTooLarge, MaskUnusable
from tests.costs import cost


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    seeds = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC)


def segment(code: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def jpeg(*segments: bytes, **options) -> bytes:
    """A JPEG with segments of its own before all others."""
    data = saved(photo(), "JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:]


def rescanned(times: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A progressive JPEG whose last scan, with its table, comes again and again."""
    data = saved(photo(*size), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:-2] + data[last:-2] * times + b"\xff\xd9"


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: bytes, step: int = 1 << 20) -> bytes:
    """A PNG with chunks of its own before the pixels, which come in chunks of ``step`` bytes."""
    data = saved(photo(), "PNG")
    pixels = b"".join(re.findall(rb"IDAT(.*?).{4}(?=....IEND|....IDAT)", data, re.DOTALL))
    parts = [chunk(b"IDAT", pixels[at : at + step]) for at in range(0, len(pixels), step)]
    return data[:33] + b"".join(chunks) + b"".join(parts) + chunk(b"IEND")


def tiff(extra: dict[int, tuple[int, list[int]]], big: bool = False, order: str = "<", doubled: bool = False) -> bytes:
    """An 8 x 8 grey TIFF of one strip; ``extra``: tag → (type, values), besides or instead of its own."""
    forms = {3: "H", 4: "L", 5: "L", 16: "Q"}
    tags = {256: (3, [8]), 257: (3, [8]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 273: (4, [16]), 278: (3, [8]),
            279: (4, [64]), **extra}  # fmt: skip
    count, step, wide = ("Q", 20, "Q") if big else ("H", 12, "L")
    body, entries = bytes(range(0, 256, 4)), b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{forms[kind]}", *values)
        room = struct.calcsize(order + wide)
        if len(packed) > room:
            packed, place = struct.pack(order + wide, 16 + len(body)), packed
            body += place
        entries += struct.pack(order + "HH" + wide, tag, kind, len(values) // (2 if kind == 5 else 1)) + packed.ljust(
            room, b"\0"
        )
    entries *= 1 + doubled
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + ("HHQ" if big else "L"), *((8, 0) if big else ()), 16 + len(body))
    return head.ljust(16, b"\0") + body + struct.pack(order + count, len(entries) // step) + entries + bytes(8)


def gif(*blocks: bytes) -> bytes:
    data = saved(photo().convert("P"), "GIF")
    first = 13 + (3 << (data[10] & 7) + 1)
    return data[:first] + b"".join(blocks) + data[first:]


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    data = saved(photo(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    body = data[12:] + b"".join(
        struct.pack("<4sI", name, len(held)) + held + b"\0" * (len(held) % 2) for name, held in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def rle_bmp(size: tuple[int, int], runs: bytes) -> bytes:
    """A grey BMP with run lengths (compression 1, BI_RLE8)."""
    palette = b"".join(bytes([k, k, k, 0]) for k in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + palette + runs


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "JPEG scans": (lambda: rescanned(400), "410 scans, more than the 64"),
    "JPEG segments": (lambda: jpeg(segment(0xE1) * 5000), "segments"),
    "JPEG segments of no length": (lambda: jpeg(b"\xff\xe1\0\0" * 5000), "segments"),
    "JPEG starts": (lambda: jpeg(b"\xff\xd8" * 5000), "segments"),
    "JPEG EXIF": (lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 100), "100 segments of EXIF"),
    "JPEG Photoshop": (lambda: jpeg(segment(0xED, b"Photoshop 3.0\0") * 300), "300 segments of Photoshop's"),
    "JPEG tables": (lambda: jpeg(segment(0xDB, bytes(65) * 1000) * 20), "bytes of quantisation tables"),
    "JPEG junk": (lambda: jpeg(segment(0xFE), bytes(1_000_001)), "stray bytes"),
    "JPEG padding": (lambda: jpeg(b"\xff" * 1_000_001), "stray bytes"),
    "JPEG nothing but junk": (lambda: b"\xff\xd8\xff\xe0\0\x04ab" + bytes(1_000_001), "stray bytes"),
    "PNG chunks": (lambda: png(chunk(b"IDAT") * 100_001), "chunks"),
    "PNG notes": (lambda: png(chunk(b"tEXt", b"a\0b") * 1001), "chunks besides its pixels"),
    "PNG profiles": (lambda: png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 1001), "besides its pixels"),
    "PNG EXIF": (lambda: png(chunk(b"eXIf", bytes(4_000_001))), "bytes of EXIF"),
    "PNG EXIF as text": (lambda: png(chunk(b"tEXt", b"Raw profile type exif\0" + b"0" * 4_000_001)), "bytes of EXIF"),
    "WebP chunks": (lambda: webp(*[(b"abcd", b"")] * 100_001), "chunks"),
    "WebP EXIF": (lambda: webp((b"EXIF", bytes(4_000_001))), "bytes of EXIF"),
    "GIF blocks": (lambda: gif(b"!\xfe" + b"\x01a" * 100_001 + b"\0"), "blocks before its first picture"),
    "GIF extensions": (lambda: gif(b"!\xfe\0" * 100_001), "blocks before its first picture"),
    "GIF zeros": (lambda: gif(bytes(100_001)), "blocks before its first picture"),
    "BMP runs": (lambda: rle_bmp((4000, 4000), b"\x01\x07" * 2_000_001), "bytes of run lengths"),
    "BMP pixels": (lambda: rle_bmp((4001, 4000), b"\0\0" * 4000), "pixels in run lengths"),
    "TIFF strips": (lambda: tiff({273: (4, [16] * 200_000)}), "200,000 values of tag 273"),
    "TIFF tiles": (lambda: tiff({324: (4, [16] * 5000), 325: (4, [64] * 5000), 322: (3, [4096]), 323: (3, [4096])}), "tile"),
    "TIFF fractions": (lambda: tiff({282: (5, [1, 1] * 5000)}), "5,000 values of tag 282"),
    "TIFF widths": (lambda: tiff({257: (3, [8]), 322: (4, [1 << 30]), 323: (4, [1 << 30])}), "pixels in a tile"),
    "TIFF doubled": (lambda: tiff({}, doubled=True), "2 entries for tag 256"),
    "BigTIFF tags": (lambda: tiff({}, big=True)[:-8].replace(struct.pack("<Q", 8), struct.pack("<Q", 5000)), "5,000 tags"),
    "TIFF EXIF": (lambda: tiff({34665: (4, [16])}, big=True), "tags"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_of_too_many_parts_is_refused_before_it_is_decoded(case: str):
    make, sentence = REFUSED[case]
    data = make()
    started = time.process_time()
    with pytest.raises(ImageTooLarge, match=rf"“long.png” has .*{sentence}.* that are read here; save it again"):
        open_picture(data, "long.png")
    with pytest.raises(MaskUnusable, match=rf"The mask's file has .*{sentence}"):
        read_mask(data, (64, 48))
    assert time.process_time() - started < 1


KEPT: dict[str, Callable[[], bytes]] = {
    "JPEG progressive": lambda: saved(photo(), "JPEG", progressive=True),
    "JPEG of 60 scans": lambda: rescanned(50),
    "JPEG restarts": lambda: saved(photo(2000, 1500), "JPEG", restart_marker_blocks=1),
    "JPEG EXIF, XMP, ICC, comment": lambda: saved(
        photo(),
        "JPEG",
        exif=b"Exif\0\0II*\0\x08\0\0\0\0\0",
        icc_profile=bytes(2_000_000),
        comment=b"a" * 60_000,
        xmp=b"<x/>",
    ),
    "JPEG with a depth map of 20 MB in XMP": lambda: jpeg(
        segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 310
    ),
    "JPEG thermal": lambda: jpeg(segment(0xE1, b"FLIR\0\x01" + bytes(65_000)) * 60),
    "JPEG with a film behind it": lambda: jpeg() + b"\xff\xe1\0\0" * 100_000 + bytes(3_000_000),
    "MPO": lambda: saved(photo(), "MPO", save_all=True, append_images=[photo(80, 60)] * 9),
    "PNG small chunks": lambda: png(step=1),
    "PNG notes": lambda: png(chunk(b"tEXt", b"workflow\0" + b"{}" * 300_000), *[chunk(b"tEXt", b"a\0b")] * 200),
    "PNG ICC": lambda: saved(photo(), "PNG", icc_profile=bytes(500_000)),
    "APNG": lambda: saved(photo(), "PNG", save_all=True, append_images=[photo().rotate(k) for k in range(40)]),
    "GIF": lambda: saved(photo(), "GIF", save_all=True, append_images=[photo().rotate(k) for k in range(40)]),
    "GIF XMP": lambda: gif(b"!\xff\x0bXMP DataXMP" + b"<x/>" * 5000 + bytes([1, *range(255, -1, -1), 0])),
    "WebP": lambda: saved(photo(), "WEBP", save_all=True, append_images=[photo().rotate(k) for k in range(40)]),
    "TIFF rows": lambda: saved(photo(20, 20_000), "TIFF", tiffinfo={278: 1}),
    "TIFF rows, packed": lambda: saved(photo(20, 20_000), "TIFF", compression="tiff_lzw", tiffinfo={278: 1}),
    "TIFF pages": lambda: saved(photo(), "TIFF", save_all=True, append_images=[photo()] * 300),
    "TIFF EXIF": lambda: saved(photo(), "TIFF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "TIFF": lambda: tiff({}),
    "TIFF, big-endian": lambda: tiff({}, order=">"),
    "TIFF of one tile": lambda: tiff({322: (3, [16]), 323: (3, [16]), 324: (4, [0]), 325: (4, [256])}),
    "BigTIFF": lambda: saved(photo(), "TIFF", big_tiff=True),
    "BMP": lambda: saved(photo(), "BMP"),
    "BMP runs": lambda: rle_bmp((300, 4), b"\xff\x09\x2d\x63\0\0" * 4 + b"\0\x01"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cameras_and_programs_write_is_read(case: str):
    data = KEPT[case]()
    picture = open_picture(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (picture.width, picture.height) == image.size


def test_the_reasons_go_on_from_the_files_name():
    with pytest.raises(TooElaborate, match="has 410 scans"):
        check_structure(rescanned(400))


OPENED = """
from lens.backend.images import open_picture
from lens.errors import LensError
try:
    open_picture(DATA)
except LensError as error:
    print(error)
"""


def rows_png(size: tuple[int, int], depth: int, colour: int, samples: int) -> bytes:
    """A black PNG of any mode, packed row by row."""
    packer, row = zlib.compressobj(1), bytes(1 + size[0] * samples * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(size[1])) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND")


COSTLY: dict[str, Callable[[], bytes]] = {
    "JPEG scans": lambda: rescanned(13, (8000, 8000)),
    "JPEG of four inks": lambda: saved(Image.new("CMYK", (8000, 8000)), "JPEG", progressive=True),
    "JPEG EXIF": lambda: jpeg(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 64),
    "JPEG Photoshop": lambda: jpeg(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5400) * 256),
    "PNG RGBA": lambda: rows_png((8000, 8000), 8, 6, 4),
    "PNG tall": lambda: rows_png((64, 1_000_000), 8, 2, 3),
    "PNG profiles": lambda: png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 990),
    "TIFF floats": lambda: saved(Image.new("F", (8000, 8000)), "TIFF", compression="tiff_lzw"),
    "TIFF strips": lambda: tiff({273: (4, [16] * 99_000), 279: (4, [1] * 99_000), 278: (3, [1])}),
    "GIF blocks": lambda: gif(b"!\xfe" + b"\x01a" * 99_000 + b"\0"),
    "WebP": lambda: saved(Image.new("RGBA", (8000, 7000), (1, 2, 3, 99)), "WEBP", lossless=True, method=0),
    "BMP runs": lambda: rle_bmp((4000, 4000), b"\0\0" * 1_990_000),
}  # fmt: skip
"""The most that passes, of each kind."""


@pytest.mark.parametrize("case", COSTLY)
def test_the_most_that_passes_is_bounded_in_time_and_memory(case: str):
    seconds, megabytes = cost(OPENED, COSTLY[case]())
    assert seconds < 5 and megabytes < 1000


def test_a_side_longer_than_any_picture_is_refused():
    data = rows_png((1, 64), 8, 2, 3)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 64_000_000, 8, 2, 0, 0, 0))
    with pytest.raises(ImageTooLarge, match="1 x 64000000 pixels, longer than the 1,000,000"):
        open_picture(data[:8] + header + data[33:])
