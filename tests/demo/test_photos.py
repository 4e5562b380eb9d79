"""The labelled photographs, and how the encoder takes a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lens.demo import names, photos
from lens.demo.convert import image_processor
from lens.errors import ImagesMissing


def test_the_whole_picture_is_what_the_processor_shows() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 341, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    theirs = image_processor()(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(photos.pixels([photos.whole(image)]), theirs, atol=1e-5, rtol=0)


def test_a_crop_is_a_square_of_the_photograph_the_same_for_a_seed() -> None:
    ramp = np.broadcast_to(np.arange(600, dtype=np.float32)[None, :, None] / 3, (400, 600, 3)).astype(np.uint8)
    image = Image.fromarray(ramp)
    one, same, other = (photos.crop(image, seed) for seed in (7, 7, 8))
    assert one.size == (384, 384) and one.tobytes() == same.tobytes() != other.tobytes()
    spans = [np.ptp(np.asarray(photos.crop(image, seed)).astype(int)) for seed in range(30)]
    assert min(spans) > 0.4 * 400 / 3 and max(spans) < 400 / 3 + 3


def test_there_must_be_a_photograph_of_every_class(tmp_path: Path) -> None:
    (tmp_path / "n01440764_tench.jpg").touch()
    with pytest.raises(ImagesMissing, match=r"holds 1; one for each of the 1,000"):
        photos.photographs(tmp_path)
    for number in range(999):
        (tmp_path / f"n{number:08}_thing.jpg").touch()
    assert photos.photographs(tmp_path)[-1].name == "n01440764_tench.jpg"


def test_held_out_classes_depend_on_the_seed_alone() -> None:
    held = photos.held_out(0)
    assert len(held) == 100 and held == photos.held_out(0) != photos.held_out(1)


def test_broader_words_cover_known_classes() -> None:
    table = names.broader()
    assert set(table) <= set(range(1000))
    assert [table[i] for i in (0, 9, 151, 281, 817, 954)] == ["fish", "bird", "dog", "cat", "car", "fruit"]
