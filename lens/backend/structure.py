"""How an image file is put together, looked at before anything is decoded.

A few bytes can say that the same pixels are to be gone through thousands of times, or that a file consists of a million
parts, each of which Pillow reads in Python. What is counted here is counted cheaply, and the bounds lie far above what
cameras and programs write: with them, no file of 100 MB and 64 megapixels takes more than some seconds.
Nothing is judged that a decoder refuses anyway: a file that ends too early passes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

MAX_SCANS = 64
"""Scans of a JPEG. Progressive ones have some 10."""
MAX_SCANNED = 1_500_000_000
"""Scans of a JPEG times its pixels: 23 scans at 64 megapixels, each about 0.15 s."""
MAX_SEGMENTS = 4096
"""Segments of a JPEG, of 64 kB each at most."""
MAX_EXIF_SEGMENTS, MAX_PHOTOSHOP_SEGMENTS = 64, 256
"""Those that Pillow joins one by one, or takes apart in Python."""
MAX_STRAY = 1_000_000
"""Bytes between a JPEG's segments, which Pillow reads one by one."""
MAX_EXIF = 4_000_000
"""Bytes of EXIF in a PNG or a WebP."""
MAX_CHUNKS, MAX_NOTES = 100_000, 1000
"""Chunks of a PNG or a WebP, sub-blocks before a GIF's first picture, strips or tiles of a TIFF; and chunks of a PNG without
pixels, each of which may be unpacked to a megabyte."""
MAX_TAGS = 4096
"""Entries of a TIFF's directory, and fractions in one of them."""
MAX_RLE_BYTES, MAX_RLE_PIXELS = 4_000_000, 16_000_000
"""Of a BMP with run lengths, which Pillow unpacks in Python."""
MARGIN = 16_000_000
"""Pixels by which a TIFF's tiles may exceed its picture."""


class TooElaborate(Exception):
    """A file of too many parts; the text goes on from the file's name."""


def check_structure(data: bytes) -> None:
    """TooElaborate for an image file that would take long to decode, whatever its number of pixels."""
    for start, _, check in _CHECKS:
        if data.startswith(start):
            check(data)


def _bound(found: int, limit: int, what: str) -> None:
    if found > limit:
        raise TooElaborate(f"has {found:,} {what}, more than the {limit:,} that are read here")


_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A JPEG's marker: neither a stuffed zero, nor padding, nor a restart within a scan."""


