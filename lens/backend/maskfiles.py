"""Masks that a reader brings: an image, COCO's polygons or run lengths, or the outlines of ReasonSeg's files; and those that
are taken away.

Invariants. What is written is read back the same. A file's mask has the size of its picture, or it is refused before its
pixels are made; whatever the bytes are, the outcome is a :class:`Mask` or an error of ``lens.errors``. Nothing is
resized: a mask of another size is a mask of another picture.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from lens.backend.images import MAX_BYTES
from lens.backend.maskimages import split
from lens.backend.pixels import load
from lens.backend.regions import Size, polygon_mask
from lens.errors import MaskUnusable

MAX_CORNERS = 200_000
KINDS = "a PNG with the object lighter than its surroundings, or COCO JSON with polygons or run lengths"


@dataclass(frozen=True, eq=False)
class Mask:
    """What belongs to an object in one picture.

    Attributes:
        inside: the object's pixels.
        ignored: pixels that count neither way; none of them is inside.
    """

    inside: Bool[np.ndarray, "h w"]
    ignored: Bool[np.ndarray, "h w"]


def mask_of(inside: Bool[np.ndarray, "h w"], ignored: Bool[np.ndarray, "h w"] | None = None) -> Mask:
    """A mask from an array; :class:`MaskUnusable` where nothing is inside."""
    ignored = np.zeros_like(inside) if ignored is None else ignored
    inside = inside & ~ignored
    if not inside.any():
        raise MaskUnusable("The mask is empty: no pixel is inside it; draw or choose one that covers the object.")
    return Mask(inside, ignored)


def read_mask(source: bytes | Path, size: Size, name: str | None = None) -> Mask:
    """The mask in a file's bytes, or at a path, for a picture of ``size`` (width, height).

    Images are read by what they show (:func:`~lens.backend.maskimages.split`): the first frame, turned as EXIF says. JSON:
    a segmentation of COCO (polygons, run lengths, compressed or not), an annotation, a file of annotations (those of the
    picture called ``name``, or of the only one, together), or ``shapes`` as in ReasonSeg's files, where the label "ignore"
    is ignored.
    """
    data = source if isinstance(source, bytes) else _bytes(source)
    if len(data) > MAX_BYTES:
        raise MaskUnusable(f"The mask's file has {len(data) / 1e6:.0f} MB, more than is read here; give {KINDS}.")
    if data.lstrip()[:1] in (b"{", b"["):
        return _from_json(data, size, name)
    return _from_image(data, size)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MaskUnusable(f"The mask file {path.name!r} is larger than is read here; give {KINDS}.")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MaskUnusable(f"The mask file {str(path)!r} can't be read ({reason}); give {KINDS}.") from error


def _from_image(data: bytes, size: Size) -> Mask:
    try:
        inside, ignored = split(load(data, lambda found: _check_stored(found, size)))
    except MaskUnusable:
        raise
    except Exception as error:  # decoders of damaged bytes raise whatever comes up
        raise MaskUnusable(f"The mask is no image and no JSON that can be read; give {KINDS}.") from error
    _check_size((inside.shape[1], inside.shape[0]), size)
    return mask_of(inside, ignored)


def _check_stored(found: Size, wanted: Size) -> None:
    """Before decoding, when it isn't known yet whether the file is turned."""
    if sorted(found) != sorted(wanted):
        _check_size(found, wanted)


def _check_size(found: Size, wanted: Size) -> None:
    if tuple(found) != tuple(wanted):
        raise MaskUnusable(
            f"The mask is for {found[0]} x {found[1]} pixels, but the picture has {wanted[0]} x {wanted[1]}; give a mask of "
            "the picture's own size."
        )


def _from_json(data: bytes, size: Size, name: str | None) -> Mask:
    try:
        content = json.loads(data)
        if isinstance(content, dict) and "shapes" in content:
            return _from_shapes(content["shapes"], size)
        inside = np.zeros((size[1], size[0]), dtype=bool)
        for segmentation in _segmentations(content, size, name):
            inside |= segment_mask(segmentation, size)
    except MaskUnusable:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise MaskUnusable(f"The mask's JSON has no segmentation that can be read; give {KINDS}.") from error
    return mask_of(inside)


