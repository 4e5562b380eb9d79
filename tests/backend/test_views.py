"""The rules that say which visual token stands where: in closed form. What real processors do is in test_families.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GotOcr2ImageProcessorPil, Idefics3ImageProcessorPil, SiglipImageProcessorPil

from lens.backend.views import RULES, Processed, View
from lens.errors import ModelUnreadable

SIZE = (640, 448)


def views(rule: str, count: int, size=SIZE, processor=None, inputs=None, patch=None, **config) -> tuple[View, ...]:
    vision = SimpleNamespace(**config.pop("vision", {}))
    config = SimpleNamespace(vision_config=vision, **config)
    return RULES[rule](Processed(processor, inputs or {}, config, patch, size, (0, 0), size, count))


def square(side: int) -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": side, "width": side})


def test_a_view_whose_patches_are_merged():
    """Gemma 3: 896 / 14 = 64 patches a side, pooled to 256 tokens."""
    (view,) = views("single view", 256, processor=square(896), patch=14)
    assert np.array_equal(view.tokens, np.arange(256).reshape(16, 16))
    np.testing.assert_allclose(view.boxes[3, 5], [200, 84, 240, 112])


def test_what_a_patch_convolution_leaves_out_belongs_to_no_token():
    """SigLIP at 384 by 14: 27 patches of 14, and 6 pixels over."""
    (view,) = views("single view", 729, size=(384, 384), processor=square(384), patch=14)
    np.testing.assert_allclose(view.boxes[26, 26], [364, 364, 378, 378])


def test_a_view_whose_patch_size_is_unknown_is_a_square_grid():
    (view,) = views("single view", 16, processor=square(48))
    np.testing.assert_allclose(view.boxes[1, 2], [320, 112, 480, 224])


def test_merged_patches_of_a_dynamic_resolution():
    grid = {"image_grid_thw": torch.tensor([[1, 6, 8]])}
    (view,) = views("merged patches", 12, size=(400, 300), processor=SimpleNamespace(merge_size=2), inputs=grid)
    assert np.array_equal(view.tokens, np.arange(12).reshape(3, 4))
    np.testing.assert_allclose(view.boxes[1, 2], [200, 100, 300, 200])


def test_tiles_of_a_split_picture_then_the_whole():
    """640 x 448 resized to 144 x 100, so 3 x 3 tiles of 48, each of 3 x 3 tokens; then the whole picture."""
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 144}, max_image_size={"longest_edge": 48})
    coarse, fine = views("split picture", 90, processor=processor)
    assert np.array_equal(coarse.tokens, 81 + np.arange(9).reshape(3, 3))
    assert fine.tokens.shape == (9, 9)
    assert sorted(fine.tokens.reshape(-1)) == list(range(81))
    assert fine.tokens[4, 7] == (1 * 3 + 2) * 9 + 1 * 3 + 1, "tile (1, 2), inside it (1, 1)"
    np.testing.assert_allclose(fine.boxes[4, 7], [640 * 7 / 9, 448 * 4 / 9, 640 * 8 / 9, 448 * 5 / 9])
    np.testing.assert_allclose(coarse.boxes[2, 0], [0, 448 * 2 / 3, 640 / 3, 448])


def test_a_picture_that_is_not_split_is_one_view():
    processor = Idefics3ImageProcessorPil(do_image_splitting=False)
    (view,) = views("split picture", 9, processor=processor)
    assert np.array_equal(view.tokens, np.arange(9).reshape(3, 3))


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        pytest.param((640, 448), (2, 3), id="nearest ratio: 3 to 2 for 1.43"),
        pytest.param((600, 100), (1, 6), id="long"),
        pytest.param((100, 600), (6, 1), id="tall"),
        pytest.param((480, 480), (2, 2), id="square and large: the larger of two equal ratios"),
    ],
)
def test_tiles_of_the_nearest_canvas_then_the_whole(size, shape):
    processor = GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, min_patches=1, max_patches=6)
    down, across = shape
    tiles = down * across + 1
    pixels = {"pixel_values": torch.zeros(tiles, 3, 48, 48)}
    coarse, fine = views("tiled canvas", tiles * 9, size=size, processor=processor, inputs=pixels)
    assert fine.tokens.shape == (down * 3, across * 3)
    assert np.array_equal(fine.tokens[:3, :3], np.arange(9).reshape(3, 3)), "the first tile, row by row"
    assert fine.tokens[-1, -1] == coarse.tokens[0, 0] - 1 == (tiles - 1) * 9 - 1
    np.testing.assert_allclose(
        fine.boxes[0, 1], [size[0] / across / 3, 0, size[0] / across * 2 / 3, size[1] / down / 3]
    )


PINPOINTS = [[48, 96], [96, 48], [96, 96]]
TILES = {"image_size": 48, "patch_size": 8}


def test_tiles_without_the_rows_that_see_padding():
    """640 x 448 on a canvas of 96 x 96: 96 x 68, padded by 14; of 12 x 12 tokens, 8 rows of 12 are kept, each with a
    line break behind it."""
    processor = SimpleNamespace(image_grid_pinpoints=PINPOINTS)
    coarse, fine = views("unpadded tiles", 36 + 8 * 13, processor=processor, vision=TILES)
    assert np.array_equal(coarse.tokens, np.arange(36).reshape(6, 6))
    assert fine.tokens.shape == (8, 12)
    assert fine.tokens[0].tolist() == list(range(36, 48))
    assert fine.tokens[1, 0] == 49, "48 is the line break"
    np.testing.assert_allclose(fine.boxes[0, 0], [0, 2 * 448 / 68, 8 * 640 / 96, 10 * 448 / 68])
    np.testing.assert_allclose(coarse.boxes[1, 1], [640 / 6, 448 / 6, 640 / 3, 448 / 3])


def test_a_large_grid_of_tiles_is_thinned_out():
    """No more than about twice a tile's tokens: 8 x 12 becomes 8 / r x 12 / r, r = sqrt(96 / 72)."""
    processor = SimpleNamespace(image_grid_pinpoints=PINPOINTS)
    settings = {"processor": processor, "vision": TILES, "vision_aspect_ratio": "anyres_max_2"}
    _, fine = views("unpadded tiles", 36 + 6 * 11, **settings)
    assert fine.tokens.shape == (6, 10)
    np.testing.assert_allclose(fine.boxes[:, 1:, 0], fine.boxes[:, :-1, 2])
    np.testing.assert_allclose(fine.boxes[2, 5, [0, 2]], [320, 384])


def test_queries_have_no_grid():
    assert views("no grid", 32) == ()


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("single view", {"processor": square(48), "patch": 8}),
        ("single view", {"processor": square(48)}),
        ("split picture", {"processor": Idefics3ImageProcessorPil(do_image_splitting=False)}),
        ("unpadded tiles", {"processor": SimpleNamespace(image_grid_pinpoints=PINPOINTS), "vision": TILES}),
    ],
)
def test_another_number_of_tokens_than_the_rule_gives_is_refused(rule, settings):
    with pytest.raises(ModelUnreadable, match=r"placed 37 visual tokens where its geometry gives .*not supported"):
        views(rule, 37, **settings)
