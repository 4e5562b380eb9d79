"""``manifest.json`` of an index: what it is, from what it was made, and what each of its files must be.

See :mod:`lens.backend.folders`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lens.backend import folders
from lens.backend.folders import Kind, from_fields
from lens.errors import IndexDamaged, IndexMismatch, IndexMissing, IndexUnfinished
from lens.latentlens.contexts import Rule

INDEX = Kind("index", "an", "indexes", 1, IndexMissing, IndexUnfinished, IndexDamaged, IndexMismatch)
CONTEXTS = "contexts.parquet"
SENTENCES = "sentences.parquet"
STATISTICS = "statistics.safetensors"


@dataclass(frozen=True)
class LayerRecord:
    """One layer's FAISS file.

    Attributes:
        recall_at_5: share of the five nearest rows, by exact search, that this file finds, over sampled rows of the index
            as queries, each without itself; ``None`` for an index of one row.
        similarity_error: mean absolute difference between reported and exact similarity, over the same neighbours.
        search: search-time parameters chosen at build and stored in the file (``nprobe``, ``efSearch``).
        mean_norm: mean Euclidean norm of the states before they were normalised.
    """

    layer: int
    file: str
    rows: int
    recall_at_5: float | None
    similarity_error: float | None
    search: dict
    mean_norm: float


@dataclass(frozen=True, kw_only=True)
class Manifest(folders.Manifest):
    """All that is known of an index.

    Attributes:
        depth: N of the layer convention in :mod:`lens.backend.anatomy`; ``layers`` use the same numbers.
        rows: contexts, the same in every layer: row r of every FAISS file is row r of ``contexts.parquet``.
    """

    format_version: int = INDEX.version
    depth: int
    width: int
    max_tokens: int
    rule: Rule
    rows: int
    factory: str
    layers: tuple[LayerRecord, ...]

    def identity(self) -> dict[str, Any]:
        layers = [record.layer for record in self.layers]
        return {**super().identity(), "rule": asdict(self.rule), "layers": layers}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the index in ``folder``. Raises what :func:`lens.backend.folders.read_manifest` does."""
    return folders.read_manifest(INDEX, folder, Manifest, _parts)


def _parts(content: dict[str, Any]) -> dict[str, Any]:
    layers = tuple(from_fields(LayerRecord, record) for record in content["layers"])
    if {CONTEXTS, SENTENCES, STATISTICS} | {layer.file for layer in layers} != set(content["files"]):
        raise ValueError("its list of files doesn't fit its layers")
    if any(layer.rows != content["rows"] for layer in layers):
        raise ValueError("its layers differ in rows")
    return {"layers": layers, "rule": Rule(**content["rule"])}
