"""Items: whole, told apart, inside their patch, and a balanced factorial of which each number is a beginning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend.encoding import PatchGrid, encode
from lens.backend.loading import LoadedModel
from lens.compare.patchbench import geometry
from lens.compare.patchitems import (
    BACKGROUNDS,
    COLOURS,
    CONTRAST,
    KINDS,
    OFFSETS,
    as_picture,
    blank,
    cells,
    draw_items,
    inkiest,
    large,
    looks,
    small,
)
from lens.compare.shapes import mask
from tests.helpers import tiny_llava

IDENTITIES = [(kind, name) for kind, names in KINDS.items() for name in names]


def grid_of(rows: int, cols: int, side: float) -> PatchGrid:
    """Square boxes of that side, which may be no whole number."""
    edges = np.arange(max(rows, cols) + 1) * side
    boxes = np.array([[(edges[c], edges[r], edges[c + 1], edges[r + 1]) for c in range(cols)] for r in range(rows)])
    return PatchGrid(np.arange(rows * cols).reshape(rows, cols), boxes)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    return tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.mark.parametrize("side", [9, 22, 260])
def test_every_drawing_fills_its_square_and_stays_in_it(side: int):
    for kind, name in IDENTITIES:
        ink = mask(kind, name, side)
        assert ink.shape == (side, side) and ink.min() >= 0 and ink.max() <= 1, name
        rows, cols = ink.max(1) > 0.05, ink.max(0) > 0.05
        assert rows.all() or cols.all(), f"{name} is as long as its square"
        left, right = np.flatnonzero(cols)[[0, -1]]
        top, bottom = np.flatnonzero(rows)[[0, -1]]
        assert abs(left - (side - 1 - right)) <= 2 and abs(top - (side - 1 - bottom)) <= 2, f"{name} is centred"
        assert 0.08 < ink.mean() <= 1


def test_no_two_drawings_are_alike():
    masks = {identity: mask(*identity, 22) for identity in IDENTITIES}
    alike = [
        (a, b)
        for a in masks
        for b in masks
        if a < b and np.abs(masks[a] - masks[b]).mean() < 0.02 and a[1] + b[1] not in "0O"
    ]
    assert alike == []


def test_edges_are_smooth():
    assert len(np.unique(mask("letter", "O", 40))) > 50


def test_a_number_of_items_begins_any_larger_number_and_no_item_comes_twice():
    grid = grid_of(12, 12, 32)
    many = draw_items(grid, 6000)
    assert draw_items(grid, 250) == many[:250]
    assert [item.number for item in many] == list(range(6000))
    assert len({(i.kind, i.name, i.colour, i.background, i.row, i.col, i.offset) for i in many}) == 6000
    assert draw_items(grid, 250, seed=1) != many[:250]


def test_the_factorial_is_balanced():
    items = draw_items(grid_of(12, 12, 32), 60 * len(looks()))
    assert set(Counter((item.kind, item.name) for item in items).values()) == {len(looks())}
    assert set(Counter((item.colour, item.background) for item in items).values()) == {60}
    patches = Counter((item.row, item.col, item.offset) for item in items)
    assert len(patches) == 9 * len(OFFSETS)
    assert max(patches.values()) < 1.6 * min(patches.values())
    crossed, colours = Counter((item.colour, item.offset) for item in items), Counter(item.colour for item in items)
    assert all(0.12 < count / colours[colour] < 0.3 for (colour, _), count in crossed.items())


def test_colours_stand_out_from_their_background():
    pairs = looks()
    assert {colour for colour, _ in pairs} == set(COLOURS) and {b for _, b in pairs} == set(BACKGROUNDS)
    for colour, background in pairs:
        mean = blank(background, 64).mean((0, 1))
        assert np.linalg.norm(mean - COLOURS[colour]) >= CONTRAST - 1
    assert not {("white", "white"), ("black", "black"), ("grey", "grey"), ("grey", "noise")} & set(pairs)


@pytest.mark.parametrize("side", [8.0, 14.0, 384 / 27, 32.0])
def test_nothing_is_drawn_outside_the_patch(side: float):
    grid = grid_of(6, 6, side)
    canvas = round(6 * side)
    for item in draw_items(grid, 240):
        changed = (small(item, grid, canvas) != blank(item.background, canvas)).any(-1)
        x0, y0, x1, y1 = grid.boxes[item.row, item.col]
        ys, xs = np.nonzero(changed)
        assert len(ys) >= 4, item
        assert xs.min() >= x0 and xs.max() + 1 <= x1 and ys.min() >= y0 and ys.max() + 1 <= y1, item


def test_offsets_move_the_item_within_its_patch():
    grid = grid_of(6, 6, 32)
    places = {}
    for item in draw_items(grid, 600):
        changed = (small(item, grid, 192) != blank(item.background, 192)).any(-1)
        ys, xs = np.nonzero(changed)
        x0, y0 = grid.boxes[item.row, item.col][:2]
        places.setdefault(item.offset, []).append((np.mean(xs) - x0, np.mean(ys) - y0))
    means = {name: np.mean(spots, 0) for name, spots in places.items()}
    for name, (across, down) in OFFSETS.items():
        assert np.sign(np.round((means[name] - means["centre"]) / 2)).tolist() == [across, down], name


def test_the_model_itself_sees_the_item_in_one_patch_alone(llava: LoadedModel):
    side, grid = geometry(llava)
    assert (side, grid.rows, grid.cols) == (48, 6, 6)
    for item in draw_items(grid, 60):
        seen, empty = (
            encode(llava, "What is this?", as_picture(pixels, "item")).inputs["pixel_values"][0]
            for pixels in (small(item, grid, side), blank(item.background, side))
        )
        blocks = (seen != empty).any(0).unfold(0, 8, 8).unfold(1, 8, 8).any(-1).any(-1)
        assert torch.nonzero(blocks).tolist() == [[item.row, item.col]]


def test_patches_are_spread_and_off_the_padding():
    assert cells(grid_of(12, 12, 32)) == tuple((r, c) for r in (2, 6, 10) for c in (2, 6, 10))
    assert cells(grid_of(1, 2, 32)) == ((0, 0), (0, 1))
    padded = grid_of(3, 3, 32)
    padded.boxes[0] = 0
    assert {row for row, _ in cells(padded)} == {1, 2}


def test_drawn_large_the_inkiest_patch_is_inked():
    grid = grid_of(12, 12, 32)
    for item in draw_items(grid, 60):
        picture, cell = large(item, 384), inkiest(item, grid, 384)
        left, top, right, bottom = grid.boxes[cell].astype(int)
        changed = (picture != blank(item.background, 384)).any(-1)
        assert changed[top:bottom, left:right].mean() > 0.5, item
        assert changed.any(0).sum() > 0.6 * 384 or changed.any(1).sum() > 0.6 * 384


def test_the_same_item_is_the_same_picture(tmp_path: Path):
    grid = grid_of(6, 6, 32)
    item = draw_items(grid, 1)[0]
    one, other = (as_picture(small(item, grid, 192), "x") for _ in range(2))
    assert one == other and one.digest != as_picture(blank(item.background, 192), "x").digest
