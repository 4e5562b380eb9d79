"""Masks from files: images, COCO's two forms, ReasonSeg's outlines; and bytes that are none of these."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens.backend.maskfiles import (
    mask_coco,
    mask_of,
    mask_png,
    mask_runs,
    read_mask,
)
from lens.backend.regions import box_mask
from lens.backend.runlengths import decode_counts, encode_counts
from lens.errors import MaskUnusable

SIZE = (50, 40)
BOX = box_mask((10, 3, 45, 30), SIZE)
"""Rows 3 to 29, columns 10 to 44; golden run lengths below are pycocotools 2.0.11's."""


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def coco(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(BOX.astype(np.uint8) * 255),
        Image.fromarray(BOX.astype(np.uint8)),
        Image.fromarray(BOX.astype(np.uint8) * 255).convert("RGB"),
        Image.fromarray(BOX),
        Image.fromarray(BOX.astype(np.uint16) * 40000),
        Image.fromarray(np.dstack([np.zeros((40, 50, 3), np.uint8), BOX.astype(np.uint8) * 255])),
    ],
    ids=["255", "1", "rgb", "bilevel", "16 bit", "transparent"],
)
def test_images_of_every_kind(image: Image.Image):
    mask = read_mask(png(image), SIZE)
    assert (mask.inside == BOX).all() and not mask.ignored.any()


def test_a_palette_image_has_a_border_that_is_ignored():
    index = np.zeros((40, 50), dtype=np.uint8)
    index[5:20, 5:20] = 255
    index[8:17, 8:17] = 3
    image = Image.fromarray(index, "L")
    image.putpalette([i for k in range(256) for i in (k, 0, 255 - k)])
    assert image.mode == "P"
    mask = read_mask(png(image), SIZE)
    assert mask.inside.sum() == 81 and mask.ignored.sum() == 15 * 15 - 81


def test_run_lengths_go_down_the_columns():
    """By hand: a picture of 4 x 5 with the block of rows 1, 2 and columns 1, 2."""
    block = np.zeros((5, 4), dtype=bool)
    block[1:3, 1:3] = True
    counts = [6, 2, 3, 2, 7]
    assert decode_counts("62304").tolist() == counts, "pycocotools writes the fourth number on as differences"
    assert (read_mask(coco({"size": [5, 4], "counts": counts}), (4, 5)).inside == block).all()
    assert (read_mask(coco({"size": [5, 4], "counts": "62304"}), (4, 5)).inside == block).all()
    inverse = coco({"size": [5, 4], "counts": [0, 6, 2, 3, 2, 7]})
    assert (read_mask(inverse, (4, 5)).inside == ~block).all()


def test_compressed_run_lengths_of_pycocotools():
    holed = BOX.copy()
    holed[15, 20] = False
    counts = "c<k0=000000000000000000AD2<=0000000000000000000000000000000000000000000000U6"
    assert (read_mask(coco({"size": [40, 50], "counts": counts}), SIZE).inside == holed).all()
    assert mask_runs(holed)["counts"] == counts
    y, x = np.mgrid[0:60, 0:80]
    disc = (x - 40) ** 2 + (y - 30) ** 2 < 400
    counts = "TX1=]14L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N3L4LjT1"
    assert (read_mask(coco({"size": [60, 80], "counts": counts}), (80, 60)).inside == disc).all()
    assert mask_runs(disc)["counts"] == counts


