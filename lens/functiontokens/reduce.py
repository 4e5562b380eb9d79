"""Shards of a corpus pass → the tables of a graph, each in memory that doesn't grow with the corpus.

``edges``: a row a pair of token and feature that fired together, by rank of the token, then by feature: ``rank``, ``step``
(features passed over since the token's last one, see :func:`steps`) and ``firings``. ``features``: a row a feature, silent
ones included: ``firings``, ``mean`` and ``largest`` of the values' magnitudes, and ``histogram`` of those magnitudes (see
:data:`BINS`). ``contexts``: the strongest firings of each feature, at most one in a sentence: ``feature``, ``value``,
``sentence`` (row of ``sentences.parquet``), ``start``, ``end`` (the characters of the token).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from lens.backend.corpus import Corpus
from lens.backend.files import replacing
from lens.backend.words import Reader
from lens.functiontokens.firings import Shards
from lens.progress import Report

CONTEXTS = 8
"""Contexts kept of each feature."""
RANGE = 1 << 22
"""Firings that are counted at once: their keys are 34 MB."""
BINS = 2.0 ** np.arange(-8, 8.25, 0.25)
"""Edges of a histogram's bins: four to each doubling. What lies outside is counted in the outermost bins."""

EDGES = pa.schema({"rank": pa.int32(), "step": pa.int32(), "firings": pa.int32()})


def write_edges(shards: Shards, basis: int, size: int, types: int, path: Path, report: Report) -> dict[str, int]:
    """Count every pair of token and feature; how many ``edges``, ``firings`` and ``active`` features there are.

    Tokens are taken in ranges of rank that hold at most :data:`RANGE` firings (or one token); shards are sorted by rank,
    so a range is one slice of each.
    """
    by_rank = np.zeros(types, np.int64)
    for shard in shards:
        rank, starts = shard.positions("rank", f"starts.{basis}")
        by_rank += np.bincount(rank, weights=np.diff(starts), minlength=types).astype(np.int64)
    edges, first, active = 0, 0, np.zeros(size, bool)
    cumulative = np.concatenate([[0], np.cumsum(by_rank)])
    with replacing(path) as part, _edge_writer(part) as writer:
        while first < types:
            last = max(first + 1, int(np.searchsorted(cumulative, cumulative[first] + RANGE, side="right")) - 1)
            report(first, types, f"Counting edges: {first:,} of {types:,} tokens")
            keys, firings = _pairs(shards, basis, size, first, last)
            rank, feature = np.divmod(keys, size)
            columns = (rank, steps(rank, feature), firings)
            writer.write_table(pa.table([column.astype(np.int32) for column in columns], schema=EDGES))
            active[feature] = True
            edges += len(keys)
            first = last
    return {"edges": edges, "firings": int(cumulative[-1]), "active": int(active.sum())}


def _edge_writer(path: Path) -> pq.ParquetWriter:
    """Small steps and counts, byte by byte: a third smaller than any other encoding that was tried."""
    encoding = {"rank": "DELTA_BINARY_PACKED", "step": "BYTE_STREAM_SPLIT", "firings": "BYTE_STREAM_SPLIT"}
    options = {"use_dictionary": False, "column_encoding": encoding}
    return pq.ParquetWriter(path, EDGES, compression="zstd", compression_level=19, **options)


