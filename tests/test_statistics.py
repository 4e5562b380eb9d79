"""Statistics against closed forms and full enumeration; seeds; bad input."""

from __future__ import annotations

from itertools import combinations
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
import pytest

from lens import statistics
from lens.errors import ControlsImpossible
from lens.statistics import REACH, bootstrap_interval, matched_controls, p_value, permutation_null


def test_the_interval_of_a_mean_is_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, 400)
    half = NormalDist().inv_cdf(0.95) * values.std() / sqrt(len(values))
    low, high = bootstrap_interval(values, level=0.9, resamples=8000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_the_interval_is_that_of_all_resamples():
    """Three values have 27 resamples: quantiles of their means, enumerated."""
    values = np.array([0.0, 1.0, 5.0])
    means = np.array([(a + b + c) / 3 for a in values for b in values for c in values])
    drawn = bootstrap_interval(values, level=0.8, resamples=20_000)
    assert drawn == pytest.approx(tuple(np.quantile(means, (0.1, 0.9))))


def test_the_interval_follows_seed_level_and_statistic(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(1).exponential(size=60)
    first = bootstrap_interval(values)
    assert bootstrap_interval(values) == first != bootstrap_interval(values, seed=1)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide[0] < first[0] < narrow[0] < narrow[1] < first[1] < wide[1]
    low, high = bootstrap_interval(values, np.median)
    assert low <= np.median(values) <= high < first[1]
    monkeypatch.setattr(statistics, "CHUNK", 60 * 7)
    assert bootstrap_interval(values) == first, "drawing in chunks changes nothing"


def test_the_interval_of_one_value_is_that_value():
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)


@pytest.mark.parametrize("values", [np.array([]), np.zeros((2, 2))])
def test_the_interval_of_nothing_is_refused(values: np.ndarray):
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(values)


def test_controls_are_sets_of_the_candidates_and_of_equal_size():
    candidates = np.arange(100, 140)
    controls = matched_controls(candidates, 7, 25, seed=3)
    assert controls.shape == (25, 7)
    assert np.isin(controls, candidates).all()
    assert (np.diff(controls, axis=1) > 0).all(), "different, ascending"
    assert len({tuple(row) for row in controls}) > 20
    assert np.array_equal(controls, matched_controls(candidates, 7, 25, seed=3))
    assert not np.array_equal(controls, matched_controls(candidates, 7, 25, seed=4))


def test_every_candidate_is_drawn_as_often_as_any_other():
    counts = np.bincount(matched_controls(np.arange(20), 5, 4000).ravel(), minlength=20)
    expected, spread = 1000, sqrt(4000 * 0.25 * 0.75)
    assert (np.abs(counts - expected) < 4.5 * spread).all()


def test_all_candidates_or_none_are_one_control():
    assert np.array_equal(matched_controls(np.array([4, 2, 9]), 3, 2), [[2, 4, 9]] * 2)
    assert matched_controls(np.array([4, 2, 9]), 0, 2).shape == (2, 0)


def test_too_few_candidates_are_refused_in_a_sentence():
    with pytest.raises(ControlsImpossible, match="control of 4 tokens was asked for, but only 3 others"):
        matched_controls(np.arange(3), 4)


def test_spatial_controls_lie_near_what_they_stand_for():
    """Two targets in opposite corners of 12 x 12: each control has a token of either ring of nearest candidates."""
    cells = np.array([(r, c) for r in range(12) for c in range(12)])
    targets = [0, 143]
    candidates = np.setdiff1d(np.arange(144), targets)
    controls = matched_controls(candidates, 2, 300, near=(cells[targets], cells[candidates]))
    for row in controls:
        first, second = np.linalg.norm(cells[row] - cells[targets], axis=1)
        assert max(first, second) <= 3
    per_corner = {len(set(column)) for column in controls.T}
    assert per_corner == {REACH} or per_corner <= {REACH, REACH + 1}, "all of the reach is drawn from (ties both ways)"
    free = matched_controls(candidates, 2, 300)
    assert np.linalg.norm(cells[free[:, 0]] - cells[0], axis=1).max() > 6, "without places they lie anywhere"


def test_spatial_controls_are_different_tokens_also_where_they_are_scarce():
    cells = np.array([(r, c) for r in range(4) for c in range(4)], float)
    targets, candidates = np.arange(8), np.arange(8, 16)
    controls = matched_controls(candidates, 8, 5, near=(cells[targets], cells[candidates]))
    assert np.array_equal(controls, np.tile(candidates, (5, 1)))
    with pytest.raises(ValueError, match="places"):
        matched_controls(candidates, 8, near=(cells[:3], cells[candidates]))


def test_the_permutation_null_is_that_of_all_groups():
    values = np.array([0.1, 0.4, 2.0, 3.5, 0.2, 1.0])
    group = np.array([True, False, True, True, False, False])
    all_differences = []
    for chosen in combinations(range(6), 3):
        inside = np.isin(np.arange(6), chosen)
        all_differences.append(values[inside].mean() - values[~inside].mean())
    null = permutation_null(values, group, 6000)
    assert set(np.round(null, 9)) == set(np.round(all_differences, 9)) and len(all_differences) == comb(6, 3)
    assert null.mean() == pytest.approx(0, abs=0.05)
    assert null.std() == pytest.approx(np.std(all_differences), rel=0.03)
    observed = values[group].mean() - values[~group].mean()
    exact = np.mean(np.abs(all_differences) >= abs(observed) - 1e-12)
    assert p_value(observed, null) == pytest.approx(exact, abs=0.02)


def test_a_p_value_counts_what_was_observed():
    null = np.array([-3.0, -1.0, 0.0, 1.0])
    assert p_value(2.0, null) == 2 / 5
    assert p_value(2.0, null, two_sided=False) == 1 / 5
    assert p_value(1.0, null, two_sided=False) == 2 / 5
    assert p_value(0.0, null) == 1


@pytest.mark.parametrize("group", [[True, True], [False, False]])
def test_a_group_of_all_or_none_has_no_null(group: list[bool]):
    with pytest.raises(ValueError, match="inside and some outside"):
        permutation_null(np.array([1.0, 2.0]), np.array(group))
