"""What batches of training pictures are made of: inside their photographs, of all layouts, the same for the same seed."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from lens.demo.pictures import BESIDE, FOUR, INSET, LAYOUTS, SHAPES, SINGLE, STACKED, Plan, plan_pictures

SIZES = np.array([(500, 300), (256, 341), (384, 384), (300, 900)])


def drawn(count: int = 2000, mixed: bool = True, seed: int = 0, classes: tuple[int, ...] = (0, 1, 3)) -> Plan:
    return plan_pictures(SIZES, classes, count, np.random.default_rng(seed), mixed)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return drawn()


def test_only_the_classes_given_are_shown(plan: Plan) -> None:
    assert set(plan.photo[plan.exists]) == {0, 1, 3}


def test_layouts_are_as_frequent_as_said(plan: Plan) -> None:
    assert np.bincount(plan.layout, minlength=5) / len(plan) == pytest.approx(LAYOUTS, abs=0.03)


def test_until_pictures_are_mixed_each_is_one_photograph() -> None:
    plain = drawn(mixed=False)
    assert set(plain.layout) == {SINGLE} and not plain.shape.any()


def test_crops_lie_inside_their_photographs(plan: Plan) -> None:
    corner, size = plan.source[plan.exists][:, :2], plan.source[plan.exists][:, 2:]
    assert (corner > -1e-9).all() and (size > 1).all()
    assert (corner + size <= SIZES[plan.photo[plan.exists]] + 1e-9).all()


def test_crops_keep_nearly_the_proportions_of_their_boxes(plan: Plan) -> None:
    sides = (plan.box[..., 2:] - plan.box[..., :2])[plan.exists]
    source = plan.source[plan.exists][:, 2:]
    assert (np.abs(np.log(source[:, 0] / source[:, 1] * sides[:, 1] / sides[:, 0])) < 0.151).all()


def test_the_parts_of_a_picture_fill_it_once(plan: Plan) -> None:
    cover = plan.cover
    np.testing.assert_allclose(cover.sum(1), 1.0)
    assert (cover >= 0).all() and not cover[~plan.exists].any()


@pytest.mark.parametrize(("layout", "cells"), [(BESIDE, [(0, 0), (0, 11)]), (STACKED, [(0, 0), (11, 0)]),
                                               (FOUR, [(0, 0), (0, 11), (11, 0), (11, 11)])])  # fmt: skip
def test_parts_lie_in_reading_order(plan: Plan, layout: int, cells: list[tuple[int, int]]) -> None:
    cover = plan.cover[plan.layout == layout]
    for part, (row, column) in enumerate(cells):
        assert (cover[:, part, row * 12 + column] == 1).all()


def test_an_inset_lies_on_its_picture(plan: Plan) -> None:
    box = plan.box[plan.layout == INSET]
    assert (box[:, 1, :2] >= 0).all() and (box[:, 1, 2:] <= 384).all()
    assert (box[:, 0] == (0, 0, 384, 384)).all()


def test_some_pictures_are_what_the_processor_shows(plan: Plan) -> None:
    exact = (plan.light == (0, 1, 1)).all(1) & (plan.area[:, 0] == 1) & (plan.layout == SINGLE)
    assert 0.1 < exact.sum() / (plan.layout == SINGLE).sum() < 0.2
    source, size = plan.source[exact, 0], SIZES[plan.photo[exact, 0]]
    np.testing.assert_allclose(source[:, 2], source[:, 3])
    np.testing.assert_allclose(source[:, 2], size.min(1))
    np.testing.assert_allclose(source[:, :2], (size - source[:, 2:]) / 2)
    assert not plan.flip[exact, 0].any()


def test_shapes_lie_on_single_pictures_and_inside_them(plan: Plan) -> None:
    shaped = plan.shape > 0
    assert set(plan.shape[shaped]) == set(range(1, len(SHAPES) + 1)) and set(plan.layout[shaped]) == {SINGLE}
    centre, radius = plan.paint[shaped, :2], plan.paint[shaped, 2:3]
    assert (centre - radius >= 0).all() and (centre + radius <= 384).all()


def test_a_batch_is_a_function_of_its_seed() -> None:
    one, same, other = drawn(20), drawn(20), drawn(20, seed=1)
    for field in fields(Plan):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert not np.array_equal(one.source, other.source)
