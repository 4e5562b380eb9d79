"""Folders of pictures, and class fractions over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens.embedlens.anchors import Anchors
from lens.embedlens.folder import PictureFolder
from lens.embedlens.fractions import class_fractions
from lens.errors import ImagesMissing
from lens.statistics import bootstrap_interval
from tests.embedlens.planted import PROMPT, Planted, pictures


def save_noise(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("b.png", "a.PNG", "c.jpg")):
        save_noise(tmp_path / name, seed)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inner.png").mkdir()
    return tmp_path


def test_pictures_come_by_name_and_unreadable_ones_are_counted(folder: Path):
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "double.png").write_bytes((folder / "b.png").read_bytes())
    stream = PictureFolder(folder)
    for _ in range(2):
        assert [picture.name for picture in stream] == ["a.PNG", "b.png", "c.jpg"]
        assert [name for name, _ in stream.skipped] == ["broken.png", "double.png"]
    assert "no image that can be read" in stream.skipped[0][1] and "same picture" in stream.skipped[1][1]
    assert len(stream) == 5


def test_a_picture_is_listed_by_any_of_its_formats_endings(tmp_path: Path):
    save_noise(tmp_path / "first.png", 0)
    data = (tmp_path / "first.png").read_bytes()
    for number, ending in enumerate((".jfif", ".JPE", ".mpo", ".apng", ".dib", ".TIF")):
        (tmp_path / f"{number}{ending}").write_bytes(data)
    for other in ("a.svg", "b.pdf", "c.ppm", "d"):
        (tmp_path / other).write_bytes(data)
    assert len(PictureFolder(tmp_path)) == 7


def test_a_limit_spreads_over_the_folder(tmp_path: Path):
    for number in range(10):
        save_noise(tmp_path / f"{number}.png", number)
    assert [picture.name for picture in PictureFolder(tmp_path, 4)] == ["0.png", "2.png", "5.png", "7.png"]
    assert len(PictureFolder(tmp_path, 40)) == 10


def test_folders_without_images_are_refused(tmp_path: Path):
    with pytest.raises(ImagesMissing, match="holds no images"):
        PictureFolder(tmp_path)
    with pytest.raises(ImagesMissing, match="can't be read"):
        PictureFolder(tmp_path / ("x" * 5000))
    with pytest.raises(ImagesMissing, match="no folder 'none'"):
        PictureFolder(tmp_path / "none")


def test_fractions_are_those_of_the_pictures_with_their_bootstrap(planted: Planted, anchors: Anchors):
    found = class_fractions(planted.loaded, pictures(4), PROMPT, anchors, rule=1)
    assert found.images == 4
    assert found.shares["sink"] == pytest.approx([7 / 36] * 4)
    assert found.shares["dead"] == pytest.approx([14 / 36] * 4)
    assert found.interval["dead"] == pytest.approx((14 / 36, 14 / 36))
    assert not found.overlaps.any()
    wider = class_fractions(planted.loaded, pictures(4), PROMPT, anchors, rule=3)
    assert sum(wider.shares.values()) == pytest.approx(np.ones(4))
    assert wider.interval["alive"] == bootstrap_interval(wider.shares["alive"])
    assert wider.mean["alive"] == wider.shares["alive"].mean() <= found.mean["alive"]


def test_no_picture_has_no_fractions(planted: Planted, anchors: Anchors):
    with pytest.raises(ImagesMissing):
        class_fractions(planted.loaded, [], PROMPT, anchors)
