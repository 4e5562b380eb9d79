"""The corpus pass: every token that fires a feature, written to shards on disk.

A shard is a safetensors file of :data:`SHARD_SENTENCES` sentences. It holds for each kept position ``rank`` (of its token
in the corpus, see :class:`~lens.functiontokens.counts.TokenCounts`), ``sentence`` (its number in the corpus) and
``position``, sorted by rank, then sentence and position; and for each basis of features b ``starts.b`` ([positions + 1]:
where a position's firings begin), ``features.b`` and ``values.b``. It appears under its name only when complete, and is
noted in the ledger then. Memory is that of one batch and one shard, whatever the corpus.

**The first two positions of every sequence are dropped** (:data:`~lens.functiontokens.basis.FIRST`): what fires at the
attention sink says nothing about the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.numpy import save

from lens.backend.batches import pad
from lens.backend.building import Ledger
from lens.backend.corpus import Corpus
from lens.backend.files import replacing
from lens.backend.loading import LoadedModel
from lens.backend.tracing import text_sites
from lens.backend.words import Reader
from lens.errors import StatesUnusable
from lens.functiontokens.basis import FIRST, Features
from lens.functiontokens.counts import TokenCounts
from lens.progress import Estimate, Report, duration

MAX_TOKENS = 512
"""Tokens read of one sentence."""
SHARD_SENTENCES = 128
"""What a kill loses is at most this much of the pass."""
BATCH_TOKENS = 2048
"""Padded tokens in one forward."""

Arrays = dict[str, np.ndarray]


class Shards:
    """The shards of a finished pass, in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __iter__(self) -> Iterator[Shard]:
        return (Shard(path) for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class Shard:
    """One shard, read piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def positions(self, *names: str) -> tuple[np.ndarray, ...]:
        """Whole columns: ``rank``, ``sentence``, ``position``, ``starts.b``."""
        with safe_open(self.path, "np") as file:
            return tuple(file.get_tensor(name) for name in names)

    def firings(self, basis: int, start: int, stop: int, *names: str) -> tuple[np.ndarray, ...]:
        """The firings ``start:stop`` of a basis: columns ``features`` and ``values``."""
        if start == stop:  # safetensors refuses an empty slice at the end
            return tuple(np.zeros(0, np.int64) for _ in names)
        with safe_open(self.path, "np") as file:
            return tuple(file.get_slice(f"{name}.{basis}")[start:stop] for name in names)


def write_shards(
    loaded: LoadedModel,
    corpus: Corpus,
    counts: TokenCounts,
    bases: Sequence[Features],
    folder: Path,
    ledger: Ledger,
    report: Report,
) -> Shards:
    """All shards, those that aren't done yet written: one forward for all bases.

    Raises:
        CorpusUnreadable: see :mod:`lens.backend.corpus`.
        StatesUnusable: the model gave NaN or infinities.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reader, ranks = Reader(loaded.tokenizer, MAX_TOKENS), _rank_table(loaded, counts)
    estimate, sentences, done = Estimate(), iter(corpus), 0
    paths = [folder / f"{number:07d}.safetensors" for number in range(-(-counts.documents // SHARD_SENTENCES))]
    for number, path in enumerate(paths):
        first, texts = number * SHARD_SENTENCES, list(islice(sentences, SHARD_SENTENCES))
        done += len(texts)
        if ledger.has(path):
            continue
        left = estimate.left(first, counts.documents)
        ending = "" if left is None else f", {duration(left)} left"
        report(first, counts.documents, f"Corpus pass: {first:,} of {counts.documents:,} sentences{ending}")
        tensors = _shard(loaded, texts, first, reader, ranks, bases)
        with replacing(path) as part:
            part.write_bytes(save(tensors))
        ledger.add(path)
    for _ in sentences:  # read to its end, so that the corpus is known to be the one that was counted
        pass
    return Shards(paths)


def _rank_table(loaded: LoadedModel, counts: TokenCounts) -> Int[np.ndarray, " ids"]:
    """Token id → rank; -1 for what was not counted (special tokens)."""
    table = np.full(max(len(loaded.tokenizer), loaded.anatomy.vocab_size), -1, np.int32)
    table[counts.ids] = np.arange(len(counts), dtype=np.int32)
    return table


def _shard(
    loaded: LoadedModel,
    texts: Sequence[str],
    first: int,
    reader: Reader,
    ranks: Int[np.ndarray, " ids"],
    bases: Sequence[Features],
) -> Arrays:
    """The arrays of one shard, from batches of sentences of similar length."""
    ids = [tokens.ids for tokens in reader(texts)]
    order = sorted((row for row in range(len(ids)) if len(ids[row]) > FIRST), key=lambda row: -len(ids[row]))
    parts: list[Arrays] = []
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, BATCH_TOKENS // len(ids[order[start]]))]
        start += len(rows)
        parts.append(_batch(loaded, [ids[row] for row in rows], np.array(rows) + first, ranks, bases))
    return _sorted(parts, len(bases))


def _batch(
    loaded: LoadedModel,
    ids: Sequence[Sequence[int]],
    numbers: Int[np.ndarray, " batch"],
    ranks: Int[np.ndarray, " ids"],
    bases: Sequence[Features],
) -> Arrays:
    """The kept positions of one right-padded batch, and what fires there."""
    padded, mask = pad(ids)
    rank = np.where(mask.numpy() > 0, ranks[padded.numpy()], -1)
    rank[:, :FIRST] = -1
    row, position = np.nonzero(rank >= 0)
    out = {
        "rank": rank[row, position].astype(np.int32),
        "sentence": numbers[row].astype(np.int32),
        "position": position.astype(np.int32),
    }
    states = text_sites(loaded, padded, mask, [basis.site for basis in bases])
    where = torch.from_numpy(row), torch.from_numpy(position)
    for b, basis in enumerate(bases):
        kept = states[basis.site][where[0].to(loaded.device), where[1].to(loaded.device)].float()
        if not torch.isfinite(kept).all():
            raise StatesUnusable(
                f"At {basis.site} the model gives NaN or infinities for some text in {str(loaded.dtype)[6:]}; load it in "
                "float32 or bfloat16."
            )
        fired, features, values = basis.active(kept)
        out[f"count.{b}"] = np.bincount(fired, minlength=len(row))
        out[f"features.{b}"] = features.astype(np.uint16 if basis.size <= 1 << 16 else np.uint32)
        out[f"values.{b}"] = values.astype(np.float32)
    return out


def _sorted(parts: Sequence[Arrays], bases: int) -> Arrays:
    """One shard from its batches: positions by rank, sentence and place, their firings with them."""
    names = parts[0] if parts else _nothing(bases)
    whole = {name: np.concatenate([part[name] for part in parts] or [names[name]]) for name in names}
    order = np.lexsort((whole["position"], whole["sentence"], whole["rank"]))
    out = {name: whole[name][order] for name in ("rank", "sentence", "position")}
    for b in range(bases):
        count = whole[f"count.{b}"]
        begin = np.concatenate([[0], np.cumsum(count)])
        starts = np.concatenate([[0], np.cumsum(count[order])]).astype(np.int64)
        taken = np.repeat(begin[order] - starts[:-1], count[order]) + np.arange(starts[-1])
        out[f"starts.{b}"] = starts
        out[f"features.{b}"], out[f"values.{b}"] = whole[f"features.{b}"][taken], whole[f"values.{b}"][taken]
    return out


def _nothing(bases: int) -> Arrays:
    """A batch without a single kept position."""
    out: Arrays = {name: np.zeros(0, np.int32) for name in ("rank", "sentence", "position")}
    for b in range(bases):
        out |= {f"count.{b}": np.zeros(0, np.int64), f"features.{b}": np.zeros(0, np.uint16)}
        out[f"values.{b}"] = np.zeros(0, np.float32)
    return out
