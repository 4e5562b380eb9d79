"""The bipartite graph of tokens and features, opened from its folder.

An edge joins a token and a feature that fired on it at least n times in the corpus; n is the reader's choice, so
everything here takes it. Tokens stand in order of their frequency in the corpus (their *rank*). Invariants: the degrees of
the tokens, and those of the features, both add up to the number of edges; the firings of a feature over all tokens are
those of the pass. No file is parsed before its SHA-256 was found right, and these invariants are checked then
(:mod:`lens.functiontokens.tables`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_array, csr_array

from lens.backend import folders
from lens.backend.loading import LoadedModel
from lens.errors import FeaturesMismatch, GraphDamaged, GraphMismatch, GraphMissing
from lens.functiontokens import manifest as form
from lens.functiontokens.basis import Features
from lens.functiontokens.counts import TokenCounts
from lens.functiontokens.manifest import GRAPH, BasisRecord, Manifest, read_manifest
from lens.functiontokens.nulls import Null
from lens.functiontokens.tables import read_edges, read_features, read_null, read_tokens

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FeatureGraph:
    """Tokens x features of one basis over one corpus.

    Attributes:
        folder: where its files lie; number: of its basis in the manifest.
        counts: the corpus statistics; row r of the graph is the token of rank r.
        occurrences: positions of each token that the pass kept; they add up to ``positions``.
        firings: of each feature; ``mean`` and ``largest`` of its magnitudes.
        matrix: firings of each pair, [tokens, features].
        null: the shuffles that were drawn when the graph was built.
    """

    folder: Path
    number: int
    manifest: Manifest
    counts: TokenCounts
    occurrences: Int[np.ndarray, " t"]
    firings: Int[np.ndarray, " m"]
    mean: Float[np.ndarray, " m"]
    largest: Float[np.ndarray, " m"]
    matrix: csr_array
    null: Null
    _thinned: list[tuple[int, csr_array]] = field(default_factory=list, init=False, repr=False)

    @property
    def features(self) -> BasisRecord:
        """What the features are."""
        return self.manifest.bases[self.number]

    @property
    def model(self) -> str:
        return self.manifest.model

    @property
    def layer(self) -> int:
        return self.features.layer

    @property
    def positions(self) -> int:
        return self.manifest.positions

    @property
    def size(self) -> int:
        """m, the number of features, silent ones included."""
        return len(self.firings)

    @cached_property
    def active(self) -> Int[np.ndarray, " a"]:
        """The features that fired at all: what coverage is a share of."""
        return np.flatnonzero(self.firings)

    def edges(self, n: int = 1) -> csr_array:
        """The firings of every edge of at least ``n``, [tokens, features]."""
        if n <= 1:
            return self.matrix
        held = next(iter(self._thinned), None)  # the last one asked for: a page asks for one n many times
        if held is None or held[0] != n:
            held = (n, _thin(self.matrix, n))
            self._thinned[:] = [held]
        return held[1]

    def degrees(self, n: int = 1) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " m"]]:
        """Distinct features of each token, and distinct tokens of each feature."""
        edges = self.edges(n)
        return np.diff(edges.indptr), np.bincount(edges.indices, minlength=self.size)

    def weights(self, n: int = 1) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " m"]]:
        """Weighted degrees: the firings on the edges of each token and of each feature."""
        edges = self.edges(n)
        return np.asarray(edges.sum(axis=1)), np.asarray(edges.sum(axis=0))

    def token_features(self, token_id: int, n: int = 1) -> Neighbours:
        """The features of a token, most firings first. :class:`TokenMissing` for one that never occurs."""
        rank, edges = self.counts.rank(token_id), self.edges(n)
        span = slice(edges.indptr[rank], edges.indptr[rank + 1])
        return self._neighbours(edges.indices[span], edges.data[span], np.full(span.stop - span.start, rank))

    def feature_tokens(self, feature: int, n: int = 1) -> Neighbours:
        """The tokens of a feature, most firings first; ``nodes`` are ranks. :class:`FeaturesMismatch` if there is none
        of that number."""
        if not 0 <= feature < self.size:
            raise FeaturesMismatch(
                f"Feature {feature} was asked for, but {self.features.name} has features 0 to {self.size - 1}; choose one "
                "of these."
            )
        columns = self._by_feature
        span = slice(columns.indptr[feature], columns.indptr[feature + 1])
        ranks, firings = columns.indices[span], columns.data[span]
        kept = firings >= n
        return self._neighbours(ranks[kept], firings[kept], ranks[kept], feature)

    def lift(self, rank: np.ndarray, feature: np.ndarray | int, firings: np.ndarray) -> Float[np.ndarray, " e"]:
        """How many times as often as under the null each pair fired together: observed over c_t * n_f / positions."""
        expected = self.occurrences[rank] * (self.firings[feature] / max(self.positions, 1))
        return firings / np.maximum(expected, 1e-12)

    def is_function(self, function_ids: np.ndarray) -> Bool[np.ndarray, " t"]:
        """By rank, whether a token belongs to the group of function tokens."""
        return self.counts.is_function(function_ids)

    def check(self, features: Features) -> None:
        """Refuse features that are not those of the graph."""
        if features.fingerprint != self.features.fingerprint:
            raise GraphMismatch(
                f"The graph {self.folder.name} was built with other weights of {self.features.name} than these; build it "
                "again."
            )

    @cached_property
    def _by_feature(self) -> csc_array:
        return self.matrix.tocsc()

    def _neighbours(self, nodes: np.ndarray, firings: np.ndarray, rank: np.ndarray, feature: Any = None) -> Neighbours:
        order = np.lexsort((nodes, -firings))
        lift = self.lift(rank, nodes if feature is None else feature, firings)
        rate = firings / np.maximum(self.occurrences[rank], 1)
        return Neighbours(nodes[order], firings[order], rate[order], lift[order])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The other ends of a node's edges, most firings first.

    Attributes:
        nodes: feature numbers, or ranks of tokens.
        firings: of each edge; rate: share of the token's occurrences; lift: times as often as under the null.
    """

    nodes: Int[np.ndarray, " e"]
    firings: Int[np.ndarray, " e"]
    rate: Float[np.ndarray, " e"]
    lift: Float[np.ndarray, " e"]

    def __len__(self) -> int:
        return len(self.nodes)