def steps(rank: Int[np.ndarray, " e"], feature: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e"]:
    """Edges by rank and feature: how many features lie between each and the one before it of the same token (for a token's
    first, before it)."""
    found = np.diff(feature, prepend=-1) - 1
    first = np.diff(rank, prepend=-1) != 0
    found[first] = feature[first]
    return found


def features_of(rank: Int[np.ndarray, " e"], step: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e"]:
    """The features again, from :func:`steps`."""
    passed = np.cumsum(step + 1, dtype=np.int64)
    first = np.flatnonzero(np.diff(rank, prepend=-1) != 0)
    before = passed[first] - step[first] - 1
    return passed - np.repeat(before, np.diff(first, append=len(rank))) - 1


def _pairs(shards: Shards, basis: int, size: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys rank * size + feature of the tokens ``first:last``, ascending, and how often each occurs."""
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for shard in shards:
        rank, starts = shard.positions("rank", f"starts.{basis}")
        a, b = np.searchsorted(rank, [first, last])
        (features,) = shard.firings(basis, int(starts[a]), int(starts[b]), "features")
        own = np.repeat(rank[a:b].astype(np.int64), np.diff(starts[a : b + 1])) * size + features
        found, times = np.unique(own, return_counts=True)
        keys.append(found)
        counts.append(times)
    key, count = np.concatenate(keys), np.concatenate(counts)
    found, place = np.unique(key, return_inverse=True)
    return found, np.bincount(place, weights=count, minlength=len(found)).astype(np.int64)


class FeatureTable:
    """What is gathered of each feature over the shards: firings, magnitudes, histogram, strongest contexts."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.firings = np.zeros(size, np.int64)
        self.total = np.zeros(size, np.float64)
        self.largest = np.zeros(size, np.float32)
        self.histogram = np.zeros((size, len(BINS) - 1), np.int64)
        self.value = np.zeros((size, CONTEXTS), np.float32)  # 0: no context there yet
        self.sentence = np.full((size, CONTEXTS), -1, np.int32)
        self.position = np.full((size, CONTEXTS), -1, np.int32)

    def add(self, features: np.ndarray, values: np.ndarray, sentence: np.ndarray, position: np.ndarray) -> None:
        """Take in the firings of one shard, one row each; a sentence lies wholly in one shard."""
        features, magnitude = features.astype(np.int64), np.abs(values)
        self.firings += np.bincount(features, minlength=self.size)
        self.total += np.bincount(features, weights=magnitude, minlength=self.size)
        np.maximum.at(self.largest, features, magnitude)
        bins = np.clip(np.searchsorted(BINS, magnitude, side="right") - 1, 0, len(BINS) - 2)
        np.add.at(self.histogram, (features, bins), 1)
        strong = magnitude > np.abs(self.value[features, -1])
        self._keep(features[strong], values[strong], sentence[strong], position[strong])

    def _keep(self, features: np.ndarray, values: np.ndarray, sentence: np.ndarray, position: np.ndarray) -> None:
        """Merge candidates with the contexts held so far, strongest first; ties go to the earlier sentence."""
        order = np.lexsort((position, -np.abs(values), sentence, features))
        features, values, sentence, position = (a[order] for a in (features, values, sentence, position))
        fresh = np.ones(len(features), bool)
        fresh[1:] = (features[1:] != features[:-1]) | (sentence[1:] != sentence[:-1])
        touched = np.unique(features)
        held = self.value[touched] != 0
        features = np.concatenate([np.repeat(touched, held.sum(1)), features[fresh]])
        values = np.concatenate([self.value[touched][held], values[fresh]])
        sentence = np.concatenate([self.sentence[touched][held], sentence[fresh]])
        position = np.concatenate([self.position[touched][held], position[fresh]])
        order = np.lexsort((sentence, -np.abs(values), features))
        features, values, sentence, position = (a[order] for a in (features, values, sentence, position))
        place = np.arange(len(features)) - np.searchsorted(features, features)
        best = place < CONTEXTS
        at = (features[best], place[best])
        self.value[at], self.sentence[at], self.position[at] = values[best], sentence[best], position[best]

    def write(self, path: Path) -> None:
        """The ``features`` table; histograms as lists without trailing zeros."""
        mean = self.total / np.maximum(self.firings, 1)
        lengths = np.where(self.firings > 0, self.histogram.shape[1] - (self.histogram[:, ::-1] != 0).argmax(1), 0)
        histogram = [row[:length] for row, length in zip(self.histogram, lengths, strict=True)]
        table = pa.table({
            "firings": self.firings, "mean": mean.astype(np.float32), "largest": self.largest,
            "histogram": pa.array(histogram, pa.list_(pa.int32())),
        })  # fmt: skip
        write_table(path, table)


def gather_features(shards: Shards, basis: int, size: int, report: Report) -> FeatureTable:
    """One run through the shards for one basis."""
    table = FeatureTable(size)
    for number, shard in enumerate(shards):
        report(number, len(shards), f"Gathering features: {number:,} of {len(shards):,} shards")
        sentence, position, starts = shard.positions("sentence", "position", f"starts.{basis}")
        features, values = shard.firings(basis, 0, int(starts[-1]), "features", "values")
        row = np.repeat(np.arange(len(sentence)), np.diff(starts))
        table.add(features, values, sentence[row], position[row])
    return table


def write_sentences(
    corpus: Corpus, reader: Reader, tables: Sequence[FeatureTable], paths: Sequence[Path], target: Path, report: Report
) -> None:
    """Read the corpus again for the sentences that some context stands in, and write them and every contexts table."""
    wanted = np.unique(np.concatenate([table.sentence[table.value != 0] for table in tables]))
    spans, texts = _spans(corpus, reader, wanted, report)
    write_table(target, pa.table({"text": pa.array(texts, pa.string())}))
    for table, path in zip(tables, paths, strict=True):
        feature, place = np.nonzero(table.value)
        row = np.searchsorted(wanted, table.sentence[feature, place])
        found = [spans[r][p] for r, p in zip(row, table.position[feature, place], strict=True)]
        start, end = np.array(found, np.int32).reshape(-1, 2).T
        columns = {"feature": feature, "sentence": row, "start": start, "end": end}
        arrays = {name: pa.array(column.astype(np.int32)) for name, column in columns.items()}
        write_table(path, pa.table({**arrays, "value": table.value[feature, place]}))


def _spans(
    corpus: Corpus, reader: Reader, wanted: Int[np.ndarray, " n"], report: Report
) -> tuple[list[tuple[tuple[int, int], ...]], list[str]]:
    """By wanted sentence, the characters of each of its tokens; and the sentences."""
    spans, texts, batch = [], [], []
    chosen = set(wanted.tolist())
    for number, sentence in enumerate(corpus):
        if number in chosen:
            batch.append(sentence)
        if len(batch) == 512:
            report(0, 1, f"Collecting contexts: {len(texts):,} sentences")
            spans += [tokens.spans for tokens in reader(batch)]
            texts += batch
            batch = []
    if batch:
        spans += [tokens.spans for tokens in reader(batch)]
    return spans, texts + batch


def write_table(path: Path, table: pa.Table) -> None:
    """Parquet, packed tight: these files are read whole and shipped."""
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd", compression_level=19)


def magnitudes(histogram: Sequence[int]) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " edges"]]:
    """A stored histogram as counts and the edges of its bins, empty bins at both ends left out."""
    counts = np.asarray(histogram, np.int64)
    held = np.flatnonzero(counts)
    if not len(held):
        return np.zeros(0), np.zeros(0)
    first, last = held[0], held[-1] + 1
    return counts[first:last], BINS[first : last + 1]
