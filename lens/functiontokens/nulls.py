"""The null of a feature graph: the same firings, with the token labels shuffled over the positions.

Shuffling keeps how often each token occurs, how often each feature fires and which features fire together, exactly; only
*which token* stands at a position becomes chance. What the shuffled graph covers, frequency alone explains.

Two forms. :func:`permuted_coverage` shuffles, shard by shard: the labels of a shard are drawn without replacement from
those that are left (a multivariate hypergeometric draw), which is a uniform shuffle of the whole corpus in the memory of
one shard. The closed forms give expectations: a feature that fires at x of N positions is missed by q of them, drawn
without replacement, with probability C(N - x, q) / C(N, q) (Hurlbert 1971, Ecology 52; Coleman 1981), and n of its firings
fall on one token's c labels by the hypergeometric law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln
from scipy.stats import hypergeom

from lens.functiontokens.firings import Shards
from lens.progress import Report

MIN_FIRINGS = (1, 2, 3, 5, 10, 20, 50, 100)
"""The least numbers of firings that make an edge for which the null is drawn: the stops of the page's slider."""
PERMUTATIONS = 39
"""The band from the least to the greatest of 39 shuffles holds a 40th with probability 38/40: 95 % at each rank."""
RANKS = 1000
"""The curve runs over this many of the most frequent tokens."""
MOST_TERMS = 200
"""A sum of so few terms is nothing where the first one underflows: the mean is then beyond 700."""


@dataclass(frozen=True, eq=False)
class Null:
    """Features covered by the k most frequent tokens, over the shuffles; rows by :data:`MIN_FIRINGS`, columns k - 1.

    Attributes:
        mean, low, high: mean, least and greatest number of features.
        permutations: how many shuffles.
    """

    mean: Float[np.ndarray, "n k"]
    low: Int[np.ndarray, "n k"]
    high: Int[np.ndarray, "n k"]
    permutations: int


def permuted_coverage(
    shards: Shards,
    basis: int,
    size: int,
    occurrences: Int[np.ndarray, " t"],
    permutations: int,
    seed: int,
    report: Report,
) -> Null:
    """Shuffle the labels ``permutations`` times and follow the coverage curve of each.

    ``occurrences``: kept positions of each token, by rank. The same seed gives the same shuffles.
    """
    ranks = min(RANKS, len(occurrences))
    labels = np.append(occurrences[:ranks], occurrences[ranks:].sum()).astype(np.int64)
    counts = np.zeros((ranks, size), np.int32)
    total = np.zeros((len(MIN_FIRINGS), ranks))
    low, high = np.full(total.shape, size, np.int32), np.zeros(total.shape, np.int32)
    for number in range(permutations):
        report(number, permutations, f"Shuffling labels: {number} of {permutations} times")
        counts[:] = 0
        shuffle_into(counts, shards, basis, labels, np.random.default_rng([seed, number]))
        curves = np.stack([covered(counts, n) for n in MIN_FIRINGS])
        total += curves
        low, high = np.minimum(low, curves), np.maximum(high, curves)
    return Null(total / max(permutations, 1), low, high, permutations)


def shuffle_into(
    counts: Int[np.ndarray, "k m"], shards: Shards, basis: int, labels: Int[np.ndarray, " k1"], rng: np.random.Generator
) -> None:
    """Add to ``counts`` the firings of every feature on every label after one shuffle.

    ``labels``: occurrences of each label; the last one stands for all tokens that have no row in ``counts``.
    """
    left = labels.copy()
    for shard in shards:
        (starts,) = shard.positions(f"starts.{basis}")
        drawn = rng.multivariate_hypergeometric(left, len(starts) - 1, method="marginals")
        left -= drawn
        at = rng.permutation(np.repeat(np.arange(len(labels)), drawn))
        (features,) = shard.firings(basis, 0, int(starts[-1]), "features")
        row = np.repeat(at, np.diff(starts))
        kept = row < len(counts)
        np.add.at(counts, (row[kept], features[kept].astype(np.int64)), 1)


def covered(counts: Int[np.ndarray, "k m"], n: int) -> Int[np.ndarray, " k"]:
    """Features that at least one of the first k tokens fired ``n`` times or more, for each k."""
    fired = counts >= n
    first = fired.argmax(axis=0)[fired.any(axis=0)]
    return np.cumsum(np.bincount(first, minlength=len(counts))).astype(np.int32)


def expected_distinct(
    firings: Int[np.ndarray, " m"], positions: int, sample: Int[np.ndarray, " q"]
) -> Float[np.ndarray, " q"]:
    """Features that fire at least once in a sample of positions drawn without replacement: the exact expectation.

    ``firings``: of ``positions`` positions, those at which each feature fires. ``sample``: sizes of the sample.
    """
    value, times = np.unique(firings[firings > 0], return_counts=True)
    sample = np.asarray(sample, np.int64)
    out = np.empty(len(sample))
    step = max(1, (1 << 22) // max(1, len(value)))
    for start in range(0, len(sample), step):
        part = sample[start : start + step]
        out[start : start + step] = times @ (1 - missed(value[:, None], positions, part[None, :]))
    return out


def missed(firings: np.ndarray, positions: np.ndarray | int, sample: np.ndarray | int) -> Float[np.ndarray, " ..."]:
    """C(N - x, q) / C(N, q): the chance that none of x = ``firings`` of N = ``positions`` is among q = ``sample``."""
    rest = np.asarray(positions - firings - sample, np.float64)
    logs = (
        gammaln(np.asarray(positions - firings + 1.0))
        - gammaln(np.maximum(rest, 0) + 1)
        - gammaln(np.asarray(positions + 1.0))
        + gammaln(np.asarray(positions - sample + 1.0))
    )
    return np.where(rest < 0, 0.0, np.exp(np.minimum(logs, 0)))


def expected_degree(
    firings: Int[np.ndarray, " m"], positions: int, counts: Int[np.ndarray, " c"], n: int
) -> Float[np.ndarray, " c"]:
    """The degree that a token with each of ``counts`` occurrences has on average over all shuffles, with edges of at least
    ``n`` firings."""
    if n == 1:
        return expected_distinct(firings, positions, counts)
    value, times = np.unique(firings[firings >= n], return_counts=True)
    return times @ tail(value[:, None], positions, np.asarray(counts)[None, :], n)


def tail(firings: np.ndarray, positions: int, sample: np.ndarray, n: int) -> Float[np.ndarray, " ..."]:
    """The chance that at least n of x = ``firings`` of N = ``positions`` are among q = ``sample``: the hypergeometric tail.

    Summed from 0 up by the ratio of neighbouring terms, which is a hundred times as fast as SciPy; where the first term is
    no use (x + q > N, or n beyond what a sum of tiny terms can reach) SciPy's tail is taken.
    """
    firings, sample = np.broadcast_arrays(np.asarray(firings, np.float64), np.asarray(sample, np.float64))
    term = missed(firings, positions, sample)
    below = term.copy()
    for j in range(n - 1):
        ratio = np.maximum(firings - j, 0) * np.maximum(sample - j, 0) / (j + 1)
        term = term * ratio / np.maximum(positions - firings - sample + j + 1, 1)
        below += term
    out = np.clip(1 - below, 0, 1)
    odd = (firings + sample > positions) | (n > MOST_TERMS)
    out[odd] = hypergeom.sf(n - 1, positions, firings[odd], sample[odd])
    return out