def test_polygons_alone_in_an_annotation_and_in_a_file_of_annotations():
    ring = [10, 3, 45, 3, 45, 30, 10, 30]
    second = [0, 35, 5, 35, 5, 40, 0, 40]
    for content in ([ring], {"segmentation": [ring], "image_id": 3}):
        assert (read_mask(coco(content), SIZE).inside == BOX).all()
    both = read_mask(coco([ring, second]), SIZE).inside
    assert both.sum() == BOX.sum() + 25
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 50, "height": 40},
        {"id": 2, "file_name": "b.jpg", "width": 9, "height": 9},
    ]
    notes = [
        {"image_id": 1, "segmentation": [ring]},
        {"image_id": 1, "segmentation": [second]},
        {"image_id": 2, "segmentation": [[0, 0, 9, 0, 9, 9]]},
    ]
    whole = coco({"images": images, "annotations": notes})
    assert (read_mask(whole, SIZE, "a.jpg").inside == both).all()
    with pytest.raises(MaskUnusable, match=r"2 pictures, of which 0 are called 'c\.jpg'"):
        read_mask(whole, SIZE, "c.jpg")
    with pytest.raises(MaskUnusable, match="9 x 9"):
        read_mask(whole, SIZE, "b.jpg")


def test_reasonsegs_outlines_with_something_to_ignore():
    shapes = [
        {"label": "target", "points": [[10, 3], [45, 3], [45, 30], [10, 30]]},
        {"label": "ignore", "points": [[40, 0], [50, 0], [50, 40], [40, 40]]},
    ]
    mask = read_mask(coco({"text": ["?"], "is_sentence": True, "shapes": shapes}), SIZE)
    assert mask.ignored.sum() == 400
    assert (mask.inside == (BOX & ~mask.ignored)).all(), "what is ignored isn't inside"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (png(Image.new("L", SIZE)), "is empty"),
        (png(Image.new("L", (40, 50), 255)), "40 x 50 pixels, but the picture has 50 x 40"),
        (b"", "no image and no JSON"),
        (b"{", "no segmentation"),
        (b"[" * 5000, "no segmentation"),
        (coco([]), "is empty"),
        (coco({}), "no segmentation"),
        (coco([[1, 2, 3, 4]]), "three finite corners"),
        (coco([[1, 2, 3, 4, 5]]), "no segmentation"),
        (coco([["a", 2, 3, 4, 5, 6]]), "no segmentation"),
        (b"[[1, 2, NaN, 4, 5, 6]]", "three finite corners"),
        (coco({"size": [40, 50], "counts": [1, 2]}), "come to 3 pixels, but the picture has 2,000"),
        (coco({"size": [40, 50], "counts": [-5, 2005]}), "run lengths"),
        (coco({"size": [40, 50], "counts": [10**30]}), "no segmentation"),
        (coco({"size": [99999, 99999], "counts": [1]}), "99999 x 99999"),
        (coco({"size": [40, 50], "counts": "o"}), "no segmentation"),
        (coco({"size": [40, 50], "counts": "ÿ"}), "no segmentation"),
        (coco({"size": [40, 50], "counts": "o" * 40}), "no segmentation"),
        (coco({"shapes": [{"label": "target"}]}), "no segmentation"),
        (b"[[" + b"0," * 5_000_000 + b"0]]", "5,000,002 values"),
        (coco([[0, 0, 0, 4e4] * 200_000]), "rows of pixels"),
        (coco({"size": [40, 50], "counts": [1.5, 1998.5]}), "no segmentation"),
    ],
)
def test_what_is_no_mask_of_this_picture_is_one_sentence(data: bytes, sentence: str):
    with pytest.raises(MaskUnusable, match=sentence) as caught:
        read_mask(data, SIZE)
    assert "\n" not in str(caught.value)


def test_a_file_is_read_by_its_path(tmp_path: Path):
    path = tmp_path / "mask.png"
    path.write_bytes(png(Image.fromarray(BOX)))
    assert (read_mask(path, SIZE).inside == BOX).all()
    with pytest.raises(MaskUnusable, match=r"missing\.png"):
        read_mask(tmp_path / "missing.png", SIZE)
    with pytest.raises(MaskUnusable, match="can't be read"):
        read_mask(tmp_path, SIZE)


def test_a_mask_that_is_wholly_ignored_is_empty():
    with pytest.raises(MaskUnusable, match="is empty"):
        mask_of(BOX, BOX)


