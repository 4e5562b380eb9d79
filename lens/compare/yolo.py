"""YOLO's labels: a text file a picture, a line a shape; numbers are fractions of the picture's sides.

``class x y width height`` is a box by its centre; ``class x1 y1 x2 y2 x3 y3 ...`` a polygon. The names stand in
``data.yaml`` (``names``), or a line each in ``classes.txt`` or ``obj.names``. The text files are looked for where the names
are, in a folder ``labels`` there, beside the pictures, and in ``labels`` in place of the last ``images`` of their path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from lens.backend.images import endings
from lens.compare.labelfiles import LabelledPicture, Labels, Shape, finished, read_text
from lens.errors import LabelsUnusable

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
SLACK = 0.005
"""Share of a side by which a box may leave its picture by rounding."""


def read_yolo(source: Path, folder: Path, partial: bool) -> Labels:
    """See :func:`lens.compare.labelfiles.read_labels`."""
    listed = _names_file(source)
    names = _names(listed)
    files = _text_files(listed.parent, folder, listed)
    pictures = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings()}
    digest, found = hashlib.sha256(repr(names).encode()), []
    for file in files:
        data = read_text(file)
        digest.update(file.name.encode() + b"\0" + data)
        path = pictures.get(file.stem, folder / f"{file.stem}.jpg")
        found.append(LabelledPicture(path.name, path, None, _shapes(file, data, names)))
    return finished(listed, digest.hexdigest(), found, partial)


def _names_file(source: Path) -> Path:
    if source.is_file():
        return source
    for place in (source, source.parent):
        for name in NAMES:
            if (place / name).is_file():
                return place / name
    raise LabelsUnusable(
        f"The folder {source.name!r} holds no COCO JSON and no list of YOLO's names ({', '.join(NAMES)}); name the file."
    )


def _names(file: Path) -> dict[int, str]:
    data = read_text(file)
    try:
        text = data.decode("utf-8-sig")
        if file.suffix.lower() in (".yaml", ".yml"):
            listed = yaml.safe_load(text)["names"]
            pairs = listed.items() if isinstance(listed, dict) else enumerate(listed)
            names = {int(number): str(name).strip() for number, name in pairs}
        else:
            names = {number: line.strip() for number, line in enumerate(text.splitlines()) if line.strip()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise LabelsUnusable(
            f"{file.name} gives no class names; give data.yaml with `names`, or a name a line."
        ) from error
    if not names or not all(names.values()):
        raise LabelsUnusable(f"{file.name} gives no class names, or an empty one; give a name a line.")
    return names


def _text_files(beside: Path, folder: Path, listed: Path) -> list[Path]:
    places = [beside / "labels" / folder.name, beside / "labels", beside, folder]
    parts = folder.resolve().parts
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        places.append(Path(*parts[:at], "labels", *parts[at + 1 :]))
    for place in places:
        files = sorted(path for path in place.glob("*.txt") if path.name not in NAMES and path != listed)
        if files:
            return files
    raise LabelsUnusable(
        f"There are no YOLO text files beside {listed.name} or beside the pictures; give the folder of both."
    )


def _shapes(file: Path, data: bytes, names: dict[int, str]) -> tuple[Shape, ...]:
    shapes = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").split("\n"), 1):
        fields, where = line.split(), f"Line {number} of {file.name}"
        if not fields:
            continue
        try:
            category, values = int(fields[0]), [float(field) for field in fields[1:]]
        except ValueError as error:
            raise LabelsUnusable(
                f"{where} is no whole number followed by numbers ({line.strip()[:60]!r}); YOLO has class x y width height."
            ) from error
        if category not in names:
            raise LabelsUnusable(
                f"{where} has class {category}, but names are given for 0 to {max(names)}; mend one of them."
            )
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise LabelsUnusable(
                f"{where} has {len(values)} numbers after the class; a box has 4, a polygon 6 or more in pairs."
            )
        wrong = [value for value in values if not 0 <= value <= 1]
        if wrong:
            raise LabelsUnusable(
                f"{where} has the number {wrong[0]:g}, but YOLO's are fractions from 0 to 1 of the picture's sides; divide "
                "pixels by width and height."
            )
        shapes.append(_shape(names[category], where, values))
    return tuple(shapes)


def _shape(name: str, where: str, values: list[float]) -> Shape:
    if len(values) > 4:
        return Shape(name, where, None, [values], relative=True)
    x, y, width, height = values
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if not width or not height or min(box) < -SLACK or max(box) > 1 + SLACK:
        raise LabelsUnusable(
            f"{where} is a box from {box[0]:.3f}, {box[1]:.3f} to {box[2]:.3f}, {box[3]:.3f}: empty, or outside the "
            "picture; x and y are its centre."
        )
    return Shape(name, where, tuple(min(max(edge, 0.0), 1.0) for edge in box), relative=True)  # type: ignore[arg-type]
