"""A graph of any size made of random firings, without a model or files: what redraws are timed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from lens.functiontokens.counts import TokenCounts
from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.manifest import BasisRecord, Manifest
from lens.functiontokens.nulls import MIN_FIRINGS, Null


def big_graph(tokens: int = 4000, features: int = 2000, positions: int = 60_000, seed: int = 0) -> FeatureGraph:
    """Zipfian tokens; each position fires eight features, half of them its token's own. Over 100,000 edges by default."""
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, tokens + 1)
    rank = np.sort(generator.choice(tokens, positions, p=weights / weights.sum()))
    own = (rank[:, None] * 7 + generator.integers(0, 40, (positions, 4))) % features
    any_of = generator.integers(0, features, (positions, 4))
    pairs = np.unique(np.repeat(np.arange(positions), 8) * features + np.hstack([own, any_of]).ravel())
    at, feature = rank[pairs // features], pairs % features
    matrix = csr_array((np.ones(len(at), np.int32), (at, feature)), shape=(tokens, features))
    matrix.sum_duplicates()
    occurrences = np.bincount(rank, minlength=tokens)
    order = np.argsort(-occurrences, kind="stable")
    matrix, occurrences = csr_array(matrix[order]), occurrences[order]
    firings = np.asarray(matrix.sum(axis=0))
    texts = ("<script>alert(1)</script>\u202e", *(f" token{i}" for i in range(1, tokens)))
    counts = TokenCounts(
        "made", "d", "t", 1000, int(occurrences.sum()), np.arange(tokens), occurrences, occurrences.clip(1, 1000), texts
    )
    place = {"layer": 3, "site": "hidden.3", "size": features, "fires": "Here.", "fingerprint": "f"}
    record = BasisRecord(
        name="made", kind="sae", **place, edges=matrix.nnz, firings=int(firings.sum()), active=features
    )
    manifest = Manifest(
        model="model",
        language_fingerprint="l",
        tokenizer_hash="t",
        dtype="float32",
        corpus="made",
        corpus_digest="d",
        corpus_licence="CC0-1.0",
        max_tokens=512,
        dropped=2,
        positions=positions,
        sentences=1000,
        tokens=tokens,
        permutations=39,
        seed=0,
        bases=(record,),
        files={},
        created="",
        software={},
    )
    curve = np.tile(np.linspace(0.3, 0.9, 1000) * features, (len(MIN_FIRINGS), 1))
    null = Null(curve, (curve - 9).astype(int), (curve + 9).astype(int), 39)
    ones = np.ones(features)
    return FeatureGraph(Path("made"), 0, manifest, counts, occurrences, firings, ones, ones, matrix, null)