def ragged(seed: int) -> np.ndarray:
    """Noise with long runs as well as short ones, in a corner or not."""
    return np.random.default_rng(seed).random((40, 50)) < np.linspace(0, 1, 50) ** (seed + 1)


@pytest.mark.parametrize("inside", [BOX, ~BOX, np.ones((40, 50), bool), ragged(0), ragged(3), ~ragged(1)])
def test_what_is_written_is_read_back(inside: np.ndarray):
    annotations = mask_coco(inside, "a.png", "cat")
    for data in (mask_png(inside), coco(mask_runs(inside)), coco(annotations)):
        found = read_mask(data, SIZE)
        assert (found.inside == inside).all() and not found.ignored.any()
    (annotation,) = annotations["annotations"]
    x, y, width, height = annotation["bbox"]
    assert annotation["area"] == inside.sum() and not np.delete(inside, range(y, y + height), 0).any()
    assert inside[y].any() and inside[y + height - 1].any() and inside[:, x].any() and inside[:, x + width - 1].any()
    assert not np.delete(inside, range(x, x + width), 1).any()


def test_counts_of_any_size_survive_compression():
    counts = [0, 1, 70_000, 3, 1, 2**31]
    assert decode_counts(encode_counts(counts)).tolist() == counts
    assert mask_runs(np.zeros((40, 50), bool)) == {"size": [40, 50], "counts": encode_counts([2000])}


def labelme(*shapes: dict, **facts: object) -> bytes:
    return coco({"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.jpg", "imageData": None, **facts})


def shape(kind: str | None, *points: tuple[float, float], label: str = "cat", **more: object) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def test_a_size_that_the_file_gives_must_be_the_pictures():
    ring = shape("polygon", (10, 3), (45, 3), (45, 30), (10, 30))
    for facts in ({}, {"imageWidth": 50, "imageHeight": 40}, {"imageWidth": None, "imageHeight": None}):
        assert (read_mask(labelme(ring, **facts), SIZE).inside == BOX).all()
    with pytest.raises(MaskUnusable, match="100 x 80 pixels, but the picture has 50 x 40"):
        read_mask(labelme(ring, imageWidth=100, imageHeight=80), SIZE)
    notes = [{"image_id": 1, "segmentation": [[10, 3, 45, 3, 45, 30, 10, 30]]}]
    for sides, fits in (({}, True), ({"width": 50, "height": 40}, True), ({"width": 40, "height": 50}, False)):
        data = coco({"images": [{"id": 1, "file_name": "a.jpg", **sides}], "annotations": notes})
        if fits:
            assert (read_mask(data, SIZE).inside == BOX).all()
        else:
            with pytest.raises(MaskUnusable, match="40 x 50 pixels, but the picture has 50 x 40"):
                read_mask(data, SIZE)


@pytest.mark.parametrize("kind", ["polygon", None, "", "rectangle"])
def test_labelmes_four_corners(kind: str | None):
    assert (read_mask(labelme(shape(kind, (10, 3), (45, 3), (45, 30), (10, 30))), SIZE).inside == BOX).all()


@pytest.mark.parametrize(
    "corners", [((10, 3), (45, 30)), ((45, 30), (10, 3)), ((10, 30), (45, 3)), ((9.6, 2.7), (45.4, 30.4))]
)
def test_labelmes_rectangle_has_two_corners_in_any_order(corners: tuple):
    assert (read_mask(labelme(shape("rectangle", *corners)), SIZE).inside == BOX).all()


def test_labelmes_circle_has_a_centre_and_a_place_on_it():
    x, y = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    for cx, cy, px, py in (
        (20, 15, 25, 15),
        (20.25, 15.5, 24, 18.5),
        (48, 2, 48, 12),
        (-5, 20, 5, 20),
        (25, 20, 90, 90),
    ):
        wanted = (x - cx) ** 2 + (y - cy) ** 2 <= (px - cx) ** 2 + (py - cy) ** 2
        assert (read_mask(labelme(shape("circle", (cx, cy), (px, py))), SIZE).inside == wanted).all()


