"""Boxes of patches: in closed form, and against what the processor really does to painted pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lens.backend.encoding import encode
from lens.backend.geometry import MAX_ASPECT, single_view, trim
from lens.backend.loading import LoadedModel
from lens.errors import ModelUnreadable
from tests.backend.conftest import png_picture
from tests.helpers import tiny_llava

CROP = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
FIXED = SiglipImageProcessorPil(size={"height": 48, "width": 48})
PADDED = LlavaImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, do_pad=True)
WIDE = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 64})
BARE = CLIPImageProcessorPil(do_resize=False, crop_size={"height": 48, "width": 48})


def edges(processor, width: int, height: int, rows: int = 6, cols: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The grid lines (x [cols + 1], y [rows + 1]) of a picture of that size."""
    image, origin = trim(Image.new("RGB", (width, height)), processor)
    boxes = single_view(processor, image.size, origin).boxes(rows, cols, (width, height))
    assert boxes.shape == (rows, cols, 4)
    assert (boxes == boxes[:1, :, [0, 1, 2, 3]]).all(axis=0)[:, [0, 2]].all(), "columns share their x"
    assert (boxes == boxes[:, :1]).all(axis=1)[:, [1, 3]].all(), "rows share their y"
    assert np.array_equal(boxes[:, 1:, 0], boxes[:, :-1, 2])
    assert np.array_equal(boxes[1:, :, 1], boxes[:-1, :, 3])
    return np.append(boxes[0, :, 0], boxes[0, -1, 2]), np.append(boxes[:, 0, 1], boxes[-1, 0, 3])


STEPS = np.arange(7)


@pytest.mark.parametrize(
    ("processor", "size", "x", "y"),
    [
        pytest.param(CROP, (48, 48), STEPS * 8, STEPS * 8, id="exact"),
        pytest.param(CROP, (96, 96), STEPS * 16, STEPS * 16, id="square"),
        pytest.param(CROP, (12, 12), STEPS * 2, STEPS * 2, id="upscaled"),
        pytest.param(CROP, (1, 1), STEPS / 6, STEPS / 6, id="one pixel"),
        pytest.param(CROP, (96, 48), 24 + STEPS * 8, STEPS * 8, id="landscape"),
        pytest.param(CROP, (48, 96), STEPS * 8, 24 + STEPS * 8, id="portrait"),
        # 91 x 61 becomes int(48 * 91 / 61) = 71 wide; the crop starts at (71 - 48) // 2 = 11.
        pytest.param(CROP, (91, 61), (STEPS * 8 + 11) * 91 / 71, STEPS * 8 * 61 / 48, id="odd landscape"),
        pytest.param(CROP, (61, 91), STEPS * 8 * 61 / 48, (STEPS * 8 + 11) * 91 / 71, id="odd portrait"),
        # Cut to 48 x 3 from x = (5000 - 48) // 2, then 768 x 48, cropped from (768 - 48) // 2 = 360.
        pytest.param(CROP, (5000, 3), 2476 + (STEPS * 8 + 360) / 16, STEPS / 2, id="strip"),
        pytest.param(CROP, (3, 5000), STEPS / 2, 2476 + (STEPS * 8 + 360) / 16, id="column"),
        pytest.param(FIXED, (90, 60), STEPS * 15, STEPS * 10, id="fixed size"),
        pytest.param(FIXED, (5000, 3), STEPS * 5000 / 6, STEPS / 2, id="fixed size strip"),
        # Padded to 90 x 90, (90 - 60) // 2 = 15 above and below: the outer rows lie wholly on padding.
        pytest.param(PADDED, (90, 60), STEPS * 15, np.clip(STEPS * 15 - 15, 0, 60), id="padded landscape"),
        pytest.param(PADDED, (60, 90), np.clip(STEPS * 15 - 15, 0, 60), STEPS * 15, id="padded portrait"),
        pytest.param(
            PADDED, (5000, 3), STEPS * 5000 / 6, np.clip(STEPS * 5000 / 6 - 2498, 0, 3), id="padded strip: nothing cut"
        ),
        # Smaller than the crop: ceil((48 - 31) / 2) = 9 of zeros before it.
        pytest.param(BARE, (31, 96), np.clip(STEPS * 8 - 9, 0, 31), 24 + STEPS * 8, id="crop larger than the picture"),
    ],
)
def test_closed_forms(processor, size, x, y):
    found_x, found_y = edges(processor, *size)
    np.testing.assert_allclose(found_x, x, atol=1e-9)
    np.testing.assert_allclose(found_y, y, atol=1e-9)


def test_a_crop_that_is_no_square():
    x, y = edges(WIDE, 128, 96, rows=4, cols=8)
    np.testing.assert_allclose(x, np.arange(9) * 16)
    np.testing.assert_allclose(y, 16 + np.arange(5) * 16)


def test_only_what_no_crop_can_show_is_cut_away():
    limit = int(10 * MAX_ASPECT)
    assert trim(Image.new("RGB", (limit, 10)), CROP)[0].size == (limit, 10)
    cut, origin = trim(Image.new("RGB", (limit + 7, 10)), CROP)
    assert (cut.size, origin) == ((limit, 10), (3, 0))
    for processor in (FIXED, PADDED):
        assert trim(Image.new("RGB", (5000, 3)), processor)[0].size == (5000, 3)


