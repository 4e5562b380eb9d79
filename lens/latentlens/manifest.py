"""``manifest.json``: what an index is, from what it was made, and what each of its files must be.

It is written last, so a folder with a manifest is complete. It carries a checksum of itself; a manifest that was altered,
or whose form is not exactly the one below, is refused as damaged.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lens.errors import IndexDamaged
from lens.latentlens.contexts import Rule
from lens.latentlens.files import replacing

FORMAT_VERSION = 1
NAME = "manifest.json"
CONTEXTS = "contexts.parquet"
SENTENCES = "sentences.parquet"
STATISTICS = "statistics.safetensors"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class FileRecord:
    sha256: str
    bytes: int


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


@dataclass(frozen=True)
class Manifest:
    """All that is known of an index.

    Attributes:
        language_fingerprint, tokenizer_hash: of the model it belongs to (:class:`lens.backend.loading.LoadedModel`).
        dtype: of the model when the states were computed.
        depth: N of the layer convention in :mod:`lens.backend.anatomy`; ``layers`` use the same numbers.
        rows: contexts, the same in every layer: row r of every FAISS file is row r of ``contexts.parquet``.
        corpus_digest: SHA-256 of the sentences, see :class:`lens.latentlens.corpus.Corpus`.
        files: by name, all files of the folder but this one.
    """

    model: str
    language_fingerprint: str
    tokenizer_hash: str
    dtype: str
    depth: int
    width: int
    corpus: str
    corpus_digest: str
    corpus_licence: str
    max_tokens: int
    rule: Rule
    rows: int
    factory: str
    layers: tuple[LayerRecord, ...]
    files: dict[str, FileRecord]
    created: str
    software: dict[str, str]
    format_version: int = FORMAT_VERSION


def write_manifest(folder: Path, manifest: Manifest) -> None:
    content = asdict(manifest)
    with replacing(folder / NAME) as part:
        part.write_text(json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the index in ``folder``.

    Raises:
        IndexDamaged: it isn't JSON, has another format version, was altered, or lacks something.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, "can't be read as JSON with a format_version") from error
    if version != FORMAT_VERSION:
        raise IndexDamaged(
            f"The index {folder.name} has format version {str(version)[:20]!r}, but this TokenLens reads version "
            f"{FORMAT_VERSION}; update TokenLens or build the index again."
        )
    if content.pop("checksum", None) != _checksum(content):
        raise _damaged(folder, "was altered after it was written")
    try:
        manifest = _parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"is not of the expected form ({str(error)[:80]})") from error
    return manifest


def _parse(content: dict[str, Any]) -> Manifest:
    layers = tuple(LayerRecord(**record) for record in content["layers"])
    files = {name: FileRecord(**record) for name, record in content["files"].items()}
    names = {CONTEXTS, SENTENCES, STATISTICS} | {layer.file for layer in layers}
    if names != set(files):
        raise ValueError("its list of files doesn't fit its layers")
    if not all(_PLAIN_NAME.fullmatch(name) for name in files):
        raise ValueError("a file name is no plain name")
    if any(layer.rows != content["rows"] for layer in layers):
        raise ValueError("its layers differ in rows")
    known = {field.name for field in fields(Manifest)}
    if unknown := set(content) - known:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    return Manifest(**{**content, "rule": Rule(**content["rule"]), "layers": layers, "files": files})


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Path, what: str) -> IndexDamaged:
    return IndexDamaged(f"{NAME} of the index {folder.name} {what}; build the index again or restore the file.")
