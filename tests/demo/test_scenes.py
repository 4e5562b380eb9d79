"""Composed scenes: masks are exact, occlusion is right, a seed gives one scene, what is held out stays out."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens.demo import scenes, seg_icons
from lens.demo.convert import IMAGE_SIZE
from lens.demo.scenes import GRID, Pool, Sources, compose, coverage, pools, visible
from lens.demo.seg_icons import Icons, IconSet, fetch_set
from lens.demo.seg_objects import OBJECTS, alike, family, held_out_objects
from lens.errors import ProvisioningFailed

COLOURS = {"cat": (250, 0, 0), "bus": (0, 250, 0), "pizza": (0, 0, 250), "crown": (250, 250, 0), "owl": (250, 0, 250)}


class Squares:
    """An icon set of opaque squares, one colour an object; it has no dog."""

    def __contains__(self, icon: str) -> bool:
        return icon in COLOURS

    def cutout(self, icon: str) -> Image.Image:
        """A square with hard edges."""
        return Image.new("RGBA", (100, 100), (*COLOURS[icon], 255))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Squares, and two grey photographs."""
    files = []
    for label, grey in enumerate((60, 120)):
        path = tmp_path / f"{label}.png"
        Image.new("RGB", (300, 256), (grey, grey, grey)).save(path)
        files.append(path)
    return Sources({"squares": Squares()}, files, ("tabby cat", "rocket"))  # type: ignore[dict-item]


POOL = Pool(("cat", "bus", "pizza", "crown", "owl"), ("squares",), (), (0, 1))


def test_masks_hold_exactly_the_pixels_of_the_topmost_cutout(sources: Sources) -> None:
    for seed in range(6):
        scene = compose(str(seed), POOL, sources)
        pixels = np.asarray(scene.image).astype(int)
        for name, mask in zip(scene.names, scene.masks, strict=True):
            inner = eroded(mask)  # edges are antialiased
            assert inner.sum() > 500
            assert (np.abs(pixels[inner] - COLOURS[name]).max(axis=-1) <= 2).all()
            outside = ~np.any([eroded(~mask)], axis=0) | mask
            assert not (np.abs(pixels[~outside] - COLOURS[name]).max(axis=-1) <= 2).any()


def eroded(mask: np.ndarray) -> np.ndarray:
    """Pixels at least two away from any that is not in the mask."""
    padded = np.pad(mask, 2, mode="edge")
    views = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(5) for x in range(5)]
    return np.all(views, axis=0)


def test_later_cutouts_cover_earlier_ones() -> None:
    below, above = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    below[:3], above[2:] = True, True
    seen = visible([below, above])
    assert seen[0].sum() == 8 and seen[1].sum() == 8
    assert not (seen[0] & seen[1]).any()


def test_masks_are_disjoint_and_large_enough(sources: Sources) -> None:
    counts = set()
    for seed in range(12):
        scene = compose(f"many/{seed}", POOL, sources)
        counts.add(len(scene.names))
        assert scene.masks.shape == (len(scene.names), IMAGE_SIZE, IMAGE_SIZE)
        assert scene.masks.sum(0).max() == 1
        assert ((coverage(scene.masks, GRID) >= 0.5).sum((1, 2)) >= 2).all()
        assert len(set(scene.names)) == len(scene.names)
    assert len(counts) > 1


def test_a_seed_gives_one_scene_and_another_seed_another(sources: Sources) -> None:
    one, same, other = (compose(seed, POOL, sources) for seed in ("a", "a", "b"))
    assert one.names == same.names
    assert np.array_equal(np.asarray(one.image), np.asarray(same.image))
    assert np.array_equal(one.masks, same.masks)
    assert not np.array_equal(np.asarray(one.image), np.asarray(other.image))


