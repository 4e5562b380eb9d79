"""Similarities, nulls, hubs, folding and reverse search against closed forms and numpy, on the tiny exact index."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.errors import CapabilityMissing, QueryMissing
from lens.latentlens.csls import corrected, text_density
from lens.latentlens.fold import fold
from lens.latentlens.hubs import hub_report, hub_shares, occurrences
from lens.latentlens.index import Index, open_index
from lens.latentlens.nullfile import find_null, save_null
from lens.latentlens.nulls import KINDS, Null, Reference, clearing, measure, random_states
from lens.latentlens.reverse import contexts_of, other_words, scores
from lens.latentlens.search import Neighbour, search, search_rows
from lens.latentlens.spaces import _store, _stored, measure_spread, spread


@pytest.fixture(scope="module")
def index(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A copy of the shared one, since statistics are written beside it."""
    return open_index(shutil.copytree(index.path, tmp_path_factory.mktemp("copies") / "patterns"))


def queries(index: Index, count: int = 7) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, index.width)).astype(np.float32)


@pytest.mark.parametrize("similarity", ["centred", "z-scored"])
def test_a_space_is_what_numpy_says(index: Index, similarity: str) -> None:
    states, layer = queries(index), index.layers[1]
    vectors = index.vectors(layer).astype(np.float64)
    inside = vectors[index.contexts.column("position").to_numpy() > 0]
    scale = inside.std(0) if similarity == "z-scored" else 1.0
    moved = [(part - inside.mean(0)) / scale for part in (states / np.linalg.norm(states, axis=1)[:, None], vectors)]
    near, far = (part / np.linalg.norm(part, axis=1)[:, None] for part in moved)
    expected = near @ far.T
    expected[:, index.contexts.column("position").to_numpy() == 0] = -1
    rows, values, _ = search_rows(index, states, 5, [layer], similarity)
    np.testing.assert_allclose(values, -np.sort(-expected, axis=1)[:, :5], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), values, atol=1e-4)


@pytest.mark.parametrize("similarity", ["raw", "centred", "z-scored"])
def test_scale_changes_nothing_and_a_context_finds_itself(index: Index, similarity: str) -> None:
    states = queries(index)
    for part, other in zip(
        search_rows(index, states, 4, None, similarity),
        search_rows(index, 1e3 * states, 4, None, similarity),
        strict=True,
    ):
        np.testing.assert_allclose(part, other, atol=1e-5)
    layer = index.layers[0]
    inner = np.flatnonzero(index.contexts.column("position").to_numpy() > 0)[:1]
    own = search_rows(index, index.taken(layer, inner), 1, [layer], similarity)
    assert own[1][0, 0] == pytest.approx(1, abs=1e-4)


def test_the_spread_is_kept_beside_its_index(index: Index) -> None:
    found, again = spread(index), measure_spread(index)
    assert (index.path / "similarity.safetensors").exists()
    for layer in index.layers:
        np.testing.assert_allclose(found.mean[layer], again.mean[layer], atol=1e-6)


@pytest.mark.parametrize("similarity", ["centred", "z-scored"])
def test_first_tokens_are_no_neighbours_in_a_space(index: Index, similarity: str) -> None:
    first = index.contexts.column("position").to_numpy() == 0
    assert first.any()
    rows, values, _ = search_rows(index, queries(index), index.rows, index.layers[:1], similarity)
    assert np.isfinite(values[rows >= 0]).all() and not first[rows[rows >= 0]].any()
    assert ((rows >= 0).sum(1) == (~first).sum()).all()


def test_a_flipped_byte_in_the_statistics_is_noticed(index: Index) -> None:
    path = index.path / "similarity.safetensors"
    spread(index)
    if not path.exists():
        _store(index, measure_spread(index))
    whole = path.read_bytes()
    assert _stored(index) is not None
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert _stored(index) is None
    path.write_bytes(whole)


