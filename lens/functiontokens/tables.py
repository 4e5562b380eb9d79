"""The tables of a graph read back, every value checked: what is not of a graph is refused here, and no page meets it.

A file that is the one in the manifest can still be wrong: it was written wrong, or manifest and file were altered together.
Each function raises ValueError with what is wrong, or KeyError, TypeError, OSError or an Arrow error for what isn't such a
table at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from lens.functiontokens.counts import TokenCounts, read_counts
from lens.functiontokens.manifest import SENTENCES, TOKENS, BasisRecord, Manifest, part_name
from lens.functiontokens.nulls import MIN_FIRINGS, Null
from lens.functiontokens.reduce import BINS, features_of

OCCURRENCES = "kept"
"""The column of ``tokens.parquet`` with the positions of each token that the pass kept."""


def read_tokens(
    folder: Path, manifest: Manifest, vocabulary: int | None = None
) -> tuple[TokenCounts, Int[np.ndarray, " t"]]:
    """The corpus statistics, and each token's kept positions; ``vocabulary``: how many token ids the model has."""
    counts = read_counts(folder / TOKENS)
    (kept,) = _columns(pq.read_table(folder / TOKENS, columns=[OCCURRENCES]), OCCURRENCES)
    ids = counts.ids
    _require(len(counts) == manifest.tokens, f"there are {len(counts):,} tokens instead of {manifest.tokens:,}")
    _require(all(isinstance(text, str) for text in counts.texts), "a token has no text")
    for column in (ids, counts.counts, counts.document_counts):
        _require(column.dtype.kind == "i" and int(column.min()) >= 0, "a token's numbers are no counts")
    _require(len(np.unique(ids)) == len(ids), "a token id stands there twice")
    if vocabulary is not None:
        _require(int(ids.max()) < vocabulary, f"the token id {ids.max()} is beyond the vocabulary of {vocabulary:,}")
    _require(counts.documents == manifest.sentences > 0, "the number of sentences is another one")
    _require(counts.total == counts.counts.sum() > 0, "the tokens don't add up to their total")
    _require(int(kept.min()) >= 0, "a token has less than no kept positions")
    _require(kept.sum() == manifest.positions > 0, "the kept positions don't add up to those of the manifest")
    return counts, kept


def read_features(
    path: Path, record: BasisRecord
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Firings of each feature, mean and largest of its magnitudes."""
    table = pq.read_table(path)
    (firings,) = _columns(table, "firings")
    mean, largest = _columns(table, "mean", "largest", kind="f")
    _require(len(firings) == record.size, f"there are {len(firings):,} features instead of {record.size:,}")
    _require(int(firings.min()) >= 0, "a feature fires less than never")
    _require(firings.sum() == record.firings, "the features' firings don't add up to those of the manifest")
    _require(bool(np.isfinite(mean).all() and np.isfinite(largest).all()), "a feature's magnitude is no number")
    histogram = table.column("histogram").combine_chunks()
    held = histogram.flatten()
    _require(histogram.null_count == held.null_count == 0, "a feature has no histogram")
    _require(int(np.diff(histogram.offsets.to_numpy()).max(initial=0)) < len(BINS), "a histogram has too many bins")
    _require(int(held.to_numpy().min(initial=0)) >= 0, "a histogram counts less than nothing")
    return firings, mean, largest


def read_edges(
    path: Path, record: BasisRecord, occurrences: Int[np.ndarray, " t"], firings: Int[np.ndarray, " m"]
) -> csr_array:
    """Firings of each pair, [tokens, features]; each token's features ascend."""
    rank, step, data = _columns(pq.read_table(path), "rank", "step", "firings")
    types, size = len(occurrences), len(firings)
    _require(len(rank) == record.edges, f"there are {len(rank):,} edges instead of {record.edges:,}")
    if len(rank):
        _require(bool((np.diff(rank) >= 0).all()), "the edges aren't in order of their tokens")
        _require(rank[0] >= 0 and rank[-1] < types, f"an edge is of a token beyond the {types:,}")
        _require(int(step.min()) >= 0, "a token's features aren't in order")
        _require(int(data.min()) > 0, "an edge has no firings")
    feature = features_of(rank, step)
    _require(not len(feature) or int(feature.max()) < size, f"an edge is of a feature beyond the {size:,}")
    _require(bool((data <= occurrences[rank]).all()), "a feature fires more often on a token than the token occurs")
    sums = np.bincount(feature, weights=data, minlength=size)
    _require(bool((sums == firings).all()), "the edges of a feature don't add up to its firings")
    starts = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=types))])
    return csr_array((data, feature, starts), shape=(types, size))


def read_null(path: Path, tokens: int, permutations: int) -> Null:
    """The shuffles that were drawn when the graph was built, of a graph of so many tokens."""
    table = pq.read_table(path)
    columns = [*_columns(table, "mean", kind="f"), *_columns(table, "low", "high")]
    mean, low, high = (column.reshape(len(MIN_FIRINGS), -1) for column in columns)
    _require(0 < mean.shape[1] <= tokens, "its null is of another number of tokens")
    _require(bool(np.isfinite(mean).all()), "its null is no number")
    return Null(mean, low, high, permutations)


def read_contexts(folder: Path, number: int, feature: int) -> list[tuple[str, int, int, float]]:
    """The strongest firings of one feature: sentence, first and last character of the token, value. Read from the file
    anew: it is small, and a card is asked for once in a while."""
    table = pq.read_table(folder / part_name(number, "contexts"), filters=pc.field("feature") == feature)
    if not table.num_rows:
        return []
    texts = pq.read_table(folder / SENTENCES).column("text")
    sentence, start, end = _columns(table, "sentence", "start", "end")
    (value,) = _columns(table, "value", kind="f")
    _require(
        int(sentence.min()) >= 0 and int(sentence.max()) < len(texts), "a context is of a sentence that isn't there"
    )
    rows = list(
        zip(texts.take(pa.array(sentence)).to_pylist(), start.tolist(), end.tolist(), value.tolist(), strict=True)
    )
    for text, first, last, _ in rows:
        _require(isinstance(text, str) and 0 <= first <= last <= len(text), "a context lies outside its sentence")
    return rows


def _columns(table: pa.Table, *names: str, kind: str = "i") -> list[np.ndarray]:
    """Columns of whole numbers (``f``: of floating-point numbers), none missing."""
    arrays = [table.column(name).to_numpy() for name in names]
    for name, array in zip(names, arrays, strict=True):
        _require(array.dtype.kind == kind and table.column(name).null_count == 0, f"{name} isn't made of numbers")
    return arrays


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)