def _jpeg(data: bytes) -> None:
    place = segments = stray = exif = photoshop = scans = pixels = tables = 0
    while marker := _MARKER.search(data, place):
        stray += 0 if scans else marker.start() - place
        segments += 1
        code, place = data[marker.end() - 1], marker.end()
        if code == 0xD9 and scans:  # what follows is no part of this picture
            break
        if code >= 0xC0 and code not in (0xD8, 0xD9):
            body = data[place + 2 : place + 16]
            exif += code == 0xE1 and body.startswith(b"Exif\0\0")
            photoshop += code == 0xED
            scans += code == 0xDA
            if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) and len(body) >= 5:
                pixels = max(pixels, int.from_bytes(body[1:3], "big") * int.from_bytes(body[3:5], "big"))
            length = max(2, int.from_bytes(data[place : place + 2], "big"))
            tables += length if code == 0xDB and not scans else 0
            place += length
        _bound(segments, MAX_SEGMENTS, "segments")
    else:
        stray += 0 if scans else max(0, len(data) - place)
    _bound(stray, MAX_STRAY, "stray bytes before its pixels")
    _bound(exif, MAX_EXIF_SEGMENTS, "segments of EXIF")
    _bound(photoshop, MAX_PHOTOSHOP_SEGMENTS, "segments of Photoshop's")
    _bound(tables, MAX_STRAY, "bytes of quantisation tables")
    _bound(scans, min(MAX_SCANS, MAX_SCANNED // max(1, pixels)), "scans")


def _png(data: bytes) -> None:
    place, chunks, notes = 8, 0, 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunks += 1
        notes += kind not in (b"IDAT", b"fdAT", b"fcTL")
        _bound(chunks, MAX_CHUNKS, "chunks")
        _bound(notes, MAX_NOTES, "chunks besides its pixels")
        if kind == b"eXIf" or data.startswith(b"Raw profile type exif", place + 8):
            _bound(length, MAX_EXIF, "bytes of EXIF")
        if kind == b"IEND":
            return
        place += 12 + length


def _webp(data: bytes) -> None:
    place, chunks = 12, 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        chunks += 1
        _bound(chunks, MAX_CHUNKS, "chunks")
        if kind == b"EXIF":
            _bound(length, MAX_EXIF, "bytes of EXIF")
        place += 8 + length + length % 2


def _gif(data: bytes) -> None:
    place = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 128 else 0)
    blocks = 0
    while place < len(data) and data[place] not in b",;":  # up to the first picture, or the end
        blocks += 1
        if data[place] == ord("!"):
            place += 2
            while place < len(data) and data[place]:
                place += 1 + data[place]
                blocks += 1
                _bound(blocks, MAX_CHUNKS, "blocks before its first picture")
        place += 1
        _bound(blocks, MAX_CHUNKS, "blocks before its first picture")


def _bmp(data: bytes) -> None:
    if (
        len(data) < 34
        or struct.unpack_from("<I", data, 14)[0] < 40
        or struct.unpack_from("<I", data, 30)[0] not in (1, 2)
    ):
        return
    width, height = struct.unpack_from("<ii", data, 18)
    _bound(len(data), MAX_RLE_BYTES, "bytes of run lengths")
    _bound(abs(width * height), MAX_RLE_PIXELS, "pixels in run lengths")


_KINDS = {
    1: "B",
    2: "c",
    3: "H",
    4: "L",
    5: "LL",
    6: "b",
    7: "c",
    8: "h",
    9: "l",
    10: "ll",
    11: "f",
    12: "d",
    13: "L",
    16: "Q",
}
"""TIFF 6.0's types of values, and BigTIFF's → how they are packed."""
_SHAPE = (256, 257, 273, 278, 322, 323, 324)
"""The tags that say how large a picture and its strips or tiles are."""
_DIRECTORIES = (34665, 34853, 40965)
"""The tags of further directories that Pillow reads: EXIF, GPS, Interoperability."""


def _tiff(data: bytes) -> None:
    order = "<" if data.startswith(b"II") else ">"
    # Pillow takes a big-endian BigTIFF for a plain one, and libtiff doesn't.
    for big in (False, True) if data[2:4] == b"\0+" else (data[2] == 43,):
        _directories(data, order, big)


def _directories(data: bytes, order: str, big: bool) -> None:
    waiting = [_number(data, 8 if big else 4, order + ("Q" if big else "L"))]
    for place in waiting:  # one leads to another; the first is the picture's
        tags = dict(_entries(data, place, order, big))
        if place == waiting[0]:
            _bound_tiles(tags)
        waiting += [tags[tag][1] for tag in _DIRECTORIES if tag in tags and len(waiting) < 8]


def _number(data: bytes, place: int, form: str) -> int:
    """The whole number at a place; 0 beyond the end."""
    fits = 0 <= place <= len(data) - struct.calcsize(form)
    return int(struct.unpack_from(form, data, place)[0]) if fits else 0


def _entries(data: bytes, place: int, order: str, big: bool) -> Iterator[tuple[int, tuple[int, int]]]:
    """A directory's tags, each with how many values it has and the only one, or else where they lie."""
    count = _number(data, place, order + ("Q" if big else "H"))
    _bound(count, MAX_TAGS, "tags")
    start, step, wide = (place + 8, 20, "Q") if big else (place + 2, 12, "L")
    seen = set()
    for at in range(start, min(start + step * count, len(data) - step + 1), step):
        tag, kind = _number(data, at, order + "H"), _number(data, at + 2, order + "H")
        values = _number(data, at + 4, order + wide)
        if kind not in _KINDS:
            continue
        _bound(0 if kind in (1, 2, 7) else values, MAX_TAGS if kind in (5, 10) else MAX_CHUNKS, f"values of tag {tag}")
        if tag in _SHAPE:
            _bound(1 + (tag in seen), 1, f"entries for tag {tag}")
        seen.add(tag)
        inline = values == 1 and kind in (1, 3, 4, 13, 16)
        yield (
            tag,
            (values, _number(data, at + 4 + struct.calcsize(order + wide), order + (_KINDS[kind] if inline else wide))),
        )


def _bound_tiles(tags: dict[int, tuple[int, int]]) -> None:
    """All strips or tiles together are hardly larger than the picture; those of one sample a pixel count eight times."""
    (_, width), (_, height) = tags.get(256, (0, 0)), tags.get(257, (0, 0))
    most = width * height + MARGIN
    (_, rows), (_, across), (_, down) = tags.get(278, (1, height)), tags.get(322, (0, 0)), tags.get(323, (0, 0))
    for pieces, each in (
        (tags.get(273, (0, 0))[0], width * min(rows, height)),
        (tags.get(324, (0, 0))[0], across * down),
    ):
        _bound(each, most, "pixels in a tile")
        _bound(pieces * each, 8 * most, "pixels in tiles")


_CHECKS: tuple[tuple[bytes, str, Callable[[bytes], None]], ...] = (
    (b"\xff\xd8\xff", "JPEG", _jpeg),
    (b"\x89PNG\r\n\x1a\n", "PNG", _png),
    (b"RIFF", "WebP", _webp),
    (b"GIF8", "GIF", _gif),
    (b"BM", "BMP", _bmp),
    *((start, "TIFF", _tiff) for start in (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")),
)
"""How a file begins → its format and what is looked at; the beginnings are those that Pillow's decoders accept."""


def format_of(data: bytes) -> str | None:
    """The format that a file's first bytes are those of."""
    for start, name, _ in _CHECKS:
        if data.startswith(start) and (name != "WebP" or data[8:12] == b"WEBP"):
            return name
    return None