def _thin(matrix: csr_array, n: int) -> csr_array:
    kept = matrix.data >= n
    starts = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_array((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)


def graph_folders() -> dict[str, Path]:
    """Finished graphs by name, see :func:`lens.backend.folders.known_folders`."""
    return folders.known_folders(GRAPH)


def graphs_for(loaded: LoadedModel) -> dict[str, Path]:
    """Those of :func:`graph_folders` that fit a model, see :func:`lens.backend.folders.fitting_folders`."""
    return folders.fitting_folders(GRAPH, loaded)


def open_graph(folder: str | Path, basis: str | None = None, loaded: LoadedModel | None = None) -> FeatureGraph:
    """The graph of one basis (by default the first) in ``folder``, for the model ``loaded`` if one is given.

    Raises:
        GraphMissing: no graph there, or none of this basis; GraphUnfinished: half of one.
        GraphDamaged: a file is missing, truncated or altered, or of an unknown version, or holds what no graph does.
        GraphMismatch: it belongs to another language model or tokenizer.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if loaded is not None:
        folders.check_model(GRAPH, folder.name, manifest, loaded)
    names = [record.name for record in manifest.bases]
    if basis is not None and basis not in names:
        raise GraphMissing(
            f"The graph {folder.name} has no features {basis!r}, only {', '.join(names)}; choose among these."
        )
    folders.check_files(GRAPH, folder, manifest.files)
    number = names.index(basis) if basis is not None else 0
    vocabulary = max(len(loaded.tokenizer), loaded.anatomy.vocab_size) if loaded is not None else None
    return sound(folder, lambda: _read(folder, manifest, number, vocabulary))


def sound(folder: Path, read: Callable[[], T]) -> T:
    """What ``read`` gives of the tables in ``folder``, or :class:`GraphDamaged` where they hold what no graph does."""
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
        raise GraphDamaged(
            f"The tables of the feature graph {folder.name} aren't sound ({str(error)[:120]}); restore them or build the "
            "feature graph again."
        ) from error


def _read(folder: Path, manifest: Manifest, number: int, vocabulary: int | None) -> FeatureGraph:
    record = manifest.bases[number]
    counts, occurrences = read_tokens(folder, manifest, vocabulary)
    firings, mean, largest = read_features(folder / form.part_name(number, "features"), record)
    matrix = read_edges(folder / form.part_name(number, "edges"), record, occurrences, firings)
    null = read_null(folder / form.part_name(number, "null"), len(counts), manifest.permutations)
    return FeatureGraph(folder, number, manifest, counts, occurrences, firings, mean, largest, matrix, null)


def as_dict(graph: FeatureGraph) -> dict[str, Any]:
    """The manifest as plain Python, without its file list: provenance for exports."""
    content = asdict(graph.manifest)
    return {key: value for key, value in content.items() if key != "files"}
