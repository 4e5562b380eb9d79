"""How much of the features the most frequent tokens reach, beside what frequency alone explains.

The paper's curve (arXiv 2510.08203): the share of active features that have an edge to one of the k most frequent tokens.
On a small dictionary it saturates whatever the tokens mean, so it never stands alone here: beside it stand the null of
:mod:`lens.functiontokens.nulls`, and rarefaction, which compares the groups at equal numbers of occurrences. *Active* are
the features that fire anywhere in the corpus, whatever the least number of firings that makes an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.nulls import MIN_FIRINGS, RANKS, expected_degree, expected_distinct, missed
from lens.statistics import bootstrap_interval

TYPE_SAMPLE = 100
"""Occurrences at which token types are compared, as in the method's measurements."""
TYPES = 20
"""Content tokens that a comparison of token types rests on at least."""
POINTS = 40
"""Points of a rarefaction curve."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """Shares of the active features that the first k tokens reach, for k = 1, 2, ...

    Attributes:
        n: least firings of an edge.
        share: observed. mean, low, high: of the shuffles (:class:`~lens.functiontokens.nulls.Null`); ``None`` where no
            null was drawn for this n.
        ids, texts, function: the tokens; whether each is a function token.
        active: how many features fire at all, of ``size``.
    """

    n: int
    share: Float[np.ndarray, " k"]
    mean: Float[np.ndarray, " k"] | None
    low: Float[np.ndarray, " k"] | None
    high: Float[np.ndarray, " k"] | None
    ids: Int[np.ndarray, " k"]
    texts: tuple[str, ...]
    function: Bool[np.ndarray, " k"]
    active: int
    size: int

    @property
    def outside(self) -> Bool[np.ndarray, " k"] | None:
        """Where the observed curve leaves the band."""
        if self.low is None or self.high is None:
            return None
        return (self.share < self.low) | (self.share > self.high)


def coverage(graph: FeatureGraph, function_ids: np.ndarray, n: int = 1, ranks: int = RANKS) -> Coverage:
    """The coverage curve over at most ``ranks`` of the most frequent tokens, with its null band."""
    ranks = min(ranks, RANKS, len(graph.counts))
    active = max(len(graph.active), 1)
    share = covered_features(graph, n)[:ranks] / active
    mean = low = high = None
    if n in MIN_FIRINGS and graph.null.permutations:
        row = MIN_FIRINGS.index(n)
        mean, low, high = (a[row, :ranks] / active for a in (graph.null.mean, graph.null.low, graph.null.high))
    ids = graph.counts.ids[:ranks]
    function = graph.is_function(function_ids)[:ranks]
    return Coverage(n, share, mean, low, high, ids, graph.counts.texts[:ranks], function, len(graph.active), graph.size)


def covered_features(graph: FeatureGraph, n: int = 1) -> Int[np.ndarray, " t"]:
    """Distinct features with an edge to one of the tokens up to each rank."""
    edges = graph.edges(n)
    rank = np.repeat(np.arange(len(graph.counts)), np.diff(edges.indptr))
    first = np.full(graph.size, len(graph.counts))
    first[edges.indices[::-1]] = rank[::-1]  # edges stand by rank: the last one written is the first token
    return np.cumsum(np.bincount(first, minlength=len(graph.counts) + 1)[:-1])


@dataclass(frozen=True, eq=False)
class Rarefaction:
    """Distinct features reached by equally many occurrences of each group, as shares of the active features.

    Attributes:
        sample: numbers of occurrences, ascending, up to those of the rarer group.
        function, content: expected share in a random sample of the group's occurrences.
        shuffled: the same for random positions, which is what either group gives once labels are shuffled.
    """

    sample: Int[np.ndarray, " q"]
    function: Float[np.ndarray, " q"]
    content: Float[np.ndarray, " q"]
    shuffled: Float[np.ndarray, " q"]


def rarefaction(graph: FeatureGraph, function_ids: np.ndarray, points: int = POINTS) -> Rarefaction:
    """Exact expectations (see :func:`~lens.functiontokens.nulls.expected_distinct`); empty where a group is."""
    member = graph.is_function(function_ids)
    firings = group_firings(graph, member)
    positions = np.array([graph.occurrences[member].sum(), graph.occurrences[~member].sum()])
    most, active = int(positions.min()), max(len(graph.active), 1)
    sample = np.unique(np.geomspace(1, most, points).round().astype(np.int64)) if most else np.zeros(0, np.int64)
    groups = [expected_distinct(f, int(p), sample) / active for f, p in zip(firings, positions, strict=True)]
    shuffled = expected_distinct(graph.firings, graph.positions, sample) / active
    return Rarefaction(sample, groups[0], groups[1], shuffled)


def group_firings(graph: FeatureGraph, member: Bool[np.ndarray, " t"]) -> Int[np.ndarray, "2 m"]:
    """Firings of each feature on the group's tokens, and on all others."""
    inside = np.asarray(member.astype(np.int64) @ graph.matrix)
    return np.stack([inside, graph.firings - inside])


