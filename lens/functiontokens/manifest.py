"""``manifest.json`` of a feature graph: what it is, from what it was made, and what each of its files must be.

See :mod:`lens.backend.folders`. A folder holds one corpus and one model, and the files of each basis of features: edges,
features, contexts and null.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens.backend import folders
from lens.backend.folders import Kind, from_fields, require
from lens.errors import GraphDamaged, GraphMismatch, GraphMissing, GraphUnfinished

GRAPH = Kind("feature graph", "a", "graphs", 2, GraphMissing, GraphUnfinished, GraphDamaged, GraphMismatch)
TOKENS, SENTENCES = "tokens.parquet", "sentences.parquet"
PARTS = ("edges", "features", "contexts", "null")


@dataclass(frozen=True)
class BasisRecord:
    """One basis of features in a graph.

    Attributes:
        name, kind, layer, site, size, fires, fingerprint: of the :class:`~lens.functiontokens.basis.Features`.
        edges: pairs of a token and a feature that fired on it at least once.
        firings: all firings; active: features that fired at all.
    """

    name: str
    kind: str
    layer: int
    site: str
    size: int
    fires: str
    fingerprint: str
    edges: int
    firings: int
    active: int

    def __post_init__(self) -> None:
        require(self.kind in ("sae", "neurons"), f"features of the kind {self.kind[:20]!r}")
        require(self.layer >= 0 and self.size > 0, f"layer {self.layer} of {self.size} features")
        require(0 <= self.active <= self.size, f"{self.active} active of {self.size} features")
        require(self.active <= self.edges <= self.firings, f"{self.edges} edges of {self.firings} firings")


@dataclass(frozen=True, kw_only=True)
class Manifest(folders.Manifest):
    """All that is known of a graph.

    Attributes:
        max_tokens: tokens read of each sentence; dropped: positions at its beginning that are left out.
        positions: tokens that the graph rests on; sentences: of the corpus; tokens: different ones in it.
        permutations, seed: of the null.
    """

    format_version: int = GRAPH.version
    max_tokens: int
    dropped: int
    positions: int
    sentences: int
    tokens: int
    permutations: int
    seed: int
    bases: tuple[BasisRecord, ...]

    def __post_init__(self) -> None:
        names = [record.name for record in self.bases]
        require(names and len(set(names)) == len(names), "its bases have no names of their own")
        require(min(self.max_tokens, self.positions, self.sentences, self.tokens) > 0, "a size that is none")
        require(min(self.dropped, self.permutations, self.seed) >= 0, "a number below 0")

    def identity(self) -> dict[str, Any]:
        features = [record.fingerprint for record in self.bases]
        return {**super().identity(), "features": features, "permutations": self.permutations}


def part_name(number: int, part: str) -> str:
    """The file of one part of the basis that stands at that place in the manifest."""
    return f"{number}-{part}.parquet"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the graph in ``folder``. Raises what :func:`lens.backend.folders.read_manifest` does."""
    return folders.read_manifest(GRAPH, folder, Manifest, _parts)


def _parts(content: dict[str, Any]) -> dict[str, Any]:
    bases = tuple(from_fields(BasisRecord, record) for record in content["bases"])
    if set(content["files"]) != {TOKENS, SENTENCES} | {part_name(n, part) for n in range(len(bases)) for part in PARTS}:
        raise ValueError("its list of files doesn't fit its bases")
    return {"bases": bases}
