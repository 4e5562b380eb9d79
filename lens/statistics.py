"""Intervals, matched random controls and permutation nulls; numpy alone, every draw seeded.

The same arguments give the same numbers, on every machine. Memory stays bounded: resamples are drawn in chunks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import ControlsImpossible

CHUNK = 1 << 22
"""Values resampled at once: 34 MB."""

REACH = 8
"""How many of the nearest tokens still unused a spatially matched control draws from: the ring around a patch."""


def bootstrap_interval(
    values: Float[np.ndarray, " n"],
    statistic: Callable[..., np.ndarray] = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979): the interval that holds the middle ``level`` of the statistic over resamples of
    ``values`` with replacement.

    ``statistic`` is one of numpy's, or anything else that takes ``axis``. Values are the independent units: for class
    fractions one per image, since tokens of one image depend on each other. Of one value the interval is that value.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected a row of at least one value, got shape {values.shape}")
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(values))
    found = [
        statistic(values[generator.integers(0, len(values), (min(rows, resamples - start), len(values)))], axis=1)
        for start in range(0, resamples, rows)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), (tail, 1 - tail))
    return float(low), float(high)


def matched_controls(
    candidates: Int[np.ndarray, " n"],
    size: int,
    count: int = 20,
    seed: int = 0,
    near: tuple[Float[np.ndarray, "size 2"], Float[np.ndarray, "n 2"]] | None = None,
) -> Int[np.ndarray, "count size"]:
    """``count`` random sets of ``size`` different candidates, each row ascending: controls as large as what they stand
    beside.

    With ``near`` = (places of the tokens to be matched, places of the candidates), in any unit, controls are *spatially*
    matched: every token is replaced by one drawn from the :data:`REACH` nearest candidates that are still unused, the
    tokens being served in random order.

    Raises:
        ControlsImpossible: there are fewer candidates than ``size``.
    """
    candidates = np.asarray(candidates)
    if size > len(candidates):
        raise ControlsImpossible(
            f"A control of {size} tokens was asked for, but only {len(candidates)} others are left; choose fewer tokens."
        )
    generator = np.random.default_rng(seed)
    if near is None:
        drawn = [generator.choice(candidates, size, replace=False) for _ in range(count)]
    else:
        distances = np.linalg.norm(np.asarray(near[0], float)[:, None] - np.asarray(near[1], float)[None], axis=-1)
        if distances.shape != (size, len(candidates)):
            raise ValueError(f"expected {size} and {len(candidates)} places, got {distances.shape}")
        drawn = [candidates[_neighbours(distances, generator)] for _ in range(count)]
    return np.sort(np.array(drawn, dtype=candidates.dtype).reshape(count, size), axis=1)


def _neighbours(distances: Float[np.ndarray, "size n"], generator: np.random.Generator) -> Int[np.ndarray, " size"]:
    """One column for each row, all different, each drawn among the row's nearest that are left."""
    left = distances.copy()
    chosen = np.zeros(len(left), dtype=np.int64)
    for row in generator.permutation(len(left)):
        # Shuffled before sorting, so that equal distances are served at random and not from the upper left.
        order = generator.permutation(left.shape[1])
        nearest = order[np.argsort(left[row, order], kind="stable")][:REACH]
        chosen[row] = generator.choice(nearest[np.isfinite(left[row, nearest])])
        left[:, chosen[row]] = np.inf
    return chosen


def permutation_null(
    values: Float[np.ndarray, " n"], group: Bool[np.ndarray, " n"], permutations: int = 2000, seed: int = 0
) -> Float[np.ndarray, " permutations"]:
    """Mean inside minus mean outside the group, for random groups of the same size: what chance alone gives."""
    values, group = np.asarray(values, np.float64), np.asarray(group, bool)
    size, total = int(group.sum()), len(values)
    if not 0 < size < total:
        raise ValueError(f"expected some values inside and some outside the group, got {size} of {total} inside")
    generator = np.random.default_rng(seed)
    inside = np.array([values[generator.permutation(total)[:size]].sum() for _ in range(permutations)])
    return inside / size - (values.sum() - inside) / (total - size)


def p_value(observed: float, null: Float[np.ndarray, " permutations"], two_sided: bool = True) -> float:
    """Share of the null at least as extreme as ``observed``, which counts as one of them: (1 + b) / (1 + m), so that it
    is never 0 (Phipson and Smyth 2010). One-sided: at least as large."""
    null = np.asarray(null, np.float64)
    slack = 1e-12 * max(1.0, abs(observed))  # sums in another order differ in the last bits
    beyond = np.abs(null) >= abs(observed) - slack if two_sided else null >= observed - slack
    return float((1 + beyond.sum()) / (1 + len(null)))


def p_fraction(p: float, draws: int) -> str:
    """A p-value of :func:`p_value` as the fraction that it is: ``3/21``, and for the least that so many draws can give
    ``1/21 (smallest possible)``."""
    least = round(p * (1 + draws)) <= 1
    return f"{round(p * (1 + draws))}/{1 + draws}" + " (smallest possible)" * least
