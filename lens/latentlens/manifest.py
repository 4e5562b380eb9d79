"""``manifest.json`` of an index: what it is, from what it was made, and what each of its files must be.

See :mod:`lens.backend.folders`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lens.backend import folders
from lens.backend.folders import Kind, from_fields, require
from lens.errors import IndexDamaged, IndexMismatch, IndexMissing, IndexUnfinished
from lens.latentlens.contexts import Rule

INDEX = Kind("index", "an", "indexes", 1, IndexMissing, IndexUnfinished, IndexDamaged, IndexMismatch)
CONTEXTS = "contexts.parquet"
SENTENCES = "sentences.parquet"
STATISTICS = "statistics.safetensors"
CONTEXT_SCHEMA = pa.schema(
    {
        "sentence": pa.int32(),  # row of sentences.parquet
        "position": pa.int32(),  # of the token in its sequence, tokens that the tokenizer adds counted
        "token_id": pa.int32(),
        "token": pa.string(),  # decode([token_id])
        "word": pa.string(),  # the whole word, sentence[start:end]
        "start": pa.int32(),
        "end": pa.int32(),
        "seen": pa.int32(),  # end of the token itself: a causal model has seen sentence[:seen]
        "evidence": pa.int32(),  # occurrences in the corpus with the same token-id prefix
    }
)
"""Of ``contexts.parquet``."""


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

    def __post_init__(self) -> None:
        require(self.layer >= 0 and self.rows > 0, f"layer {self.layer} of {self.rows} rows")
        require(self.recall_at_5 is None or 0 <= self.recall_at_5 <= 1, "a recall that is no share")
        require((self.similarity_error or 0) >= 0 and self.mean_norm >= 0, "an error or a norm below 0")


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

    def __post_init__(self) -> None:
        layers = [record.layer for record in self.layers]
        require(min(self.depth, self.width, self.max_tokens, self.rows) > 0, "a size that is none")
        require(layers and max(layers) <= self.depth, f"layers {layers} of {self.depth} blocks")
        require(len(set(layers)) == len(layers), "a layer stands there twice")
        require(len({record.file for record in self.layers}) == len(layers), "two layers share a file")

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
    return {"layers": layers, "rule": from_fields(Rule, content["rule"])}
