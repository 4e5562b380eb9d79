"""COCO and YOLO labels: the same shapes whichever way they are written, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens.backend.maskfiles import mask_runs
from lens.compare.labelfiles import Labels, read_labels
from lens.errors import LabelsUnusable

SIZE = (40, 20)
BOX = [10, 5, 20, 10]
"""x, y, width, height: a quarter of the picture in its middle."""
INSIDE = np.zeros((20, 40), bool)
INSIDE[5:15, 10:30] = True


def coco(**changes: Any) -> dict[str, Any]:
    """One box in one picture."""
    annotation = {"id": 7, "image_id": 1, "category_id": 3, "bbox": BOX, **changes.pop("annotation", {})}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20, **changes.pop("image", {})}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [annotation],
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    Image.new("RGB", SIZE).save(place / "a.png")
    return place


def read(folder: Path, content: Any, partial: bool = False) -> Labels:
    file = folder.parent / "labels.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_labels(file, folder, partial)


def yolo(folder: Path, line: str, names: str = "cat\ndog\n", listed: str = "classes.txt", stem: str = "a") -> Labels:
    place = folder.parent / "yolo"
    place.mkdir(exist_ok=True)
    (place / listed).write_text(names)
    (place / f"{stem}.txt").write_text(line)
    return read_labels(place, folder)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"segmentation": []},
        {"segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]},
        {"segmentation": [[10, 5, 20, 5, 20, 15, 10, 15], [20, 5, 30, 5, 30, 15, 20, 15]]},
        {"segmentation": mask_runs(INSIDE)},
    ],
)
def test_every_kind_of_coco_shape_is_the_same_area(folder: Path, shape: dict):
    labels = read(folder, coco(annotation=shape))
    (picture,) = labels.pictures
    assert (picture.name, picture.size, labels.names) == ("a.png", SIZE, ("dog",))
    assert np.array_equal(picture.shapes[0].mask(SIZE), INSIDE)


@pytest.mark.parametrize("line", ["1 0.5 0.5 0.5 0.5", "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n\n"])
@pytest.mark.parametrize(
    ("listed", "names"),
    [("classes.txt", "cat\ndog\n"), ("data.yaml", "names: [cat, dog]"), ("data.yaml", "names:\n  0: cat\n  1: dog\n")],
)
def test_yolo_gives_the_same_area(folder: Path, line: str, listed: str, names: str):
    (picture,) = yolo(folder, line, names, listed).pictures
    assert (picture.name, picture.shapes[0].name) == ("a.png", "dog")
    assert np.array_equal(picture.shapes[0].mask(SIZE), INSIDE)


def test_yolo_beside_images(tmp_path: Path):
    """The usual tree: images/train and labels/train, with data.yaml at the top."""
    for part in ("images", "labels"):
        (tmp_path / part / "train").mkdir(parents=True)
    Image.new("RGB", SIZE).save(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("names: [dog]")
    labels = read_labels(tmp_path / "data.yaml", tmp_path / "images" / "train")
    assert labels.pictures[0].shapes[0].mask(SIZE).all()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "no valid JSON"),
        ("[]", "no list 'images'"),
        ({"images": [], "annotations": []}, "no list 'categories'"),
        (coco(images=[7]), "Entry 1 of 'images'"),
        (coco(annotations=[]), "labels nothing in any picture"),
        (
            coco(annotation={"category_id": 9}),
            r"Annotation 7 of labels.json has the category id 9, but the categories are 3",
        ),
        (coco(annotation={"image_id": 2}), "about image id 2"),
        (coco(annotation={"bbox": [1, 2, 3]}), "neither a segmentation nor a bbox"),
        (coco(annotation={"bbox": [1, 2, float("nan"), 3]}), "neither a segmentation nor a bbox"),
        (coco(annotation={"bbox": [1, 2, 0, 3]}), "bbox of 0 x 3"),
        (coco(annotation={"segmentation": [[1, 2, 3, 4]]}), "polygon that isn't at least three pairs"),
        (coco(annotation={"segmentation": "x"}), "neither polygons nor run lengths"),
        (coco(categories=[{"id": 3}]), "Category 3 of labels.json has no name"),
        (coco(image={"file_name": None}), "has no file_name"),
        (coco(image={"file_name": "../a.png"}), "outside the folder"),
        (coco(image={"file_name": "/etc/passwd"}), "outside the folder"),
        (coco(image={"file_name": "b.png"}), r"Of 1 labelled pictures 1 are not in the folder \('b.png'\)"),
    ],
)
def test_bad_coco(folder: Path, content: Any, sentence: str):
    with pytest.raises(LabelsUnusable, match=sentence):
        read(folder, content)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"bbox": [30, 5, 20, 10]}, "reaches from 30, 5 to 50, 15, outside its picture of 40 x 20 pixels"),
        ({"segmentation": [[-9, 0, 5, 0, 5, 5]]}, "outside its picture"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "mask that can't be used"),
        ({"segmentation": {"size": [20, 40], "counts": [7]}}, "run lengths come to 7 pixels"),
        ({"segmentation": {"counts": [7]}}, "mask that can't be used"),
    ],
)
def test_shapes_that_do_not_fit_their_picture(folder: Path, shape: dict, sentence: str):
    labels = read(folder, coco(annotation=shape))
    with pytest.raises(LabelsUnusable, match=sentence):
        labels.pictures[0].shapes[0].mask(SIZE)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("1 20 5 10 5", "number 20, but YOLO's are fractions from 0 to 1"),
        ("1 0.5 0.5 nan 0.5", "number nan"),
        ("1 0.5 0.5 -0.1 0.5", "number -0.1"),
        ("5 0.5 0.5 0.5 0.5", r"Line 1 of a.txt has class 5, but names are given for 0 to 1"),
        ("dog 0.5 0.5 0.5 0.5", "no whole number followed by numbers"),
        ("1 0.5 0.5 0.5", "3 numbers after the class"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers"),
        ("1 0.9 0.5 0.5 0.5", "outside the picture"),
        ("1 0.9 0.5 0 0.5", "empty, or outside"),
        ("", "labels nothing"),
    ],
)
def test_bad_yolo(folder: Path, line: str, sentence: str):
    with pytest.raises(LabelsUnusable, match=sentence):
        yolo(folder, line)


def test_yolo_without_a_picture_or_names(folder: Path, tmp_path: Path):
    with pytest.raises(LabelsUnusable, match="not in the folder"):
        yolo(folder, "1 0.5 0.5 0.5 0.5", stem="b")
    with pytest.raises(LabelsUnusable, match="gives no class names"):
        yolo(folder, "1 0.5 0.5 0.5 0.5", "colours: [red]", "data.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelsUnusable, match="no list of YOLO's names"):
        read_labels(tmp_path / "empty", folder)
    for path, sentence in ((tmp_path / "no.json", "no labels at"), (folder, "no list of YOLO's")):
        with pytest.raises(LabelsUnusable, match=sentence):
            read_labels(path, folder)
    with pytest.raises(LabelsUnusable, match="There is no folder"):
        read_labels(tmp_path, tmp_path / "nowhere")


def test_partial_leaves_missing_pictures_out(folder: Path):
    content = coco()
    content["images"].append({"id": 2, "file_name": "gone.png"})
    content["annotations"].append({"image_id": 2, "category_id": 3, "bbox": BOX})
    with pytest.raises(LabelsUnusable, match="or --partial"):
        read(folder, content)
    labels = read(folder, content, partial=True)
    assert ([picture.name for picture in labels.pictures], labels.left_out) == (["a.png"], 1)