@dataclass(frozen=True, eq=False)
class TypeReach:
    """Distinct features that single tokens reach in equally many occurrences.

    Attributes:
        sample: that many occurrences; tokens with fewer are left out.
        ids, function, distinct: by token, its expected number of distinct features.
        function_mean, content_mean: over the group's tokens, NaN for none; the intervals are 95 % bootstrap ones over
            tokens.
        shuffled: what any token gives once labels are shuffled.
    """

    sample: int
    ids: Int[np.ndarray, " s"]
    function: Bool[np.ndarray, " s"]
    distinct: Float[np.ndarray, " s"]
    function_mean: float
    function_interval: tuple[float, float]
    content_mean: float
    content_interval: tuple[float, float]
    shuffled: float


def reach_by_type(graph: FeatureGraph, function_ids: np.ndarray, sample: int | None = None) -> TypeReach:
    """Compare token types at ``sample`` occurrences each: by default :data:`TYPE_SAMPLE`, or in a small corpus as many as
    :data:`TYPES` content tokens have."""
    content = np.sort(graph.occurrences[~graph.is_function(function_ids)])[::-1]
    if sample is None:
        sample = max(1, min(TYPE_SAMPLE, int(content[:TYPES][-1]) if len(content) else TYPE_SAMPLE))
    ranks = np.flatnonzero(graph.occurrences >= sample)
    rows = graph.matrix[ranks]
    row = np.repeat(np.arange(len(ranks)), np.diff(rows.indptr))
    reached = 1 - missed(rows.data.astype(np.int64), graph.occurrences[ranks][row], sample)
    distinct = np.bincount(row, weights=reached, minlength=len(ranks))
    member = graph.is_function(function_ids)[ranks]
    means, intervals = [], []
    for group in (distinct[member], distinct[~member]):
        means.append(float(group.mean()) if len(group) else float("nan"))
        intervals.append(bootstrap_interval(group) if len(group) else (float("nan"), float("nan")))
    shuffled = float(expected_distinct(graph.firings, graph.positions, np.array([min(sample, graph.positions)]))[0])
    return TypeReach(
        sample, graph.counts.ids[ranks], member, distinct, means[0], intervals[0], means[1], intervals[1], shuffled
    )


@dataclass(frozen=True, eq=False)
class Degrees:
    """Degree against frequency, for the log-log plot.

    Attributes:
        n: least firings of an edge.
        occurrences, degree, weight: of every token with at least one kept position; ids, texts, function: which it is.
        at, expected: the mean degree over all shuffles of a token with that many occurrences.
    """

    n: int
    ids: Int[np.ndarray, " t"]
    texts: tuple[str, ...]
    function: Bool[np.ndarray, " t"]
    occurrences: Int[np.ndarray, " t"]
    degree: Int[np.ndarray, " t"]
    weight: Int[np.ndarray, " t"]
    at: Int[np.ndarray, " c"]
    expected: Float[np.ndarray, " c"]


def degree_plot(graph: FeatureGraph, function_ids: np.ndarray, n: int = 1, points: int = POINTS) -> Degrees:
    """Degrees of all tokens, and what the null expects of a token of each frequency."""
    kept = np.flatnonzero(graph.occurrences)
    degree, weight = graph.degrees(n)[0][kept], graph.weights(n)[0][kept]
    most = int(graph.occurrences.max(initial=1))
    at = np.unique(np.geomspace(1, most, points).round().astype(np.int64))
    return Degrees(
        n=n,
        ids=graph.counts.ids[kept],
        texts=tuple(graph.counts.texts[rank] for rank in kept),
        function=graph.is_function(function_ids)[kept],
        occurrences=graph.occurrences[kept],
        degree=degree,
        weight=weight,
        at=at,
        expected=expected_degree(graph.firings, graph.positions, at, n),
    )


def as_json(graph: FeatureGraph, found: Coverage) -> dict:
    """The result of ``python -m lens functiontokens graph``: a curve with its null, token by token."""
    degree = graph.degrees(found.n)[0]
    tokens = [
        {"token": text, "count": int(count), "group": "function" if inside else "content", "degree": int(d)}
        for text, count, inside, d in zip(found.texts, graph.counts.counts, found.function, degree, strict=False)
    ]
    low, high = found.low, found.high
    band = [] if low is None or high is None else [[float(a), float(b)] for a, b in zip(low, high, strict=True)]
    return {
        "model": graph.model,
        "features": graph.features.name,
        "layer": graph.layer,
        "tokens": tokens,
        "coverage": [float(share) for share in found.share],
        "null": band,
        "edges": int(graph.edges(found.n).nnz),
    }