def test_csls_of_a_planted_hub(index: Index) -> None:
    """Two candidates of equal cosine: the one that the reference tokens point at loses."""
    layer = index.layers[2]
    hub, quiet = 5, 40
    vectors = index.taken(layer, np.array([hub, quiet]))
    reference = np.repeat(vectors[:1], 12, axis=0)
    found = corrected(
        index, reference, 2, np.array([[hub, quiet]]), np.array([[0.5, 0.5]], np.float32), np.full((1, 2), layer)
    )
    assert found[0].tolist() == [[quiet, hub]]
    density = [1.0, float(vectors[1] @ vectors[0])]  # of the hub, of the other
    np.testing.assert_allclose(found[1][0], [2 * 0.5 - 0.5 - density[1], 2 * 0.5 - 0.5 - density[0]], atol=1e-5)
    np.testing.assert_allclose(text_density(np.array([[3.0, 1.0, *[0.0] * 10]])), [0.4])


def test_a_states_own_group_is_no_reference(index: Index) -> None:
    layer = index.layers[0]
    vectors = index.taken(layer, np.array([0, 9]))
    rows, values, layers = np.array([[0], [0]]), np.ones((2, 1), np.float32), np.full((2, 1), layer)
    groups = (np.array([0, 1]), np.array([0, 1]))
    found = corrected(index, vectors, 1, rows, values, layers, groups=groups)[1][:, 0]
    cross = float(vectors[0] @ vectors[1])
    np.testing.assert_allclose(found, [2 - 1 - cross, 2 - 1 - 1], atol=1e-5)


def test_csls_without_a_reference_and_unknown_similarities_are_refused(index: Index) -> None:
    for similarity in ("csls", "euclid"):
        with pytest.raises(CapabilityMissing):
            search(index, queries(index), similarity=similarity)


@pytest.fixture(scope="module")
def reference(index: Index) -> Reference:
    """Three pictures of 30 tokens: at every layer a cloud of its own."""
    states = torch.randn(90, 5, index.width, generator=torch.Generator().manual_seed(1)) + 0.5
    return Reference(states, np.repeat(np.arange(3), 30).astype(np.int16), ("a", "b", "c"))


@pytest.fixture(scope="module")
def null(llama: LoadedModel, index: Index, reference: Reference) -> Null:
    return measure(llama, index, reference, layers=[0, 2])


def test_the_null_contains_random_queries(index: Index, reference: Reference, null: Null) -> None:
    like = reference.states[:, 2]
    plain, shaped = random_states(like, 400, 400, seed=7)
    assert torch.allclose(plain.norm(dim=1), like.norm(dim=1).mean())
    torch.testing.assert_close(shaped.mean(0), like.mean(0), atol=0.3, rtol=0)
    for kind, states in (("random", plain), ("shaped", shaped)):
        band = null.band("latent/raw", kind, 2)
        assert band is not None
        best = search_rows(index, states.numpy(), 1)[1][:, 0]
        inside = ((best >= band[0]) & (best <= band[1])).mean()
        assert 0.7 < inside <= 1 and clearing(best, band) < 0.2
    assert clearing(np.array([0.1, 0.3]), (0.0, 0.2)) == 0.5


def test_the_picture_in_view_is_no_other_picture(null: Null, reference: Reference) -> None:
    assert len(null.scores("logit", "pictures", 2)) == 90
    assert len(null.scores("logit", "pictures", 2, without="b")) == 60
    assert len(null.scores("logit", "pictures", 2, without="elsewhere")) == 90
    assert null.band("logit", "random", 1) is None and set(null.bands("embedding", 0)) == set(KINDS)
    assert len(reference.at(1, without="a")) == 60