def test_a_background_never_answers_to_an_objects_name(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = scenes.Image.open
    monkeypatch.setattr(scenes.Image, "open", lambda path: opened.append(Path(path).stem) or real(path))
    for seed in range(12):
        compose(f"cats/{seed}", Pool(("cat",), ("squares",), (), (0, 1)), sources)
    assert opened and set(opened) == {"1"}  # the tabby cat's photograph would have shown a second cat


def test_photographs_give_cutouts_with_their_class_names(sources: Sources) -> None:
    pool = Pool(("bus",), ("squares",), (1,), (), 1.0)
    scene = compose("p", pool, sources)
    assert scene.names == ("rocket",) and scene.styles == ("photograph",)


def test_coverage_is_the_share_of_covered_pixels() -> None:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :2, :3] = True
    assert coverage(mask, 2).tolist() == [[[6 / 16, 0.0], [0.0, 0.0]]]


def test_held_out_families_are_whole_and_disjoint_from_the_rest() -> None:
    kept = held_out_objects(0)
    assert kept == held_out_objects(0) != held_out_objects(1)
    assert 0.1 < len(kept) / len(OBJECTS) < 0.2
    assert not {family(name) for name in kept} & {family(name) for name in OBJECTS if name not in kept}


def test_nothing_held_out_is_in_the_training_pool() -> None:
    names = [f"class {label}" for label in range(999)] + ["giant panda"]
    made = pools(0, names)
    train, kept = made[scenes.TRAIN], held_out_objects(0)
    assert set(train.objects) | kept == set(OBJECTS) and not set(train.objects) & kept
    assert scenes.HELD_OUT_STYLE not in train.styles
    assert not any(alike(names[label], name) for label in train.classes for name in kept)
    for split, pool in made.items():
        if split != scenes.TRAIN:
            assert not {*pool.backgrounds, *pool.classes} & set(train.classes)
    assert set(made["held-out objects"].objects) == kept
    assert made["held-out style"].styles == (scenes.HELD_OUT_STYLE,)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("polar bear", "bear", True),
        ("book", "books", True),
        ("cup of coffee", "ear of corn", False),
        ("cat", "car", False),
    ],
)
def test_names_that_share_a_word_are_alike(one: str, other: str, expected: bool) -> None:
    assert alike(one, other) is expected


def write_set(path: Path) -> None:
    """An icon set of one red square in the middle of its canvas, packed as npm packs."""
    icons = {
        "icons": {"dot": {"body": '<rect x="4" y="4" width="8" height="8" fill="#f00"/>'}},
        "width": 16,
        "height": 16,
    }
    data = json.dumps(icons).encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def test_icons_are_cut_to_what_is_opaque(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    write_set(tmp_path / "set.tgz")
    icons = Icons(tmp_path / "set.tgz")
    assert "dot" in icons and "ring" not in icons
    cut = icons.cutout("dot")
    assert cut.size == (seg_icons.RENDERED // 2,) * 2
    assert cut.getpixel((5, 5)) == (255, 0, 0, 255)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], IconSet]:
    """Replace the pinned sets by one with a given hash."""

    def pin(sha256: str) -> IconSet:
        made = IconSet("@test/dots", "1.0.0", sha256, "MIT")
        monkeypatch.setattr(seg_icons, "SETS", {"dots": made})
        return made

    return pin


def test_an_archive_with_another_hash_is_refused(tmp_path: Path, pinned: Callable[[str], IconSet]) -> None:
    wanted = pinned("0" * 64)
    assert wanted.file == "test-dots-1.0.0.tgz"
    write_set(tmp_path / wanted.file)
    with pytest.raises(ProvisioningFailed, match="SHA-256"):
        fetch_set("dots", folder=tmp_path)


def test_a_folder_without_the_archive_says_how_to_get_it(tmp_path: Path, pinned: Callable[[str], IconSet]) -> None:
    pinned("0" * 64)
    with pytest.raises(ProvisioningFailed, match=r"npm pack @test/dots@1\.0\.0"):
        fetch_set("dots", folder=tmp_path)
