"""Pictures drawn in batches, held against Pillow drawing them one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lens.demo.convert import image_processor
from lens.demo.drawing import Canvas, relit
from lens.demo.photos import whole
from lens.demo.pictures import FOUR, INSET, Plan, plan_pictures
from tests.demo.tinyconnector import COLOURS, CPU, one_part, photographs

FULL = (384, 384)


def grey(canvas: Canvas, plan: Plan, chunk: int = 8) -> np.ndarray:
    """The drawn pictures in grey levels, [n, 384, 384, 3]."""
    drawn = torch.cat(list(canvas.draw(plan, chunk)))
    assert drawn.is_contiguous(memory_format=torch.channels_last)
    return (drawn * 128 + 127).round().permute(0, 2, 3, 1).numpy()


def smooth(path: Path, size: tuple[int, int]) -> Image.Image:
    """Noise without fine detail, in PNG."""
    small = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    image.save(path)
    return image


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [(0, 0, 300, 200), (31.4, 20.7, 150.2, 120.9), (150, 80, 150, 120)])
def test_an_enlarged_crop_is_pillows_bilinear_one(
    tmp_path: Path, flip: bool, crop: tuple[float, float, float, float]
) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    noise.save(tmp_path / "noise.png")
    plan = one_part(flip=np.full((1, 4), flip))
    plan.source[0, 0] = crop
    x, y, width, height = crop
    wanted = noise.resize(FULL, Image.Resampling.BILINEAR, (x, y, x + width, y + height))
    wanted = np.asarray(ImageOps.mirror(wanted) if flip else wanted, float)
    found = grey(Canvas([tmp_path / "noise.png"], CPU), plan)[0]
    assert np.abs(found - wanted).max() <= 2 and np.abs(found - wanted).mean() < 0.5


@pytest.mark.parametrize("size", [(560, 400), (1200, 900), (1500, 1500)])
def test_a_shrunk_photograph_is_near_pillows(tmp_path: Path, size: tuple[int, int]) -> None:
    image = smooth(tmp_path / "smooth.png", size)
    wanted = np.asarray(image.resize(FULL, Image.Resampling.BILINEAR), float)
    found = grey(Canvas([tmp_path / "smooth.png"], CPU), one_part(size=size))[0]
    assert np.abs(found - wanted).mean() < 1 and np.abs(found - wanted).max() < 8


def test_fine_detail_is_read_from_the_half_size_copy(tmp_path: Path) -> None:
    chess = (np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(chess).convert("RGB").save(tmp_path / "chess.png")
    canvas = Canvas([tmp_path / "chess.png"], CPU)
    assert np.abs(grey(canvas, one_part(size=(900, 900))) - 127.5).max() <= 1
    enlarged = one_part()
    enlarged.source[0, 0] = (100, 100, 300, 300)
    assert grey(canvas, enlarged).std() > 30


def test_the_exact_picture_is_nearly_the_processors(tmp_path: Path) -> None:
    image = smooth(tmp_path / "smooth.png", (500, 333))
    plan = one_part()
    plan.source[0, 0] = ((500 - 333) / 2, 0, 333, 333)
    found = grey(Canvas([tmp_path / "smooth.png"], CPU), plan)[0]
    ours = np.asarray(whole(image), float)
    theirs = image_processor()(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0) * 128 + 127
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    assert np.abs(found - ours).mean() < 1.5


def test_every_part_is_where_the_plan_says(tmp_path: Path) -> None:
    """Each cell's colour is the mean of its parts' colours, by what each covers of it."""
    canvas = Canvas(photographs(tmp_path), CPU)
    plan = plan_pictures(canvas.sizes, range(len(COLOURS)), 60, np.random.default_rng(0), True)
    plain = replace(plan, light=np.tile((0.0, 1.0, 1.0), (60, 1)), shape=np.zeros(60, np.int64))
    assert {INSET, FOUR} <= set(plain.layout)
    cells = grey(canvas, plain, chunk=25).reshape(60, 12, 32, 12, 32, 3).mean((2, 4)).reshape(60, 144, 3)
    wanted = np.einsum("npc,npk->nck", plain.cover, np.array(COLOURS, float)[plain.photo])
    assert np.abs(cells - wanted).max() < 255 / 32 + 1  # an edge inside a pixel goes to one part wholly


def test_light(tmp_path: Path) -> None:
    image = torch.tensor([[[[100.0, 150.0, 200.0]]]])
    found = relit(image.expand(4, 1, 1, 3), torch.tensor([[10, 1, 1], [0, 0, 1], [0, 1, 0], [0, 1.5, 1]]))
    wanted = [[110, 160, 210], [127, 127, 127], [150, 150, 150], [86.5, 161.5, 236.5]]
    torch.testing.assert_close(found[:, 0, 0], torch.tensor(wanted))


def test_light_stays_within_the_levels(tmp_path: Path) -> None:
    canvas = Canvas(photographs(tmp_path), CPU)
    bright = one_part(5, light=np.tile((200.0, 1.4, 1.4), (5, 1)))
    bright.photo[:, 0] = range(5)
    drawn = torch.cat(list(canvas.draw(bright, 2)))
    assert drawn.max() <= 1.0 and drawn.min() >= -127 / 128


@pytest.mark.parametrize(("shape", "area"), [(1, 4.0), (2, math.pi), (3, 2.0)])
def test_a_shape_has_its_colour_place_and_area(tmp_path: Path, shape: int, area: float) -> None:
    paint = np.array([[200.0, 150.0, 60.0, 10, 90, 250]])
    found = grey(Canvas(photographs(tmp_path), CPU), one_part(shape=np.array([shape]), paint=paint))[0]
    inside = (found == (10, 90, 250)).all(-1)
    assert inside.sum() == pytest.approx(area * 60**2, rel=0.02)
    assert (found[~inside] == COLOURS[0]).all()
    rows, columns = np.nonzero(inside)
    assert columns.mean() == pytest.approx(199.5, abs=1) and rows.min() == pytest.approx(90, abs=2)
    if shape == 3:  # on its base
        assert inside[205].sum() > inside[100].sum() > 0
