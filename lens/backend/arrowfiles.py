"""Sentences from Parquet files and from data sets as Hugging Face's ``save_to_disk`` leaves them (Arrow streams).

The bytes are anybody's, and Arrow trusts offsets and lengths that it reads: without a full validation, which compares them
with the buffers before any value is touched, some damaged headers end the process. So every batch is validated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lens.backend.textfiles import as_text, pick
from lens.errors import CorpusUnreadable

STATE = "state.json"
"""Of a ``save_to_disk`` folder: which of its files hold the data."""


def read_parquet(path: Path, column: str) -> Iterator[str]:
    """A column of a Parquet file.

    Raises:
        CorpusUnreadable: damaged, no such column, or not one of text.
    """
    with _told(path, "Parquet", "write it again"), pq.ParquetFile(path) as file:
        pick(dict.fromkeys(file.schema_arrow.names), column, path.name)
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            yield from _texts(batch, column, path)


def read_arrow(path: Path, column: str) -> Iterator[str]:
    """A column of one file of a ``save_to_disk`` folder, memory-mapped; raises what :func:`read_parquet` does."""
    with (
        _told(path, "Arrow", "save the data set again"),
        pa.memory_map(str(path)) as source,
        pa.ipc.open_stream(source) as stream,
    ):
        pick(dict.fromkeys(stream.schema.names), column, path.name)
        for batch in stream:
            yield from _texts(batch, column, path)


def data_files(folder: Path) -> list[Path]:
    """The files that the state of a ``save_to_disk`` folder names.

    Raises:
        CorpusUnreadable: it names none, or a choice of rows.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        if not names or any(name != Path(name).name or name in ("", "..") for name in names):
            raise ValueError("no names of files")
        chosen = state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorpusUnreadable(f"{folder.name}/{STATE} names no data files; save the data set again.") from error
    if chosen:
        raise CorpusUnreadable(
            f"The data set in {folder.name} is a choice of rows of its files; save it again after flatten_indices()."
        )
    return [folder / name for name in names]


def _texts(batch: pa.RecordBatch, column: str, path: Path) -> Iterator[str]:
    batch.validate(full=True)
    places = [place for place, name in enumerate(batch.schema.names) if name == column]
    if len(places) != 1:
        raise CorpusUnreadable(f"{path.name} has {len(places)} columns named {column!r}; rename all but one.")
    yield from (as_text(value, column, path.name) for value in batch.column(places[0]).to_pylist())


@contextmanager
def _told(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """What Arrow raises over damaged bytes, as one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, SystemError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorpusUnreadable(f"{path.name} can't be read as {kind} ({reason}); {remedy}.") from error
