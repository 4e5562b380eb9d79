"""Corpora: sentences streamed from a file or folder, never loaded whole.

Kinds: ``.txt`` (one sentence a line), ``.jsonl``, ``.csv`` and ``.parquet`` (one column), and a Hugging Face dataset
folder (as ``save_to_disk`` leaves it, or parquet files). Invariants: every sentence is non-empty text without NUL or outer
blanks and of at most :data:`MAX_CHARS` characters; a stream can be started again and then gives the same sentences, or it
ends with an error; the digest depends on the sentences alone, not on the kind of file they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lens.backend.arrowfiles import STATE, data_files, read_arrow, read_parquet
from lens.backend.textfiles import read_csv, read_jsonl, read_txt
from lens.errors import CorpusUnreadable

MAX_CHARS = 8192
"""Characters kept of one sentence; what comes after is not read. 512 tokens of plain English are about 2,500."""
DEFAULT_COLUMN = "text"
KINDS = ".txt, .jsonl, .csv, .parquet, or a Hugging Face dataset folder"


@dataclass(eq=False)
class Corpus:
    """A named stream of sentences that can be read more than once.

    Attributes:
        name: shown to readers and stored in manifests; a file's name, never its path.
        read: starts the stream again from the first sentence.
        licence: of the text, if known; stored in manifests.
    """

    name: str
    read: Callable[[], Iterable[str]]
    licence: str = "unknown"
    _digest: str | None = field(default=None, init=False, repr=False)

    def __iter__(self) -> Iterator[str]:
        """The sentences, cleaned.

        Raises:
            CorpusUnreadable: not one sentence, undecodable bytes, or other sentences than in an earlier pass.
        """
        digest, count = hashlib.sha256(), 0
        for raw in self.read():
            sentence = clean(raw)
            if sentence:
                digest.update(sentence.encode() + b"\n")
                count += 1
                yield sentence
        if not count:
            raise CorpusUnreadable(f"The corpus {self.name} holds no text at all; give one with at least one sentence.")
        if self._digest not in (None, digest.hexdigest()):
            raise CorpusUnreadable(
                f"The corpus {self.name} changed while it was being read; build from a file at rest."
            )
        self._digest = digest.hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all sentences, each followed by a newline; costs one pass if none has been completed."""
        if self._digest is None:
            for _ in self:
                pass
        assert self._digest is not None
        return self._digest


def clean(text: str) -> str:
    """A sentence as it is stored: no NUL, no lone surrogates, no outer blanks, at most :data:`MAX_CHARS` characters."""
    text = text.replace("\0", "").strip()[:MAX_CHARS].rstrip()
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode(errors="replace").decode()
    return text


def open_corpus(path: str | Path, column: str | None = None, licence: str = "unknown") -> Corpus:
    """The corpus at ``path``; ``column`` is the one with the text (default ``text``) where the file has columns.

    Raises:
        CorpusUnreadable: nothing there, or of an unknown kind; errors of the content come when it is read.
    """
    path = Path(path)
    if path.is_dir():
        return Corpus(path.name, _folder(path, column or DEFAULT_COLUMN), licence)
    if not path.exists():
        raise CorpusUnreadable(f"There is no corpus at {path}; give a {KINDS}.")
    readers = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}
    suffix = path.suffix.lower()
    if suffix == ".txt" and column:
        raise CorpusUnreadable(f"{path.name} is plain text and has no column {column!r}; leave the column out.")
    if suffix == ".txt":
        return Corpus(path.name, lambda: read_txt(path, 4 * MAX_CHARS), licence)
    if suffix not in readers:
        raise CorpusUnreadable(f"{path.name} is of no known kind of corpus; give a {KINDS}.")
    return Corpus(path.name, lambda: readers[suffix](path, column or DEFAULT_COLUMN), licence)


def sampled(corpus: Corpus, share: float) -> Corpus:
    """About ``share`` of the sentences of a corpus, always the same ones wherever they stand: a sentence is in when its
    SHA-256, read as a fraction of 1, is below ``share``."""
    if not 0 < share <= 1:
        raise ValueError(f"expected a share above 0 and at most 1, got {share}")

    def read() -> Iterator[str]:
        for sentence in corpus.read():
            first = hashlib.sha256(clean(sentence).encode()).digest()[:8]
            if int.from_bytes(first, "big") < share * 2**64:
                yield sentence

    return Corpus(f"{corpus.name} ({share:.3g} of its sentences)", read, corpus.licence)


def joined(corpus: Corpus, count: int) -> Corpus:
    """Every ``count`` sentences of a corpus that follow one another as one: the beginning of a sentence then has some text
    before it, as in running text."""

    def read() -> Iterator[str]:
        sentences = (cleaned for cleaned in map(clean, corpus.read()) if cleaned)
        while group := list(islice(sentences, count)):
            yield " ".join(group)

    return Corpus(f"{corpus.name}, {count} sentences together", read, corpus.licence)


def _folder(path: Path, column: str) -> Callable[[], Iterator[str]]:
    """The reader for a data-set folder; a folder of several splits is refused naming them."""
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
        raise CorpusUnreadable(f"{path.name} holds several splits ({splits}); give the folder of one of them.")
    if (path / STATE).is_file():
        files = data_files(path)
        return lambda: (text for file in files for text in read_arrow(file, column))
    tables = sorted(path.rglob("*.parquet"))
    if tables:
        return lambda: (text for file in tables for text in read_parquet(file, column))
    raise CorpusUnreadable(f"The folder {path.name} holds neither a saved data set nor Parquet files; give a {KINDS}.")
