"""Packing: a layer's rows → one FAISS file, with its recall measured, and the statistics of the raw states.

Recall is measured honestly and without spending corpus text on it: sampled rows of the index are the queries, each is
taken out of its own results, and the five nearest *other* rows by exact search over all rows are the truth. A returned
row counts when its exact similarity is at least that of the fifth (ties, such as repeated sentences, are no misses).
Where FAISS has a knob that trades time for recall (``nprobe``, ``efSearch``) it is turned up until the goal is met.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float, Int

from lens.backend.files import replacing
from lens.errors import CapabilityMissing
from lens.latentlens.encode import LayerRows
from lens.latentlens.manifest import LayerRecord

K = 5
QUERIES = 512
RECALL_GOAL = 0.99
TRAINING_BYTES = 1 << 29
"""Most bytes of rows on which a quantiser is trained."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Queries and what exact search finds for them.

    Attributes:
        rows: the index rows that serve as queries.
        fifth: each query's k-th best exact similarity among the other rows.
    """

    rows: Int[np.ndarray, " n"]
    queries: Float[np.ndarray, "n d"]
    fifth: Float[np.ndarray, " n"]
    k: int


def new_index(width: int, factory: str) -> faiss.Index:
    """An untrained FAISS index for cosines of unit vectors; :class:`CapabilityMissing` if FAISS knows no such kind."""
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise CapabilityMissing(
            f"FAISS can make no index {factory!r} of width {width} ({_reason(error)}); try SQ8, Flat or IVF256,SQ8."
        ) from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise CapabilityMissing(f"FAISS's {factory!r} has no inner product, which cosines need; try SQ8 or Flat.")
    return index


def pack_layer(rows: LayerRows, factory: str, path: Path) -> LayerRecord:
    """Train, fill, measure and write one layer's FAISS file.

    Raises:
        CapabilityMissing: the rows are too few for this kind of index.
    """
    index = new_index(rows.width, factory)
    try:
        if not index.is_trained:
            index.train(_sample(rows))
        for chunk in rows.chunks():
            index.add(chunk)
    except RuntimeError as error:
        raise CapabilityMissing(
            f"FAISS can't make an index {factory!r} of {len(rows):,} rows ({_reason(error)}); resume with another "
            "factory, such as SQ8."
        ) from error
    recall, miss, knobs = _tune(index, factory, exact(rows), rows)
    with replacing(path) as part:
        try:
            faiss.write_index(index, str(part))
        except RuntimeError as error:  # FAISS has no error of its own for a full disk
            raise OSError(f"FAISS: {_reason(error)}") from error
    return LayerRecord(rows.layer, path.name, len(rows), recall, miss, knobs, float(rows.norms.mean(dtype=np.float64)))


def statistics(rows: LayerRows) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and standard deviation per dimension of the states *before* normalisation, from rows in the model's own
    basis, combined piecewise (Chan, Golub, LeVeque 1979) in float64."""
    count, mean, squares = 0, np.zeros(rows.width), np.zeros(rows.width)
    for chunk in rows.chunks():
        raw = chunk.astype(np.float64) * rows.norms[count : count + len(chunk), None]
        shift = raw.mean(0) - mean
        total = count + len(raw)
        squares += raw.var(0) * len(raw) + shift**2 * count * len(raw) / total
        mean += shift * len(raw) / total
        count = total
    return mean.astype(np.float32), np.sqrt(squares / count).astype(np.float32)


def exact(rows: LayerRows) -> Truth | None:
    """Exact neighbours of sampled rows; ``None`` where there is no other row."""
    if len(rows) < 2:
        return None
    picked = np.sort(np.random.default_rng(0).permutation(len(rows))[:QUERIES])
    queries, k = rows.take(picked), min(K, len(rows) - 1)
    best = np.empty((len(picked), 0), np.float32)
    start = 0
    for chunk in rows.chunks():
        similarity = queries @ chunk.T
        own = (picked >= start) & (picked < start + len(chunk))
        similarity[own, picked[own] - start] = -np.inf
        best = np.concatenate([best, similarity], axis=1)
        best = np.partition(best, -min(k, best.shape[1]), axis=1)[:, -k:]
        start += len(chunk)
    return Truth(picked, queries, best.min(axis=1), k)


def measure(index: faiss.Index, truth: Truth, rows: LayerRows) -> tuple[float, float]:
    """Recall@k, and the mean absolute error of the similarities that were found."""
    similarity, found = index.search(truth.queries, truth.k + 1)
    others = found != truth.rows[:, None]
    others &= np.cumsum(others, axis=1) <= truth.k
    query, _ = np.nonzero(others & (found >= 0))
    neighbours, reported = found[others & (found >= 0)], similarity[others & (found >= 0)]
    true = np.einsum("nd,nd->n", truth.queries[query], rows.take(neighbours))
    right = true >= truth.fifth[query] - 1e-6
    return float(right.sum() / (len(truth.rows) * truth.k)), float(np.abs(true - reported).mean())


def _tune(
    index: faiss.Index, factory: str, truth: Truth | None, rows: LayerRows
) -> tuple[float | None, float | None, dict[str, int]]:
    """Recall, similarity error and the chosen search parameters, which are set in ``index`` itself."""
    if truth is None:
        return None, None, {}
    if "IVF" in factory:
        knob, most = "nprobe", faiss.extract_index_ivf(index).nlist
    elif "HNSW" in factory:
        knob, most = "efSearch", 1024
    else:
        return (*measure(index, truth, rows), {})
    value, last = 1 if knob == "nprobe" else 16, -1.0
    while True:
        faiss.ParameterSpace().set_index_parameter(index, knob, value)
        recall, error = measure(index, truth, rows)
        if recall >= RECALL_GOAL or value >= most or (recall > 0.5 and recall - last < 1e-3):
            return recall, error, {knob: value}
        value, last = min(2 * value, most), recall


def _sample(rows: LayerRows) -> Float[np.ndarray, "n d"]:
    """All rows, or as many evenly spaced ones as :data:`TRAINING_BYTES` allow."""
    count = min(len(rows), max(1, TRAINING_BYTES // (4 * rows.width)))
    return rows.take(np.linspace(0, len(rows) - 1, count).astype(np.int64))


def _reason(error: RuntimeError) -> str:
    """The last part of FAISS's message, which begins with a C++ signature."""
    return " ".join(str(error).split())[-120:]
