"""What training may show and ask for: nothing held out, and names that could mean each other are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lens.demo.names import broader
from lens.demo.scenes import HELD_OUT_STYLE, TRAIN, Sources, pools
from lens.demo.seg_icons import SETS
from lens.demo.seg_objects import FURTHER, OBJECTS, alike, held_out_objects
from lens.demo.seg_vocabulary import Vocabulary, vocabulary
from lens.demo.train_seg import unnamed


class Anything:
    """An icon set that has every icon: a square in a colour of its own."""

    def __contains__(self, icon: str) -> bool:
        return True

    def cutout(self, icon: str) -> Image.Image:
        """A square with hard edges."""
        return Image.new("RGBA", (120, 100), (*(40 + sum(map(ord, icon + letter)) * 7 % 200 for letter in "rgb"), 255))


def named_classes() -> list[str]:
    """A thousand class names: two that share words with objects, one that was renamed, the others of no meaning."""
    names = [f"thing{label}" for label in range(1000)]
    names[281], names[388], names[0] = "tabby cat", "giant panda", "rooster"
    return names


def whole_sources() -> Sources:
    """Every icon of every set, and a thousand photographs that are never opened."""
    photos = [Path(f"n{label:08d}_{name.replace(' ', '_')}.jpg") for label, name in enumerate(named_classes())]
    photos[3] = Path("n00000003_American_chameleon.jpg")
    return Sources({name: Anything() for name in SETS}, photos, named_classes())  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    """The whole training pool's."""
    sources = whole_sources()
    pool = pools(0, list(sources.names))[TRAIN]
    kept = unnamed(pool, list(sources.names), held_out_objects(0))
    return vocabulary(pool, sources, kept, lambda name: name != "zebra")


def test_nothing_held_out_is_shown_or_named(words: Vocabulary) -> None:
    kept = held_out_objects(0)
    assert not set(words.names) & kept and "giant panda" not in words.names
    assert not {style for style, _ in words.icons} & {HELD_OUT_STYLE}
    shown = {icon for _, icon in words.icons}
    assert not shown & {icon for name in kept for icon in OBJECTS[name]}
    assert not any(alike(name, other) for name in words.names if name in FURTHER for other in kept)
    pool = pools(0, named_classes())[TRAIN]
    assert set(words.label[words.label >= 0].tolist()) == set(pool.classes)


def test_names_that_share_a_word_with_what_is_held_out_are_never_named_as_absent(words: Vocabulary) -> None:
    kept = unnamed(pools(0, named_classes())[TRAIN], named_classes(), held_out_objects(0))
    barred = {name for name in words.names if any(alike(name, other) for other in kept)}
    assert barred == {name for name, may in zip(words.names, words.namable, strict=True) if not may}
    assert 0 < len(barred) < len(words.names) / 4


def test_names_that_do_not_fit_are_left_out(words: Vocabulary) -> None:
    assert "zebra" not in words.names and "zebra" not in {icon for _, icon in words.icons}


def test_a_broader_word_and_its_classes_mean_each_other(words: Vocabulary) -> None:
    row = {name: i for i, name in enumerate(words.names)}
    wide, label = broader(), next(label for label in words.label if broader().get(int(label)) == "dog")
    breed = row[named_classes()[label]]
    assert words.conflict[breed, row["dog"]] and words.conflict[row["dog"], breed]
    other = next(int(b) for b in words.label if wide.get(int(b)) == "dog" and b != label)
    assert not words.conflict[breed, row[named_classes()[other]]]
    assert words.conflict[row["tabby cat"], row["cat"]] and not words.conflict[row["cat"], row["dog"]]
    assert words.conflict.diagonal().all() and (words.conflict == words.conflict.T).all()


def test_things_are_drawn_by_their_groups_shares(words: Vocabulary) -> None:
    photographs = words.label >= 0
    assert words.chance.sum() == pytest.approx(1.0)
    assert words.chance[photographs].sum() == pytest.approx(0.42)
    further = [words.names[name] in FURTHER for name in words.own] & ~photographs
    assert words.chance[further].sum() == pytest.approx(0.58 * 0.2)
    about = words.facts()
    assert about["objects"] + about["extra"] + about["classes"] == len(words.label)


def test_a_photographs_plainer_name_is_another_of_its_names(words: Vocabulary) -> None:
    thing = words.label.tolist().index(3)
    assert words.names[words.plain[thing]] == "American chameleon" and words.names[words.own[thing]] == "thing3"
    assert words.conflict[words.plain[thing], words.own[thing]]
    assert (words.plain[words.label < 0] == -1).all()


def test_every_icon_stands_once_and_each_thing_knows_its_own(words: Vocabulary) -> None:
    assert len(set(words.icons)) == len(words.icons)
    thing = words.own.tolist().index(words.names.index("cat"))
    shown = [{words.icons[i][1] for i in style if i >= 0} for style in words.shown[thing]]
    assert shown == [set(OBJECTS["cat"])] * 3
