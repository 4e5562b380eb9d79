"""An index on disk, opened safely: identity and checksums first, then memory-mapped.

A folder holds ``manifest.json``, one FAISS file a layer, ``contexts.parquet``, ``sentences.parquet`` and
``statistics.safetensors`` (``mean.l`` and ``deviation.l`` of the raw states). FAISS parses its files in C++ and doesn't
notice every flipped byte, so no file is parsed before its SHA-256 was found right.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lens.backend import folders
from lens.backend.loading import LoadedModel
from lens.errors import IndexDamaged, IndexMissing, LayerMissing
from lens.latentlens import manifest as form
from lens.latentlens.manifest import INDEX, Manifest, read_manifest
from lens.latentlens.rotation import unrotate

T = TypeVar("T")
_FAISS = threading.Lock()
"""FAISS's limit for what a file may make it allocate is one for the whole process."""


@dataclass(frozen=True, eq=False)
class Index:
    """An opened index; safe to search from several threads.

    Attributes:
        path: its folder.
        faiss: by layer, a FAISS index of unit vectors, mixed by :mod:`lens.latentlens.rotation`; row r is context r.
    """

    path: Path
    manifest: Manifest
    faiss: dict[int, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.faiss)

    @property
    def width(self) -> int:
        return self.manifest.width

    @property
    def rows(self) -> int:
        """Contexts, the same number in every layer."""
        return self.manifest.rows

    @property
    def nbytes(self) -> int:
        """Bytes on disk, nearly all of them mapped rather than held."""
        return sum(record.bytes for record in self.manifest.files.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the checksums of all files: names the content, for what is computed from it."""
        files = {name: record.sha256 for name, record in self.manifest.files.items()}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @cached_property
    def contexts(self) -> pa.Table:
        """One row a context, columns as in :data:`lens.latentlens.manifest.CONTEXT_SCHEMA`."""
        return self._read(form.CONTEXTS, self._contexts)

    @cached_property
    def sentences(self) -> pa.ChunkedArray:
        """The sentences, of text all."""
        return self._read(form.SENTENCES, self._texts)

    @cached_property
    def _statistics(self) -> dict[str, np.ndarray]:
        return self._read(form.STATISTICS, self._means)

    def _contexts(self, path: Path) -> pa.Table:
        table = _sound(pq.read_table(path, memory_map=True))
        if table.num_rows != self.rows or not table.schema.equals(form.CONTEXT_SCHEMA):
            raise ValueError(f"{table.num_rows:,} rows of {', '.join(table.schema.names)[:60]}")
        sentence = table.column("sentence").to_numpy()
        if any(column.null_count for column in table.columns) or not 0 <= sentence.min() <= sentence.max() < len(
            self.sentences
        ):
            raise ValueError("a context without its sentence")
        return table

    def _texts(self, path: Path) -> pa.ChunkedArray:
        texts = _sound(pq.read_table(path, memory_map=True)).column("text")
        if texts.type != pa.string() or texts.null_count:
            raise ValueError(f"{texts.null_count} of its {len(texts)} are missing, or they are {texts.type}")
        return texts

    def _means(self, path: Path) -> dict[str, np.ndarray]:
        stored = load_file(path)
        for name in (f"{kind}.{layer}" for kind in ("mean", "deviation") for layer in self.layers):
            if stored[name].shape != (self.width,) or not np.isfinite(stored[name]).all():
                raise ValueError(f"{name} is no vector of {self.width} numbers")
        return stored

    def _read(self, name: str, reader: Callable[[Path], T]) -> T:
        """What ``reader`` gives of a file, which may have changed since the index was opened."""
        folders.check_files(INDEX, self.path, {name: self.manifest.files[name]})
        try:
            return reader(self.path / name)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, SafetensorError) as error:
            raise IndexDamaged(
                f"{name} of the index {self.name} isn't sound ({str(error)[:120]}); restore it or build the index again."
            ) from error

    def mean(self, layer: int) -> Float[np.ndarray, " d"]:
        """Mean of the layer's raw states over all contexts."""
        return self._statistics[f"mean.{self.check_layer(layer)}"]

    def deviation(self, layer: int) -> Float[np.ndarray, " d"]:
        """Standard deviation of the layer's raw states, per dimension."""
        return self._statistics[f"deviation.{self.check_layer(layer)}"]

    def vectors(self, layer: int) -> Float[np.ndarray, "rows d"]:
        """The layer's unit vectors in the model's own basis, as far as the file's quantisation preserves them."""
        return unrotate(self.faiss[self.check_layer(layer)].reconstruct_n(0, self.rows))

    def taken(self, layer: int, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """As :meth:`vectors`, of chosen rows."""
        return unrotate(self.faiss[self.check_layer(layer)].reconstruct_batch(np.asarray(rows, np.int64)))

    def check_layer(self, layer: int) -> int:
        """``layer`` itself if it is stored, else :class:`LayerMissing`."""
        if layer not in self.faiss:
            stored = ", ".join(map(str, self.layers))
            raise LayerMissing(
                f"Layer {layer} was asked for, but the index {self.name} stores {stored}; choose among these."
            )
        return layer

    def info(self) -> dict[str, Any]:
        """The manifest as plain Python, with the total size."""
        return {**asdict(self.manifest), "bytes": self.nbytes}


def index_folders() -> dict[str, Path]:
    """Finished indexes by name, see :func:`lens.backend.folders.known_folders`."""
    return folders.known_folders(INDEX)


def indexes_for(loaded: LoadedModel) -> dict[str, Path]:
    """Those of :func:`index_folders` that fit a model, see :func:`lens.backend.folders.fitting_folders`."""
    return folders.fitting_folders(INDEX, loaded)


def find_index(name_or_path: str | Path) -> Path:
    """The folder of an index given by the name it has in :func:`index_folders`, or by path.

    Raises:
        IndexMissing: neither.
    """
    known = index_folders()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    names = ", ".join(known) or "none yet; build one with `python -m lens index build`"
    raise IndexMissing(f"There is no index at {str(name_or_path)!r}, nor one of that name (there are: {names}).")


def open_index(path: str | Path, loaded: LoadedModel | None = None) -> Index:
    """Open the index in the folder ``path``, for the model ``loaded`` if one is given.

    Raises:
        IndexMissing, IndexUnfinished: no index there, or half of one.
        IndexDamaged: a file is missing, truncated or altered, or of an unknown version.
        IndexMismatch: it belongs to another language model or tokenizer.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if loaded is not None:
        check_model(folder.name, manifest, loaded)
    folders.check_files(INDEX, folder, manifest.files)
    return Index(folder, manifest, {record.layer: _map(folder, record, manifest) for record in manifest.layers})


def chosen_index(loaded: LoadedModel, name: str | None) -> Index | None:
    """The index called ``name`` (or the folder), by default the one of the model's row, opened for the model; ``None`` for
    ``"none"``, and where the row has none. Raises what :func:`find_index` and :func:`open_index` do."""
    name = name or loaded.spec.index
    return open_index(find_index(name), loaded) if name and name != "none" else None


def verify_index(path: str | Path) -> Index:
    """Read every byte of the index in ``path`` again and compare; returns it opened. Raises what :func:`open_index` does."""
    folder = Path(path)
    folders.check_files(INDEX, folder, read_manifest(folder).files, afresh=True)
    index = open_index(folder)
    sentences = len(index.sentences)
    found = (index.contexts.num_rows, set(index.contexts.column("sentence").unique().to_pylist()))
    if found != (index.rows, set(range(sentences))):
        raise IndexDamaged(f"Contexts and sentences of the index {index.name} don't fit each other; build it again.")
    return index


def check_model(name: str, manifest: Manifest, loaded: LoadedModel) -> None:
    """Refuse a model whose states don't belong to the index, naming what differs."""
    sizes = {"width": (manifest.width, loaded.anatomy.width), "depth": (manifest.depth, loaded.anatomy.depth)}
    folders.check_model(INDEX, name, manifest, loaded, sizes)


def _sound(table: pa.Table) -> pa.Table:
    """The table, whose offsets and lengths were compared with its buffers."""
    table.validate(full=True)
    return table


def _map(folder: Path, record: form.LayerRecord, manifest: Manifest) -> Any:
    """One layer's FAISS index, memory-mapped, with the form that the manifest says."""
    path = folder / record.file
    with _FAISS:
        faiss.set_deserialization_vector_byte_limit(max(path.stat().st_size, 1 << 20))
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexDamaged(
                f"{record.file} of the index {folder.name} can't be read by FAISS; build the index again."
            ) from error
    if (index.d, index.ntotal, index.metric_type) != (manifest.width, record.rows, faiss.METRIC_INNER_PRODUCT):
        raise IndexDamaged(
            f"{record.file} of the index {folder.name} holds {index.ntotal:,} rows of width {index.d} instead of "
            f"{record.rows:,} of {manifest.width}; build the index again."
        )
    return index