def _segmentations(content: Any, size: Size, name: str | None) -> Iterable[Any]:
    """The segmentations in a bare one, in an annotation or in a file of annotations."""
    if isinstance(content, list) or "counts" in content:
        return [content]
    if "segmentation" in content:
        return [content["segmentation"]]
    pictures = content["images"]
    fit = [each for each in pictures if each.get("file_name") == name] if len(pictures) > 1 else pictures
    if len(fit) != 1:
        raise MaskUnusable(
            f"The mask's JSON is about {len(pictures)} pictures, of which {len(fit)} are called {name!r}; give one with the "
            "picture's own annotations."
        )
    _check_size((int(fit[0]["width"]), int(fit[0]["height"])), size)
    return [each["segmentation"] for each in content["annotations"] if each["image_id"] == fit[0]["id"]]


def segment_mask(segmentation: Any, size: Size) -> Bool[np.ndarray, "h w"]:
    """COCO's two forms: a list of polygons, each [x, y, x, y, ...] and together one object; or run lengths."""
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        _check_size((int(width), int(height)), size)
        counts = segmentation["counts"]
        return runs_mask(decode_counts(counts) if isinstance(counts, str) else counts, size)
    if sum(map(len, segmentation)) > 2 * MAX_CORNERS:
        raise MaskUnusable(f"The mask's polygons have more than {MAX_CORNERS:,} corners; give {KINDS}.")
    inside = np.zeros((size[1], size[0]), dtype=bool)
    for polygon in segmentation:
        inside |= _polygon(np.asarray(polygon, dtype=float).reshape(-1, 2), size)
    return inside


def _polygon(corners: np.ndarray, size: Size) -> Bool[np.ndarray, "h w"]:
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise MaskUnusable("The mask has a polygon without three finite corners; mend it or leave it out.")
    return polygon_mask(corners, size)


def runs_mask(counts: Iterable[int], size: Size) -> Bool[np.ndarray, "h w"]:
    """COCO's run lengths: down the columns from the left, outside and inside by turns, outside first."""
    lengths = np.asarray(list(counts), dtype=np.int64)
    pixels = size[0] * size[1]
    if (lengths < 0).any() or int(lengths.sum()) != pixels:
        raise MaskUnusable(
            f"The mask's run lengths come to {int(lengths.sum()):,} pixels, but the picture has {pixels:,}; save it again."
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape((size[1], size[0]), order="F")


def decode_counts(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a character from 48, the sixth says that more follow, the last one's fifth
    is the sign; from the fourth number on, differences to the last but one (``rleFrString`` of cocoapi's maskApi.c)."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{character!r} is no part of compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts


def _from_shapes(shapes: Any, size: Size) -> Mask:
    inside, ignored = (np.zeros((size[1], size[0]), dtype=bool) for _ in range(2))
    if sum(len(shape["points"]) for shape in shapes) > MAX_CORNERS:
        raise MaskUnusable(f"The mask's outlines have more than {MAX_CORNERS:,} corners; give {KINDS}.")
    for shape in shapes:
        label = str(shape.get("label", "")).lower()
        if "flag" not in label:  # ReasonSeg's mark of a picture to leave out has no extent
            target = ignored if "ignore" in label else inside
            target |= _polygon(np.asarray(shape["points"], dtype=float).reshape(-1, 2), size)
    return mask_of(inside, ignored)


def mask_png(inside: Bool[np.ndarray, "h w"]) -> bytes:
    """A mask as a PNG of grey values, 255 inside and 0 outside."""
    buffer = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def mask_runs(inside: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths, with its size."""
    flat = inside.reshape(-1, order="F")
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    counts = np.diff(ends, prepend=0).tolist()
    counts = [0, *counts] if flat[0] else counts
    return {"size": list(inside.shape), "counts": encode_counts(counts)}


def mask_coco(inside: Bool[np.ndarray, "h w"], name: str, category: str) -> dict[str, Any]:
    """A mask as a file of annotations in COCO's form, for the picture called ``name``: one object, as run lengths, with its
    area in pixels and its box (x, y, width, height)."""
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = [0, 0, 0, 0]
    if len(rows):
        box = [int(value) for value in (cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1)]
    return {
        "images": [{"id": 1, "file_name": name, "width": inside.shape[1], "height": inside.shape[0]}],
        "categories": [{"id": 1, "name": category}],
        "annotations": [
            {
                "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 1, "area": int(inside.sum()), "bbox": box,
                "segmentation": mask_runs(inside),
            }
        ],
    }  # fmt: skip


def encode_counts(counts: list[int]) -> str:
    """The inverse of :func:`decode_counts` (``rleToString`` of cocoapi's maskApi.c)."""
    text = []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(bits + (32 if more else 0) + 48))
    return "".join(text)
