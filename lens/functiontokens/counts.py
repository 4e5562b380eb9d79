"""Token statistics of a corpus: how often each token occurs, in how many documents, and which are function tokens.

A corpus is streamed: memory is that of the vocabulary. A document is one sentence or line of the corpus. Tokens that a
tokenizer adds, and special ones, are not counted. Results are kept in the cache folder by corpus and tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from lens.backend.corpus import Corpus
from lens.backend.files import replacing
from lens.backend.loading import LoadedModel
from lens.backend.vocabulary import readable
from lens.backend.words import special_ids
from lens.errors import CorpusUnreadable, TokenMissing
from lens.functiontokens.wordlists import is_closed_class
from lens.home import home
from lens.progress import Report, silent

READ = 512
"""Documents tokenized at once."""
CUT = 0.40
"""Share of all occurrences that function tokens make up, as in arXiv 2510.08203."""
_SLACK = 1e-9
"""Shares are compared with this tolerance, so that 0.3 of ten occurrences are three."""
_META = b"tokenlens"


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Counts of the tokens that occur in a corpus, the most frequent first, ties by id. The *rank* of a token is its place.

    Attributes:
        corpus, corpus_digest, tokenizer_hash: what was counted, and with what.
        documents: number of documents; total: number of tokens in them.
        ids: token ids; counts: occurrences; document_counts: documents that hold the token.
        texts: each token as text, leading space kept.
    """

    corpus: str
    corpus_digest: str
    tokenizer_hash: str
    documents: int
    total: int
    ids: Int[np.ndarray, " t"]
    counts: Int[np.ndarray, " t"]
    document_counts: Int[np.ndarray, " t"]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def share(self) -> Float[np.ndarray, " t"]:
        """Each token's share of all occurrences."""
        return self.counts / self.total

    def cumulative(self) -> Float[np.ndarray, " t"]:
        """Share of all occurrences that the tokens up to each rank make up; the last is 1."""
        return np.cumsum(self.counts) / self.total

    def document_share(self) -> Float[np.ndarray, " t"]:
        """Document coverage: the share of documents that hold each token."""
        return self.document_counts / self.documents

    def function_count(self, cut: float = CUT) -> int:
        """The least k such that the k most frequent tokens make up at least ``cut`` of all occurrences."""
        if not 0 < cut <= 1:
            raise ValueError(f"expected a cut above 0 and at most 1, got {cut}")
        return int(np.searchsorted(np.cumsum(self.counts), (cut - _SLACK) * self.total)) + 1

    def function_ids(self, cut: float = CUT) -> Int[np.ndarray, " k"]:
        """The function tokens by frequency: the paper's definition."""
        return self.ids[: self.function_count(cut)]

    def closed_class_ids(self) -> Int[np.ndarray, " k"]:
        """The function tokens by word list: see :mod:`lens.functiontokens.wordlists`. In order of frequency."""
        return self.ids[np.array([is_closed_class(text) for text in self.texts], bool)]

    def is_function(self, function_ids: Sequence[int] | np.ndarray) -> Bool[np.ndarray, " t"]:
        """By rank, whether the token is one of ``function_ids``."""
        return np.isin(self.ids, np.asarray(function_ids))

    def rank(self, token_id: int) -> int:
        """The rank of a token, from 0; :class:`TokenMissing` if it never occurs."""
        if token_id not in self._ranks:
            raise TokenMissing(
                f"The token {token_id} never occurs in the corpus {self.corpus}; choose one that does, or another corpus."
            )
        return self._ranks[token_id]

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {int(token_id): rank for rank, token_id in enumerate(self.ids)}

    def zipf(self, least: int = 5) -> float:
        """The slope of log count over log rank, by least squares over the tokens that occur ``least`` times or more
        (Zipf's law: about -1); NaN where fewer than two do."""
        kept = self.counts >= least
        if kept.sum() < 2:
            return float("nan")
        ranks = np.log(np.arange(1, len(self) + 1)[kept])
        return float(np.polyfit(ranks, np.log(self.counts[kept]), 1)[0])


