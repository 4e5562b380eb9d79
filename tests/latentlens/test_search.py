"""Search against one brute-force search over all rows of all layers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.errors import IndexMismatch, LayerMissing, StatesUnusable
from lens.latentlens.build import build_index
from lens.latentlens.index import Index
from lens.latentlens.search import search, search_rows


@pytest.fixture(scope="module")
def rows(index: Index) -> dict[int, np.ndarray]:
    return {layer: index.vectors(layer) for layer in index.layers}


@pytest.fixture(scope="module")
def queries(index: Index) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, index.width)).astype(np.float32)


@pytest.mark.parametrize("layers", [None, [2], [4, 1], [1, 1]])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_merging_layers_equals_one_global_search(
    index: Index, rows: dict[int, np.ndarray], queries: np.ndarray, layers: list[int] | None, k: int
) -> None:
    wanted = sorted(set(layers or index.layers))
    bank = np.concatenate([rows[layer] for layer in wanted])
    cosines = queries @ bank.T / np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.argsort(-cosines, axis=1)[:, :k]
    found, similarity, layer = search_rows(index, queries, k, layers)
    assert found.shape == (20, k)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, best, 1), atol=1e-5)
    assert [sorted(map(tuple, row)) for row in np.stack([layer, found], -1).tolist()] == [
        sorted((wanted[i // index.rows], i % index.rows) for i in row) for row in best.tolist()
    ]


def test_a_state_finds_itself(index: Index, rows: dict[int, np.ndarray]) -> None:
    contexts = index.contexts.to_pylist()
    for layer in index.layers:
        for row, (first, *_) in enumerate(search(index, rows[layer] * 3, 1).rows):
            assert first.similarity == pytest.approx(1, abs=1e-5)
            assert first.layer == layer
            assert first.sentence == index.sentences[contexts[row]["sentence"]].as_py()
            assert (first.word, first.token) == (contexts[row]["word"], contexts[row]["token"])
            assert first.word == first.sentence[first.start : first.end]
            assert first.seen == contexts[row]["seen"]


def test_a_state_finds_itself_when_quantised(llama: LoadedModel, corpus: Corpus, index: Index, tmp_path: Path) -> None:
    quantised = build_index(llama, corpus, tmp_path / "i", layers=[2], factory="SQ8", shard_tokens=64)
    found, similarity, _ = search_rows(quantised, index.vectors(2), 1)
    assert found[:, 0].tolist() == list(range(index.rows))
    np.testing.assert_allclose(similarity[:, 0], 1, atol=5e-3)
    assert similarity.max() <= 1


def test_scale_changes_nothing(index: Index, queries: np.ndarray) -> None:
    base = search(index, queries, 5)
    for scale in (0.25, 1024.0):  # powers of two: exact in float32
        assert search(index, queries * np.float32(scale), 5) == base
    for scale in (1e-30, 1e30):  # squares of these would leave float32
        found = search_rows(index, queries * np.float32(scale), 5)
        np.testing.assert_array_equal(found[0], search_rows(index, queries, 5)[0])


def test_each_row_is_searched_for_itself(index: Index, queries: np.ndarray) -> None:
    together = search(index, queries, 5).rows
    assert together == tuple(search(index, query[None], 5).rows[0] for query in queries)
    assert search(index, queries[:0], 5).rows == ()
    assert all(a.similarity >= b.similarity for row in together for a, b in itertools.pairwise(row))


def test_more_neighbours_than_rows(index: Index, queries: np.ndarray) -> None:
    assert len(search(index, queries[:1], 10_000, layers=[2]).rows[0]) == index.rows
    assert len(search(index, queries[:1], 10_000).rows[0]) == 3 * index.rows


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_states_without_a_direction_are_refused(index: Index, queries: np.ndarray, bad: float) -> None:
    broken = queries.copy()
    broken[3, 7] = bad
    with pytest.raises(StatesUnusable, match="1 of 20"):
        search(index, broken)
    broken[3] = 0
    with pytest.raises(StatesUnusable, match="1 of 20"):
        search(index, broken)


def test_wrong_width_and_layer_are_refused(index: Index, queries: np.ndarray) -> None:
    with pytest.raises(IndexMismatch, match="width 32"):
        search(index, queries[:, :31])
    with pytest.raises(IndexMismatch, match="width 32"):
        search(index, queries[0])
    with pytest.raises(LayerMissing, match="Layer 3 was asked for, but the index patterns stores 1, 2, 4"):
        search(index, queries, layers=[1, 3])
    with pytest.raises(ValueError, match="k must be"):
        search(index, queries, 0)


def test_markup_in_the_corpus_passes_through_as_text(llama: LoadedModel, tmp_path: Path) -> None:
    """The lens keeps text as it is; whoever puts it into HTML escapes it."""
    text = "A <script>alert(1)</script> cat & dog"
    index = build_index(llama, Corpus("markup", lambda: [text]), tmp_path / "i", layers=[1], factory="Flat")
    (neighbour,) = search(index, index.vectors(1)[:1], 1).rows[0]
    assert neighbour.sentence == text
