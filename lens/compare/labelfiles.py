"""Labelled pictures: COCO JSON, or YOLO's text files, checked before anything is computed from them.

Invariant: what passes names a picture that is there, a name, and an area inside that picture; anything else is a
:class:`~lens.errors.LabelsUnusable` that says in which file or annotation. Coordinates are pixels of the picture as it is
shown (after EXIF rotation). Masks are made one picture at a time, when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool

from lens.backend.maskfiles import segment_mask
from lens.backend.regions import Size, box_mask, polygon_mask
from lens.errors import LabelsUnusable, MaskUnusable

MAX_BYTES = 1 << 29
"""Largest file of labels that is read; COCO's training set has 470 MB."""
SLACK = 1.0
"""Pixels by which a shape may leave its picture: labels are often rounded."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A named area of one picture.

    Attributes:
        where: names the annotation in messages.
        box: (x0, y0, x1, y1), or ``None`` where ``outline`` says it.
        outline: a segmentation as COCO has it (polygons or run lengths).
        relative: whether the coordinates are fractions of the picture's sides.
    """

    name: str
    where: str
    box: tuple[float, float, float, float] | None
    outline: Any = None
    relative: bool = False

    def mask(self, size: Size) -> Bool[np.ndarray, "h w"]:
        """The pixels inside, for a picture of ``size`` (width, height); :class:`LabelsUnusable` if it leaves the picture."""
        scale = size if self.relative else (1, 1)
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            box = (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
            self._check(box, size)
            return box_mask(box, size)
        if isinstance(self.outline, dict):
            return self._segment(size)
        corners = [np.asarray(polygon, float).reshape(-1, 2) * scale for polygon in self.outline]
        every = np.concatenate(corners)
        self._check((*every.min(0), *every.max(0)), size)
        if not self.relative:
            return self._segment(size)
        return np.logical_or.reduce([polygon_mask(each, size) for each in corners])

    def _segment(self, size: Size) -> Bool[np.ndarray, "h w"]:
        try:
            return segment_mask(self.outline, size)
        except (MaskUnusable, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise LabelsUnusable(f"{self.where} has a mask that can't be used: {error}") from error

    def _check(self, box: Sequence[float], size: Size) -> None:
        low, high = min(box[:2]), max(box[2] - size[0], box[3] - size[1])
        if low < -SLACK or high > SLACK:
            raise LabelsUnusable(
                f"{self.where} ({self.name}) reaches from {box[0]:.0f}, {box[1]:.0f} to {box[2]:.0f}, {box[3]:.0f}, outside "
                f"its picture of {size[0]} x {size[1]} pixels; mend it, or give the pictures that the labels were made for."
            )


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """One picture and what is in it.

    Attributes:
        name: as the labels call it.
        size: (width, height) that the labels give, if they do.
    """

    name: str
    path: Path
    size: Size | None
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Labels:
    """All labelled pictures of a folder, by name.

    Attributes:
        source: the file's or folder's name.
        digest: SHA-256 of everything read.
        left_out: pictures that the labels name and the folder hasn't, where that was allowed.
    """

    source: str
    digest: str
    pictures: tuple[LabelledPicture, ...]
    left_out: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every label that occurs, sorted."""
        return tuple(sorted({shape.name for picture in self.pictures for shape in picture.shapes}))


def read_labels(source: Path, folder: Path, partial: bool = False) -> Labels:
    """The labels in ``source`` of the pictures in ``folder``: COCO JSON, or YOLO's folder, ``data.yaml`` or names.

    ``partial``: leave out pictures that the folder hasn't.

    Raises:
        LabelsUnusable: see the module.
    """
    from lens.compare.yolo import read_yolo

    if not folder.is_dir():
        raise LabelsUnusable(f"There is no folder {folder.name!r}; give the one that holds the pictures.")
    if not source.exists():
        raise LabelsUnusable(
            f"There are no labels at {str(source)!r}; give a COCO JSON file, or YOLO's folder or data.yaml."
        )
    if source.is_file() and source.suffix.lower() == ".json":
        return _read_coco(source, folder, partial)
    return read_yolo(source, folder, partial)


def finished(source: Path, digest: str, pictures: Sequence[LabelledPicture], partial: bool) -> Labels:
    """Labels whose pictures are all there, and at least one of which has a shape."""
    named = [picture for picture in pictures if picture.shapes]
    if not named:
        raise LabelsUnusable(f"{source.name} labels nothing in any picture; give labels with at least one named shape.")
    missing = [picture for picture in named if not picture.path.is_file()]
    if missing and (not partial or len(missing) == len(named)):
        first = ", ".join(repr(picture.name) for picture in missing[:3])
        raise LabelsUnusable(
            f"Of {len(named):,} labelled pictures {len(missing):,} are not in the folder ({first}); give the folder that "
            "holds them, or --partial to leave them out."
        )
    there = sorted((p for p in named if p.path.is_file()), key=lambda picture: picture.name)
    return Labels(source.name, digest, tuple(there), len(missing))


def read_text(path: Path) -> bytes:
    """A file's bytes, or a sentence."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LabelsUnusable(f"{path.name} has more than {MAX_BYTES >> 20} MB, which is not read; split it.")
        return path.read_bytes()
    except OSError as error:
        raise LabelsUnusable(f"{path.name} can't be read ({error.strerror}); check the path.") from error


def _read_coco(source: Path, folder: Path, partial: bool) -> Labels:
    data = read_text(source)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LabelsUnusable(f"{source.name} is no valid JSON ({str(error)[:80]}); give COCO's form.") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise LabelsUnusable(
                f"{source.name} has no list {part!r}, which COCO's form has; give a file of annotations."
            )
    names = {each.get("id"): str(each.get("name", "")).strip() for each in _objects(content, "categories", source)}
    pictures = {each.get("id"): each for each in _objects(content, "images", source)}
    shapes: dict[Any, list[Shape]] = {key: [] for key in pictures}
    for number, each in enumerate(_objects(content, "annotations", source), 1):
        where = f"Annotation {each.get('id', number)} of {source.name}"
        if each.get("category_id") not in names:
            known = ", ".join(map(str, list(names)[:12])) or "none"
            raise LabelsUnusable(
                f"{where} has the category id {each.get('category_id')!r}, but the categories are {known}; mend one of them."
            )
        if each.get("image_id") not in shapes:
            raise LabelsUnusable(f"{where} is about image id {each.get('image_id')!r}, which isn't among its images.")
        name = names[each["category_id"]]
        if not name:
            raise LabelsUnusable(f"Category {each['category_id']} of {source.name} has no name; give it one.")
        shapes[each["image_id"]].append(_coco_shape(each, name, where))
    found = [_coco_picture(pictures[key], folder, tuple(own), source) for key, own in shapes.items()]
    return finished(source, hashlib.sha256(data).hexdigest(), found, partial)


def _objects(content: Mapping[str, Any], part: str, source: Path) -> Iterator[dict[str, Any]]:
    for number, each in enumerate(content[part], 1):
        if not isinstance(each, dict) or isinstance(each.get("id"), (list, dict)):
            raise LabelsUnusable(f"Entry {number} of {part!r} in {source.name} is no object with an id; mend it.")
        yield each


def _coco_picture(entry: Mapping[str, Any], folder: Path, shapes: tuple[Shape, ...], source: Path) -> LabelledPicture:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise LabelsUnusable(f"Image {entry.get('id')!r} of {source.name} has no file_name; give it one.")
    sides = (entry.get("width"), entry.get("height"))
    size = (int(sides[0]), int(sides[1])) if all(isinstance(side, int) for side in sides) else None  # type: ignore[arg-type]
    return LabelledPicture(name, inside(folder, name, source), size, shapes)


def inside(folder: Path, name: str, source: Path) -> Path:
    """The path of a picture that labels name; never one outside the folder."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or "\0" in name or ":" in place.parts[0]:
        raise LabelsUnusable(
            f"{source.name} names a picture outside the folder ({name[:80]!r}); give plain file names."
        )
    return folder / place


def _coco_shape(entry: Mapping[str, Any], name: str, where: str) -> Shape:
    outline = entry.get("segmentation")
    if outline:
        if isinstance(outline, list) and not all(_is_polygon(polygon) for polygon in outline):
            raise LabelsUnusable(f"{where} has a polygon that isn't at least three pairs of finite numbers; mend it.")
        if not isinstance(outline, (list, dict)):
            raise LabelsUnusable(f"{where} has a segmentation that is neither polygons nor run lengths; mend it.")
        return Shape(name, where, None, outline)
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(finite, box)):
        raise LabelsUnusable(f"{where} has neither a segmentation nor a bbox of four finite numbers; give it one.")
    x, y, width, height = map(float, box)
    if width <= 0 or height <= 0:
        raise LabelsUnusable(f"{where} has a bbox of {width:g} x {height:g} pixels; x, y, width, height are expected.")
    return Shape(name, where, (x, y, x + width, y + height))


def _is_polygon(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(finite, polygon))


def finite(value: object) -> bool:
    """Whether a value from a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