def count_tokens(corpus: Corpus, loaded: LoadedModel, *, report: Report = silent, cache: bool = True) -> TokenCounts:
    """The counts of ``corpus`` under the model's tokenizer, from the cache folder if they are there.

    Raises:
        CorpusUnreadable: see :mod:`lens.backend.corpus`; or the corpus holds no token.
    """
    corpus = readable(corpus, loaded)
    path = home() / "counts" / f"{corpus.digest[:24]}-{loaded.tokenizer_hash[:16]}.parquet"
    if cache and (kept := _cached(path, corpus, loaded.tokenizer_hash)) is not None:
        return kept
    counts = _count(corpus, loaded, report)
    if cache:
        write_counts(path, counts)
    return counts


def vocabulary_ids(loaded: LoadedModel) -> Int[np.ndarray, " k"]:
    """The function tokens by word list among the whole vocabulary, for a model without a corpus."""
    special = special_ids(loaded.tokenizer)
    ids = (i for i in range(len(loaded.tokenizer)) if i not in special)
    return np.array([i for i in ids if is_closed_class(loaded.tokenizer.decode([i]))], np.int32)


def _cached(path: Path, corpus: Corpus, tokenizer_hash: str) -> TokenCounts | None:
    try:
        counts = read_counts(path)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None  # nothing there, or damaged: it is counted again
    fits = (counts.corpus_digest, counts.tokenizer_hash) == (corpus.digest, tokenizer_hash)
    return counts if fits else None


def _count(corpus: Corpus, loaded: LoadedModel, report: Report) -> TokenCounts:
    tokenizer, size = loaded.tokenizer, max(len(loaded.tokenizer), loaded.anatomy.vocab_size)
    counts, holders = np.zeros(size, np.int64), np.zeros(size, np.int64)
    skipped = np.array(sorted(special_ids(tokenizer)), np.int64)
    documents, sentences = 0, iter(corpus)
    while batch := list(islice(sentences, READ)):
        encoded = tokenizer(batch, add_special_tokens=False, padding=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in encoded]
        ids = np.fromiter((i for row in encoded for i in row), np.int64, sum(lengths))
        document = np.repeat(np.arange(len(batch)), lengths)
        counts += np.bincount(ids, minlength=size)
        holders += np.bincount(np.unique(document * size + ids) % size, minlength=size)
        documents += len(batch)
        report(0, 1, f"Counting tokens: {documents:,} sentences, {int(counts.sum()):,} tokens")
    counts[skipped] = holders[skipped] = 0
    found = np.flatnonzero(counts)
    if not len(found):
        raise CorpusUnreadable(
            f"The tokenizer finds not one token in the corpus {corpus.name}; give one with plain text."
        )
    ids = found[np.lexsort((found, -counts[found]))]
    texts = tuple(tokenizer.decode([int(i)]) for i in ids)
    total = int(counts.sum())
    names = (corpus.name, corpus.digest, loaded.tokenizer_hash)
    return TokenCounts(*names, documents, total, ids.astype(np.int32), counts[ids], holders[ids], texts)


def write_counts(path: Path, counts: TokenCounts, **columns: np.ndarray) -> None:
    """Write ``counts`` as Parquet, a row a token in order of rank, with further columns if given."""
    facts = {
        name: getattr(counts, name) for name in ("corpus", "corpus_digest", "tokenizer_hash", "documents", "total")
    }
    table = pa.table({
        "id": counts.ids, "token": list(counts.texts), "count": counts.counts, "documents": counts.document_counts,
        **columns,
    })  # fmt: skip
    table = table.replace_schema_metadata({_META: json.dumps(facts).encode()})
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_counts(path: Path) -> TokenCounts:
    """What :func:`write_counts` wrote. Raises OSError, ValueError, KeyError or an Arrow error for anything else."""
    table = pq.read_table(path)
    facts: dict[str, Any] = json.loads((table.schema.metadata or {})[_META])
    arrays = [table.column(name).to_numpy() for name in ("id", "count", "documents")]
    return TokenCounts(
        **facts,
        ids=arrays[0],
        counts=arrays[1],
        document_counts=arrays[2],
        texts=tuple(table.column("token").to_pylist()),
    )