def test_a_null_is_found_again_for_its_model_and_index_alone(
    llama: LoadedModel,
    index: Index,
    null: Null,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    assert find_null(llama, index) is None
    path = save_null(null)
    found = find_null(llama, index)
    assert found is not None and found.measured == null.measured and found.digests == null.digests
    for lens, kinds in null.best.items():
        for kind, values in kinds.items():
            np.testing.assert_allclose(found.best[lens][kind], values, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found.hubs["raw"].rows, null.hubs["raw"].rows)
    assert find_null(llama, None) is None
    assert find_null(dataclasses.replace(llama, fingerprint="another"), index) is None
    path.write_bytes(path.read_bytes()[:500])
    assert find_null(llama, index) is None


def test_hubs_are_counted(null: Null, index: Index) -> None:
    keys, places, counts = occurrences(np.array([4, 4, 7, 4]), np.array([1, 2, 1, 1]))
    assert (
        keys.tolist() == [[4, 1], [4, 2], [7, 1]] and places.tolist() == [0, 1, 2, 0] and counts.tolist() == [2, 1, 1]
    )
    report = hub_report(null, index, 2, without="a")
    assert report is not None and (report.patches, report.pictures, report.k) == (60, 2, 5)
    shares = hub_shares(null, 2, without="a")
    assert sum(shares.values()) == pytest.approx(5) and len(shares) == report.different
    for hub in report.hubs:
        assert shares[hub.context.row, hub.context.layer] == pytest.approx(hub.share)
    assert [hub.share for hub in report.hubs] == sorted((hub.share for hub in report.hubs), reverse=True)
    assert hub_report(null, index, 1) is None


def test_neighbours_fold_by_word_and_beginning() -> None:
    def one(word: str, sentence: str, value: float, layer: int, row: int, evidence: int = 1) -> Neighbour:
        start = sentence.index(word)
        end = start + len(word)
        return Neighbour(word, word, value, layer, sentence, start, end, end, row, 1, evidence)

    found = fold([
        one("frog", "a frog in the rain", 0.9, 16, 1, 3),
        one("cat", "a cat on a mat", 0.8, 16, 2),
        one("frog", "a frog in the rain", 0.7, 8, 1, 3),
        one("frog", "a frog at night", 0.6, 16, 4),
        one("Frog", "the Frog sings", 0.5, 16, 3),
    ])  # fmt: skip
    assert [(row.word, row.neighbours) for row in found] == [("frog", 4), ("cat", 1)]
    first, second = found[0].beginnings
    assert (first.layers, first.evidence, first.endings) == ((16, 8), 4, (" at night",))
    assert found[0].best.similarity == 0.9 and second.best.word == "Frog"


def test_endings_come_from_other_sentences_with_the_same_beginning(index: Index) -> None:
    (row,) = [r for r in contexts_of(index, "cat") if index.contexts.column("word")[int(r)].as_py() == "cat"][:1]
    layer = index.layers[0]
    found = search(index, index.taken(layer, np.array([row])), 1, [layer]).rows[0]
    ends = fold(found, index)[0].beginnings[0].endings
    assert ends and all(found[0].sentence[: found[0].seen] + end != found[0].sentence for end in ends)
    assert all(end.startswith(" ") for end in ends)


@pytest.mark.parametrize("similarity", ["raw", "centred", "z-scored"])
def test_a_word_lights_up_its_own_state(index: Index, similarity: str) -> None:
    row, layer = contexts_of(index, "river")[:1], index.layers[1]
    states = {at: index.taken(at, row)[None] for at in index.layers}
    patches = np.stack([queries(index), queries(index, 7)[::-1]])
    patches[1, 4] = 30 * states[layer][0, 0]
    best, at = scores(index, patches, states, similarity)
    assert best.shape == (1, 2, 7)
    assert best[0, 1, 4] == pytest.approx(1, abs=1e-4) and at[0, 1, 4] == layer
    assert np.unravel_index(best.argmax(), best.shape) == (0, 1, 4)


def test_words_and_phrases_in_the_index(index: Index) -> None:
    words, positions = index.contexts.column("word").to_pylist(), index.contexts.column("position").to_numpy()
    for phrase, last in (("DOG", "dog"), ("old dog", "dog"), ("white  bird", "bird")):
        rows = contexts_of(index, phrase)
        assert len(rows) and all(words[row].casefold() == last for row in rows) and (positions[rows] > 0).all()
    for phrase in ("young dog", "zebra"):
        with pytest.raises(QueryMissing):
            contexts_of(index, phrase)
    names, groups = other_words(index, "old dog", 1)
    assert not {"old", "dog"} & set(names) and all(len(group) == 1 for group in groups)
    assert other_words(index, "old dog", 1)[0] == names