def test_an_unknown_rule_of_resizing_is_refused():
    processor = CLIPImageProcessorPil(size={"longest_edge": 48}, do_center_crop=False)
    with pytest.raises(ModelUnreadable, match="longest_edge"):
        single_view(processor, (90, 60))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """The tiny LLaVA with image processors of several kinds."""

    def made(name: str, processor=None, **settings) -> LoadedModel:
        loaded = tiny_llava(tmp_path_factory.mktemp(name), **settings)
        if processor is not None:
            loaded.processor.image_processor = processor
        return loaded

    return {
        "crop": made("crop"),
        "fixed": made("fixed", FIXED),
        "padded": made("padded", PADDED),
        "no square": made("wide", WIDE),
        # 51 = 6 * 8 + 3: the patch convolution never sees the last three columns and rows.
        "remainder": made("remainder", size={"shortest_edge": 51}, crop_size={"height": 51, "width": 51}),
    }


def cells_of(encoded, channel: int = 0) -> np.ndarray:
    """One channel of what the encoder gets, [height, width]."""
    return encoded.inputs["pixel_values"][0, channel].double().numpy()


@pytest.mark.parametrize("size", [(120, 120), (240, 96), (97, 203), (60, 50), (700, 40), (31, 29)])
@pytest.mark.parametrize("name", ["crop", "fixed", "padded", "no square", "remainder"])
def test_painting_a_patchs_box_white_lights_up_that_patch(models, name: str, size: tuple[int, int]):
    """No formula here: the picture is painted in its own pixels, and the encoder's input is looked at."""
    loaded = models[name]
    black = Image.new("RGB", size)
    plain = encode(loaded, "What is this?", png_picture(black))
    grid = plain.token_map.grids[0]
    patch = loaded.processor.patch_size
    checked = 0
    for row, col in [(r, c) for r in range(grid.rows) for c in range(grid.cols)]:
        x0, y0, x1, y1 = grid.boxes[row, col]
        left, top, right, bottom = round(x0), round(y0), round(x1), round(y1)
        if right - left < 3 or bottom - top < 3:
            continue
        painted = black.copy()
        ImageDraw.Draw(painted).rectangle((left, top, right - 1, bottom - 1), fill="white")
        change = cells_of(encode(loaded, "What is this?", png_picture(painted))) - cells_of(plain)
        seen = np.clip(change[: grid.rows * patch, : grid.cols * patch], 0, None)
        per_patch = seen.reshape(grid.rows, patch, grid.cols, patch).mean(axis=(1, 3))
        assert np.unravel_index(per_patch.argmax(), per_patch.shape) == (row, col)
        # Whole pixels are painted: up to half a pixel a side falls into a neighbour, and so does the resizing's blur.
        assert per_patch[row, col] > 0.5 * per_patch.sum()
        scale = patch / np.array([x1 - x0, y1 - y0])
        drawn = np.array([(left + right) / 2 - x0, (top + bottom) / 2 - y0]) * scale + patch * np.array([col, row])
        weights = seen / seen.sum()
        centre = np.array(
            [
                (weights.sum(0) * (np.arange(seen.shape[1]) + 0.5)).sum(),
                (weights.sum(1) * (np.arange(seen.shape[0]) + 0.5)).sum(),
            ]
        )
        # A patch on the rim of the picture, or half on padding, has its centre of light moved inwards.
        inner = 0 < row < grid.rows - 1 and 0 < col < grid.cols - 1
        whole = name != "padded" or (x0 > 1 and y0 > 1 and x1 < size[0] - 1 and y1 < size[1] - 1)
        if inner and whole:
            np.testing.assert_allclose(centre, drawn, atol=0.6)
            checked += 1
    assert checked or min(size) < 48 or name == "padded"


def test_boxes_are_those_of_the_upright_picture(models):
    """A camera held sideways: the stored pixels are turned, the boxes are where a reader sees the patch."""
    upright = Image.new("RGB", (120, 90))
    plain = encode(models["crop"], "What is this?", png_picture(upright))
    x0, y0, x1, y1 = plain.token_map.grids[0].boxes[1, 4]
    ImageDraw.Draw(upright).rectangle((round(x0), round(y0), round(x1) - 1, round(y1) - 1), fill="white")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    encoded = encode(models["crop"], "What is this?", png_picture(stored, exif=exif))
    assert encoded.token_map.image_size == (120, 90)
    assert np.array_equal(encoded.token_map.grids[0].boxes, plain.token_map.grids[0].boxes)
    change = cells_of(encoded) - cells_of(plain)
    per_patch = change.reshape(6, 8, 6, 8).mean(axis=(1, 3))
    assert np.unravel_index(per_patch.argmax(), (6, 6)) == (1, 4)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 700), (5000, 3), (3, 5000), (3, 3), (4, 3)])
@pytest.mark.parametrize("name", ["crop", "fixed", "padded"])
def test_degenerate_sizes_are_encoded(models, name: str, size: tuple[int, int]):
    encoded = encode(models[name], "What is this?", png_picture(Image.new("RGB", size, "white")))
    assert encoded.inputs["pixel_values"].shape == (1, 3, 48, 48)
    boxes = encoded.token_map.grids[0].boxes
    assert (boxes[..., :2] <= boxes[..., 2:]).all()
    assert boxes.min() >= 0
    assert boxes[..., 2].max() <= size[0]
    assert boxes[..., 3].max() <= size[1]


def test_what_a_remainder_leaves_out_is_in_no_box(models):
    encoded = encode(models["remainder"], "What is this?", png_picture(Image.new("RGB", (51, 51))))
    grid = encoded.token_map.grids[0]
    assert (grid.rows, grid.cols) == (6, 6)
    np.testing.assert_allclose(grid.boxes[5, 5], (40, 40, 48, 48))
