"""Damaged masks of every kind that is read: a mask of the picture's size, or a sentence, and soon."""

from __future__ import annotations

import base64
import json
import random
import time
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens.backend.maskfiles import mask_coco, mask_png, mask_runs, read_mask
from lens.backend.regions import box_mask
from lens.errors import MaskUnusable
from tests.fuzz.mutating import RUNS, damaged, damaged_json
from tests.fuzz.test_pictures import SECONDS, exif, saved

SIZE = (40, 30)
BOX = box_mask((7, 3, 33, 25), SIZE)
RING = [7, 3, 33, 3, 33, 25, 7, 25]
GREY = Image.fromarray(BOX.astype(np.uint8) * 255)


def shape(kind: str, points: list[list[float]], **more: object) -> dict[str, Any]:
    return {"label": "cat", "shape_type": kind, "points": points, "flags": {}, "group_id": None, **more}


DOCUMENTS: dict[str, Any] = {
    "polygons": [RING, [1, 1, 5, 1, 5, 5]],
    "run lengths": mask_runs(BOX),
    "run lengths, plain": {"size": [30, 40], "counts": [213, 22, *[8, 22] * 25, 215]},
    "annotations": {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "segmentation": [RING]}, {"image_id": 1, "segmentation": mask_runs(BOX)}],
    },
    "annotation": mask_coco(BOX, "a.png", "cat"),
    "labelme": {
        "imageWidth": 40,
        "imageHeight": 30,
        "shapes": [
            shape("polygon", [[7, 3], [33, 3], [33, 25]]),
            shape("rectangle", [[7, 3], [33, 25]]),
            shape("circle", [[20, 15], [25, 15]]),
            shape("mask", [[7, 3], [32, 24]], mask=base64.b64encode(mask_png(BOX[3:25, 7:33])).decode()),
            shape("polygon", [[0, 0], [3, 0], [3, 3]], label="ignore"),
        ],
    },
}

IMAGES: dict[str, bytes] = {
    "grey": mask_png(BOX),
    "palette": saved(GREY.convert("P"), "PNG", transparency=0),
    "opaque": saved(GREY.convert("RGBA"), "PNG", exif=exif()),
    "16 bits": saved(Image.fromarray(BOX.astype(np.uint16) * 9000), "PNG"),
    "TIFF": saved(GREY, "TIFF", tiffinfo={262: 0}),
    "GIF": saved(GREY, "GIF"),
    "BMP": saved(Image.fromarray(BOX), "BMP"),
    "WebP": saved(GREY.convert("RGB"), "WEBP", lossless=True),
    "JPEG": saved(GREY, "JPEG"),
}


def check(data: bytes, run: int) -> bool:
    """Whether it is read."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, of what it makes of wild numbers
        try:
            mask = read_mask(data, SIZE, "a.png")
        except MaskUnusable as error:
            assert "\n" not in str(error) and len(str(error)) < 500, run
            return False
        finally:
            assert time.process_time() - started < SECONDS, run
    assert mask.inside.shape == mask.ignored.shape == (30, 40), run
    assert mask.inside.any() and not (mask.inside & mask.ignored).any(), run
    return True


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_with_wild_values_is_read_or_refused(kind: str):
    rng = random.Random(kind)
    assert check(json.dumps(DOCUMENTS[kind]).encode(), -1)
    for run in range(RUNS):
        check(damaged_json(DOCUMENTS[kind], rng).encode(), run)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_with_damaged_bytes_is_read_or_refused(kind: str, encoding: str):
    rng, data = random.Random(kind), json.dumps(DOCUMENTS[kind]).encode(encoding)
    for run in range(RUNS):
        check(damaged(data, rng), run)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_damaged_image_is_read_or_refused(kind: str):
    rng = random.Random(kind)
    if kind == "opaque":  # turned by its EXIF
        with pytest.raises(MaskUnusable, match="30 x 40"):
            read_mask(IMAGES[kind], SIZE)
    else:
        assert check(IMAGES[kind], -1)
    assert sum(check(damaged(IMAGES[kind], rng), run) for run in range(RUNS)) < RUNS
