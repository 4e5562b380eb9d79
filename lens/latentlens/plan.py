"""The plan of a build: which contexts, from which sentences, encoded in which order.

Two passes over the corpus. The first decides which occurrences are kept; the second collects the sentences that hold any,
each cut after its last kept token, since a causal model needs no more. Sentences are ordered longest first, contexts as
they are met when encoding in that order: the plan depends on corpus, tokenizer and rule alone, so a resumed build
continues exactly where it stopped. Memory is bounded by what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from lens.backend.corpus import Corpus
from lens.backend.files import replacing
from lens.backend.words import Reader, Tokens, whole_word
from lens.errors import CorpusUnreadable
from lens.latentlens.contexts import Contexts, Rule
from lens.latentlens.manifest import CONTEXT_SCHEMA, CONTEXTS, SENTENCES
from lens.progress import Report

READ = 512
"""Sentences tokenized at once."""
BATCH_TOKENS = 2048
"""Padded tokens in one forward: 8 layers of 4,096 float32 values each are 270 MB of states."""
SHARD_TOKENS = 1 << 14
"""Padded tokens after which a shard is closed: what a kill loses is at most this much encoding."""
SHARD_BYTES = 1 << 26
"""Bytes of rows after which a shard is closed."""
IDS = "ids.parquet"


@dataclass(frozen=True, eq=False)
class Plan:
    """What to encode.

    Attributes:
        ids: token ids by sentence, longest first.
        sentence, position: by context, in ascending order of both.
    """

    ids: pa.ListArray
    sentence: Int[np.ndarray, " rows"]
    position: Int[np.ndarray, " rows"]

    @property
    def rows(self) -> int:
        return len(self.sentence)

    def batches(self, batch_tokens: int = BATCH_TOKENS) -> list[tuple[int, int]]:
        """Ranges of sentences of similar length, each at most ``batch_tokens`` when padded (or one sentence)."""
        lengths = self.lengths()
        ranges, start = [], 0
        while start < len(lengths):
            stop = min(start + max(1, batch_tokens // int(lengths[start])), len(lengths))
            ranges.append((start, stop))
            start = stop
        return ranges

    def shards(self, row_bytes: int, shard_tokens: int = SHARD_TOKENS) -> list[list[tuple[int, int]]]:
        """Batches grouped into files; ``row_bytes`` is what one context takes there."""
        lengths, groups, tokens, size = self.lengths(), [[]], 0, 0
        for start, stop in self.batches(min(BATCH_TOKENS, shard_tokens)):
            if groups[-1] and (tokens >= shard_tokens or size >= SHARD_BYTES):
                groups.append([])
                tokens = size = 0
            groups[-1].append((start, stop))
            first, last = self.rows_of(start, stop)
            tokens += int(lengths[start]) * (stop - start)
            size += (last - first) * row_bytes
        return groups

    def rows_of(self, start: int, stop: int) -> tuple[int, int]:
        """The range of contexts of the sentences ``start:stop``."""
        first, last = np.searchsorted(self.sentence, [start, stop])
        return int(first), int(last)

    def lengths(self) -> Int[np.ndarray, " sentences"]:
        return np.diff(self.ids.offsets.to_numpy())


def make_plan(corpus: Corpus, reader: Reader, rule: Rule, folder: Path, work: Path, report: Report) -> None:
    """Write contexts and sentences to ``folder``, the token ids to encode to ``work``; see :func:`read_plan`.

    Raises:
        CorpusUnreadable: the corpus can't be read, or not one of its tokens may be kept.
    """
    kept = Contexts(rule)
    number = 0
    for sentences in _batched(corpus):
        report(0, 1, f"Choosing contexts: {number:,} sentences read, {len(kept):,} contexts kept")
        tokens = reader(sentences)
        kept.offer(number, tokens, [[reader.text(i) for i in t.ids] for t in tokens])
        number += len(sentences)
    if not len(kept):
        raise CorpusUnreadable(f"Not one token of the corpus {corpus.name} may be kept; give one with some plain text.")
    contexts, sentences = _collect(corpus, reader, kept, number, report)
    lengths = np.diff(sentences.column("ids").combine_chunks().offsets.to_numpy())
    order = np.argsort(-lengths, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sentence = place[contexts.column("sentence").to_numpy()]
    by_sentence = np.argsort(sentence, kind="stable")
    contexts = contexts.set_column(0, "sentence", pa.array(sentence, pa.int32())).take(by_sentence)
    sentences = sentences.take(order)
    _write(work / IDS, sentences.select(["ids"]))
    _write(folder / SENTENCES, sentences.select(["text"]))
    _write(folder / CONTEXTS, contexts.cast(CONTEXT_SCHEMA))


def read_plan(folder: Path, work: Path) -> Plan:
    columns = pq.read_table(folder / CONTEXTS, columns=["sentence", "position"])
    ids = pq.read_table(work / IDS).column("ids").combine_chunks()
    return Plan(ids, columns.column("sentence").to_numpy(), columns.column("position").to_numpy())


def _collect(corpus: Corpus, reader: Reader, kept: Contexts, total: int, report: Report) -> tuple[pa.Table, pa.Table]:
    """Second pass: contexts and sentences as tables, in corpus order."""
    sentence, position, evidence = (np.array(c) for c in (kept.sentence, kept.position, kept.evidence))
    order = np.lexsort((position, sentence))
    sentence, position, evidence = sentence[order], position[order], evidence[order]
    parts, texts, number, found = [], [], 0, 0
    for batch in _batched(corpus):
        report(number, total, f"Collecting sentences: {number:,} of {total:,}")
        first, last = np.searchsorted(sentence, [number, number + len(batch)])
        wanted, starts = np.unique(sentence[first:last], return_index=True)
        chosen = [batch[i - number] for i in wanted]
        number += len(batch)
        if not chosen:
            continue
        groups = np.split(position[first:last], starts[1:])
        rows, ids = [], []
        for row, (text, tokens, places) in enumerate(zip(chosen, reader(chosen), groups, strict=True), found):
            rows += [_context(reader, text, tokens, int(place), row) for place in places]
            ids.append(tokens.ids[: int(places[-1]) + 1])
        columns = [*zip(*rows, strict=True), evidence[first:last]]
        parts.append(pa.table(columns, schema=CONTEXT_SCHEMA))
        texts.append(pa.table({"text": chosen, "ids": pa.array(ids, pa.list_(pa.int32()))}))
        found += len(chosen)
    return pa.concat_tables(parts), pa.concat_tables(texts)


def _context(reader: Reader, text: str, tokens: Tokens, position: int, sentence: int) -> tuple:
    """One row of :data:`CONTEXT_SCHEMA`, but for its evidence."""
    token_id, (begin, seen) = tokens.ids[position], tokens.spans[position]
    start, end = whole_word(text, begin, seen)
    return sentence, position, token_id, reader.text(token_id), text[start:end], start, end, seen


def _batched(corpus: Corpus) -> Iterator[list[str]]:
    sentences = iter(corpus)
    while batch := list(islice(sentences, READ)):
        yield batch


def _write(path: Path, table: pa.Table) -> None:
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")
