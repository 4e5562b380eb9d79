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

from lens.backend.areas import Area
from lens.backend.images import MAX_BYTES
from lens.backend.labelme import add_shape
from lens.backend.maskimages import split
from lens.backend.pixels import load
from lens.backend.regions import Size
from lens.backend.runlengths import decode_counts, encode_counts
from lens.backend.structure import TooElaborate
from lens.errors import MaskUnusable

MAX_VALUES = 5_000_000
"""Values in a mask's JSON at most: half a gigabyte once it is parsed, and more than COCO's 36,000 validation masks have."""
_BEFORE_JSON = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"
"""What may stand before a JSON document's first character: byte order marks, the zeros of UTF-16 and -32, white space."""
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
    if data.lstrip(_BEFORE_JSON)[:1] in (b"{", b"["):
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
        inside, ignored = split(load(data, lambda stored: _check_stored(stored.size, size)))
    except MaskUnusable:
        raise
    except TooElaborate as error:
        raise MaskUnusable(f"The mask's file {error}; save it again as a plain PNG.") from error
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
    if (values := sum(map(data.count, (b",", b"[", b"{")))) > MAX_VALUES:
        raise MaskUnusable(
            f"The mask's JSON holds some {values:,} values, more than the {MAX_VALUES:,} that are read here; give one with "
            "the picture's own annotations."
        )
    try:
        content = json.loads(data)
        if isinstance(content, dict) and "shapes" in content:
            return _from_shapes(content, size)
        area = Area(size)
        for segmentation in _segmentations(content, size, name):
            _add(area, segmentation)
    except MaskUnusable:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise MaskUnusable(f"The mask's JSON has no segmentation that can be read; give {KINDS}.") from error
    return mask_of(area.mask())


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
    _check_declared(fit[0].get("width"), fit[0].get("height"), size)
    return [each["segmentation"] for each in content["annotations"] if each["image_id"] == fit[0]["id"]]


def _check_declared(width: Any, height: Any, size: Size) -> None:
    """The picture's size as a file gives it, where it does."""
    if width is not None and height is not None:
        _check_size((int(width), int(height)), size)


def segment_mask(segmentation: Any, size: Size) -> Bool[np.ndarray, "h w"]:
    """COCO's two forms: a list of polygons, each [x, y, x, y, ...] and together one object; or run lengths."""
    area = Area(size)
    _add(area, segmentation)
    return area.mask()


def _add(area: Area, segmentation: Any) -> None:
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        _check_size((int(width), int(height)), area.size)
        counts = segmentation["counts"]
        lengths = decode_counts(counts) if isinstance(counts, str) else np.array(counts)
        if lengths.ndim != 1 or lengths.dtype != np.int64:
            raise ValueError("run lengths that are no whole numbers")
        area.add_lengths(lengths)
        return
    for polygon in segmentation:
        area.add_polygon(np.array(polygon, dtype=float).reshape(-1, 2))


def _from_shapes(content: Any, size: Size) -> Mask:
    """labelme's form, in which ReasonSeg's files are too."""
    _check_declared(content.get("imageWidth"), content.get("imageHeight"), size)
    inside, ignored = Area(size), Area(size)
    for shape in content["shapes"]:
        label = str(shape.get("label", "")).lower()
        if "flag" not in label:  # ReasonSeg's mark of a picture to leave out has no extent
            add_shape(ignored if "ignore" in label else inside, shape)
    return mask_of(inside.mask(), ignored.mask())


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
