"""Drawn batches: a name alone tells nothing, nothing in a scene could mean anything else in it, a seed gives one batch."""

from __future__ import annotations

import numpy as np
import pytest

from lens.demo.convert import IMAGE_SIZE
from lens.demo.scenes import COUNTS, MOST, Pool
from lens.demo.seg_draw import ICON, OUTLINE, TURNS, Draw, Drawer, Draws
from lens.demo.seg_outlines import SIDE, Outlines
from lens.demo.seg_vocabulary import vocabulary
from tests.demo.test_seg_vocabulary import whole_sources

OBJECTS = (
    "cat", "dog", "lion", "tiger", "zebra", "owl", "bear", "polar bear", "rose", "tulip", "pizza", "pie", "bus", "taxi",
    "bicycle", "violin", "drum", "hat", "top hat", "crown", "key", "lemon", "pear", "banana", "tree",
)  # fmt: skip
CLASSES = (*range(151, 160), *range(281, 284), *range(300, 303), 900, 901, 902)
KEPT = ("bear cub", "thing900")


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    """A small vocabulary in which names are drawn often: objects, dogs, cats, beetles; all photographs have an outline."""
    sources = whole_sources()
    words = vocabulary(Pool(OBJECTS, ("noto", "noto-v1"), CLASSES), sources, KEPT, lambda name: True)
    masks = np.zeros((1000, SIDE, SIDE), bool)
    masks[:, 16:112, 32:96] = True
    boxes = np.tile(np.array([0.25, 0.125, 0.75, 0.875], np.float32), (1000, 1))
    return Drawer(words, np.full((len(words.icons), 2), (120.0, 100.0)), Outlines(masks, np.ones(1000, bool), boxes))


@pytest.fixture(scope="module")
def many(drawer: Drawer) -> list[Draw[np.ndarray]]:
    """2,400 scenes."""
    return [drawer.draw((0, i), 48) for i in range(50)]


def test_a_name_alone_tells_nothing(drawer: Drawer, many: list[Draw[np.ndarray]]) -> None:
    """Present and absent, every name is as frequent as the others: deviations are those of chance."""
    counts = np.zeros((2, len(drawer.words.names)))
    for draw in many:
        for shown in (0, 1):
            np.add.at(counts[shown], draw.asked[draw.namable & (draw.shown == bool(shown))], 1)
    total = counts.sum(0)
    share = counts[1].sum() / total.sum()
    often = total > 60
    assert often.sum() > 30
    apart = (counts[1, often] / total[often] - share) / np.sqrt(share * (1 - share) / total[often])
    assert np.abs(apart).max() < 4.5 and apart.std() < 1.35


def test_about_a_third_of_the_absent_are_drawn_near_a_present_one(drawer: Drawer, many: list[Draw[np.ndarray]]) -> None:
    kinds = dict(zip(drawer.words.own.tolist(), drawer.words.kind.tolist(), strict=True))
    kinds |= {
        int(b): k for b, k in zip(drawer.words.broad, drawer.words.kind, strict=True) if b >= 0 and b not in kinds
    }
    chance = np.array(
        [drawer.words.chance[drawer.words.kind == kind].sum() for kind in range(drawer.words.kind.max() + 1)]
    )
    near, expected, absent = 0, 0.0, 0
    for draw in many:
        for asked, shown, namable in zip(draw.asked, draw.shown, draw.namable, strict=True):
            present = {kinds[name] for name in asked[shown]}
            for name in asked[~shown & namable]:
                absent, near = absent + 1, near + (kinds[name] in present)
                expected += chance[list(present)].sum()
    by_chance, found = expected / absent, near / absent
    assert 0.2 < (found - by_chance) / (1 - by_chance) < 0.5


def test_nothing_in_a_scene_could_mean_anything_else_in_it(drawer: Drawer, many: list[Draw[np.ndarray]]) -> None:
    words = drawer.words
    photographs = {len(words.icons) + label: thing for thing, label in enumerate(words.label) if label >= 0}
    for draw in many[:10]:
        for i in range(len(draw.asked)):
            asked = draw.asked[i][draw.shown[i] | draw.namable[i]]
            hits = words.conflict[np.ix_(asked, asked)]
            assert hits.sum() == len(asked), "each name meets itself alone"
            if draw.ground[i] <= 2 and not draw.whole[i].any():
                behind = photographs[draw.behind[i]]
                called = [name for name in (words.own[behind], words.broad[behind]) if name >= 0]
                assert not words.conflict[np.ix_(called, asked)].any()


def test_what_shares_a_word_with_the_held_out_never_counts_as_absent(
    drawer: Drawer, many: list[Draw[np.ndarray]]
) -> None:
    bears = [drawer.words.names.index(name) for name in ("bear", "polar bear")]
    shown = [np.isin(draw.asked, bears) & draw.shown for draw in many]
    assert any(found.any() for found in shown), "they are shown"
    assert not any((np.isin(draw.asked, bears) & draw.namable).any() for draw in many)


def test_counts_and_places_are_those_of_the_scenes(drawer: Drawer, many: list[Draw[np.ndarray]]) -> None:
    shown = np.concatenate([draw.shown for draw in many])
    assert not shown[:, MOST:].any() and (np.diff(shown.astype(int), axis=1) <= 0).all()
    assert np.bincount(shown.sum(1), minlength=MOST + 1)[1:] / len(shown) == pytest.approx(COUNTS, abs=0.04)
    for draw in many[:10]:
        centre, size = draw.place[draw.exists][:, :2], draw.place[draw.exists][:, 2:4]
        assert (centre > 0).all() and (centre < IMAGE_SIZE).all() and (size > 20).all() and (size < 420).all()
        assert (draw.exists | draw.whole == draw.shown[:, :MOST]).all() and not (draw.exists & draw.whole).any()


def test_icons_and_photographs_are_taken_from_where_they_lie(drawer: Drawer, many: list[Draw[np.ndarray]]) -> None:
    icons = len(drawer.words.icons)
    shapes = set()
    for draw in many[:10]:
        icon = draw.shape == ICON
        assert (draw.picture[icon & draw.exists] < icons).all() and (draw.picture[~icon] >= icons).all()
        np.testing.assert_allclose(
            draw.source[icon & draw.exists], [(0, 0, 120 / 256, 100 / 256)] * (icon & draw.exists).sum()
        )
        shapes |= set(draw.shape[draw.exists].tolist())
        outlined = draw.exists & (draw.shape == OUTLINE)
        np.testing.assert_allclose(draw.source[outlined], [(0, 0, 0.5, 0.75)] * outlined.sum(), atol=1e-6)
        assert (np.abs(draw.source[..., :2]) + draw.source[..., 2:] <= 1 + 1e-5).all()
    assert shapes == {0, 1, 2, 3}
    wholes = np.concatenate([draw.whole.any(1) for draw in many])
    assert 0.005 < wholes.mean() < 0.1


def test_a_seed_gives_one_batch_whoever_draws_it(drawer: Drawer) -> None:
    stream = Draws(drawer, (3, 1), 4)
    alone = [draw for draw, _ in zip(stream.feed(5, 0, False), range(3), strict=False)]
    apart = [draw for draw, _ in zip(stream.feed(5, 2, False), range(3), strict=False)]
    for i, (one, other) in enumerate(zip(alone, apart, strict=True)):
        for name, wanted in drawer.draw((3, 1, 5 + i), 4)._asdict().items():
            assert np.array_equal(getattr(one, name).numpy(), wanted) and np.array_equal(getattr(other, name), wanted)
    assert not np.array_equal(alone[0].place, alone[1].place) and alone[0].asked.shape == (4, TURNS)