def test_labelmes_mask_is_a_picture_at_a_place():
    part = ragged(2)[3:30, 10:45]
    held = base64.b64encode(png(Image.fromarray(part))).decode()
    wanted = np.zeros((40, 50), dtype=bool)
    wanted[3:30, 10:45] = part
    assert (read_mask(labelme(shape("mask", (10, 3), (44, 29), mask=held)), SIZE).inside == wanted).all()
    for points, mask, sentence in (
        (((10, 3), (44, 30)), held, "35 x 27 pixels at a place of 35 x 28"),
        (((20, 3), (54, 29)), held, "outside its picture of 50 x 40"),
        (((10, 3), (44, 29)), "AAAA", "can't be read"),
        (((10, 3), (44, 29)), "!", "can't be read"),
    ):
        with pytest.raises(MaskUnusable, match=sentence):
            read_mask(labelme(shape("mask", *points, mask=mask)), SIZE)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("line", 2),
        ("linestrip", 4),
        ("point", 1),
        ("points", 3),
        ("rotation", 4),
        ("rectangle", 3),
        ("circle", 1),
        ("mask", 1),
    ],
)
def test_a_shape_from_which_no_area_can_be_read_is_named(kind: str, count: int):
    ring = shape("polygon", (10, 3), (45, 3), (45, 30), (10, 30))
    odd = shape(kind, *((5.0 * k, 3.0 + k * k) for k in range(count)), label="tail")
    with pytest.raises(MaskUnusable, match=rf"'{kind}' with {count} points \(label 'tail'\)"):
        read_mask(labelme(ring, odd), SIZE)
    flagged = read_mask(labelme(ring, {**odd, "label": "flag"}), SIZE)
    assert (flagged.inside == BOX).all(), "ReasonSeg's flag has no extent"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_any_encoding_with_or_without_a_byte_order_mark(encoding: str):
    text = "\r\n " + json.dumps(
        {"segmentation": [[10, 3, 45, 3, 45, 30, 10, 30]], "name": "Kätzchen"}, ensure_ascii=False
    )
    assert (read_mask(text.encode(encoding), SIZE).inside == BOX).all()


def test_many_shapes_are_one_union():
    """Polygons that overlap, and run lengths: each counts once, a hole in one doesn't cut another."""
    ring = [5, 5, 30, 5, 30, 30, 5, 30]
    twisted = [10, 10, 20, 20, 20, 10, 10, 20]
    runs = mask_runs(ragged(1))
    content = [{"image_id": 1, "segmentation": each} for each in ([ring], [twisted, ring], runs, [twisted], runs)]
    found = read_mask(coco({"images": [{"id": 1}], "annotations": content}), SIZE).inside
    assert (found == (box_mask((5, 5, 30, 30), SIZE) | ragged(1))).all()
    only = read_mask(coco([twisted]), SIZE).inside
    assert 0 < only.sum() < 60 and not only[10, 12:18].any(), "even-odd where it crosses itself"


def test_compressed_run_lengths_are_those_of_the_reference():
    """``rleFrString`` as it stands in cocoapi, number by number."""

    def reference(text: str) -> list[int]:
        counts: list[int] = []
        place = 0
        while place < len(text):
            value, k, more = 0, 0, True
            while more:
                bits = ord(text[place]) - 48
                value |= (bits & 31) << 5 * k
                more = bool(bits & 32)
                place, k = place + 1, k + 1
                if not more and bits & 16:
                    value |= -1 << 5 * k
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        return counts

    random = np.random.default_rng(0)
    for _ in range(200):
        counts = random.integers(0, 2 ** random.integers(1, 36), random.integers(1, 60)).tolist()
        text = encode_counts(counts)
        assert decode_counts(text).tolist() == reference(text) == counts
