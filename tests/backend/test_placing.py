"""Whether a grid lies where it says: on the offline models, and on movement whose place is known."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest

from lens.backend import checking
from lens.backend.encoding import DEFAULT_PROMPT, encode
from lens.backend.placing import MANY, SIDES, Move, placing, spread


def sharp(rows: int, cols: int, sink: float = 1.5, seed: int = 0) -> Move:
    """A patch moves its own token by 1, every other by about 0.2, and three sinks by about ``sink``."""
    sinks = np.random.default_rng(seed).integers(0, rows * cols, 3)

    def move(spot):
        noise = np.random.default_rng((*spot, seed))
        moved = 0.2 * np.exp(0.4 * noise.standard_normal((rows, cols)))
        moved.reshape(-1)[sinks] = sink * np.exp(0.3 * noise.standard_normal(3))
        moved[spot] = 1.0
        return moved

    return move


def rearranged(move: Move, order) -> Move:
    """The same tokens in another ``order`` (maps a [rows, cols] array to one)."""
    return lambda spot: order(move(spot))


def shifted(side):
    return partial(np.roll, shift=side, axis=(0, 1))


@pytest.fixture(scope="module")
def demo_moves(demo) -> Move:
    """The offline model's own movement; each patch is painted once for all tests."""
    shown = checking.noise(checking.SIZE)
    encoded = encode(demo, DEFAULT_PROMPT, shown)
    return cache(partial(checking._moved_by, demo, encoded, shown, encoded.token_map.grids[0]))


def test_the_offline_models_grid_lies_where_it_says(demo_moves: Move):
    assert placing(12, 12, demo_moves).right


@pytest.mark.parametrize("side", SIDES, ids=SIDES.get)
def test_a_shift_by_one_patch_is_found_out_on_the_offline_model(demo_moves: Move, side):
    found = placing(12, 12, rearranged(demo_moves, shifted(side)))
    assert not found.right and "explains the movement better" in found.why


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (24, 24)])
def test_tokens_that_answer_to_everything_hide_no_grid(size):
    assert placing(*size, sharp(*size)).right


@pytest.mark.parametrize("side", SIDES, ids=SIDES.get)
def test_a_shift_is_named(side):
    found = placing(24, 24, rearranged(sharp(24, 24), shifted(side)))
    assert not found.right and f"the grid one patch {SIDES[side]} explains" in found.why


@pytest.mark.parametrize(
    ("order", "named"),
    [
        (lambda m: m[:, ::-1], "mirrored left to right"),
        (lambda m: m[::-1], "mirrored top to bottom"),
        (lambda m: m[::-1, ::-1], "turned by half"),
        (lambda m: m.T.reshape(m.shape), "read column by column"),
    ],
)
@pytest.mark.parametrize("size", [(12, 12), (8, 12)])
def test_a_turned_grid_is_found_out(order, named, size):
    found = placing(*size, rearranged(sharp(*size), order))
    assert not found.right and (named in found.why or size == (8, 12)), found.why


def test_tiles_in_another_order_are_found_out():
    """Of six tiles, the first and the last stay where they are: most patches still move others' tokens."""
    order = np.arange(6).reshape(2, 3).T.reshape(-1)

    def scrambled(moved):
        tiles = moved.reshape(2, 4, 3, 4).transpose(0, 2, 1, 3).reshape(6, 4, 4)[order]
        return tiles.reshape(2, 3, 4, 4).transpose(0, 2, 1, 3).reshape(8, 12)

    assert placing(8, 12, sharp(8, 12)).right
    assert not placing(8, 12, rearranged(sharp(8, 12), scrambled)).right


def test_what_moves_nothing_or_covers_nothing_is_not_right():
    assert not placing(6, 6, lambda _spot: np.zeros((6, 6))).right
    assert placing(6, 6, lambda _spot: None).why.startswith("no patch of the grid covers a whole pixel")


def test_patches_on_padding_are_left_out():
    move = sharp(6, 6)
    assert placing(6, 6, lambda spot: None if spot[0] < 2 else move(spot)).right


def test_no_more_is_painted_than_needed():
    asked = []
    placing(6, 6, lambda spot: asked.append(spot) or np.eye(36)[spot[0] * 6 + spot[1]].reshape(6, 6))
    assert len(asked) == 6


@pytest.mark.parametrize(("rows", "cols", "count"), [(1, 1, 1), (2, 2, 4), (3, 3, 9), (5, 8, 12), (24, 24, MANY)])
def test_painted_patches_are_different_and_inside(rows, cols, count):
    spots = spread(rows, cols)
    assert len(spots) == len(set(spots)) == count
    assert all(0 <= row < rows and 0 <= col < cols for row, col in spots)
