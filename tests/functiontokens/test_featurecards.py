"""The words that a feature promotes, and the features that are like it, against plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.backend.words import token_text
from lens.errors import FeaturesMismatch
from lens.functiontokens.build import build_graph
from lens.functiontokens.featurecards import directions, feature_card, feature_words, similar_features
from lens.functiontokens.features import open_features
from tests.functiontokens.planted_graph import SENTENCES, planted
from tests.helpers import tiny_gpt2, tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("cards"))


def test_words_are_those_of_the_unembedded_direction(model: LoadedModel):
    features = open_features(model, "neurons-2")
    found = feature_words(model, features, 5, k=6)
    direction, norm = features.direction(5), model.anatomy.final_norm.weight
    root = (direction.pow(2).mean() + model.anatomy.text_model.config.rms_norm_eps).sqrt()
    weight, state = model.anatomy.unembedding.weight, direction / root * norm
    common = weight.mean(0) / weight.mean(0).norm()
    logits = weight @ (state - (state @ common) * common)  # what rare words share is left out
    best, worst = logits.topk(6), (-logits).topk(6)
    assert [word for word, _ in found.promoted] == [token_text(model.tokenizer, int(i)) for i in best.indices]
    assert [word for word, _ in found.suppressed] == [token_text(model.tokenizer, int(i)) for i in worst.indices]
    assert [score for _, score in found.promoted] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert [score for _, score in found.suppressed] == pytest.approx((-worst.values).tolist(), rel=1e-4)


def test_a_feature_without_a_direction_says_nothing(model: LoadedModel):
    features = planted(model, {}, 40)  # its directions end with the width, 32
    assert feature_words(model, features, 39).promoted == ()
    assert similar_features(features, 39) == ()
    assert 39 not in {f for f, _ in similar_features(features, 0, k=40)}
    with pytest.raises(FeaturesMismatch):
        similar_features(features, 40)


@pytest.mark.parametrize("name", ["neurons-1", "neurons-3"])
def test_all_directions_are_those_of_each(model: LoadedModel, tmp_path: Path, name: str):
    for loaded in (model, tiny_gpt2(tmp_path)):  # GPT-2's projection has a bias
        features = open_features(loaded, name)
        rows = directions(features)
        assert rows.shape == (features.size, loaded.anatomy.width)
        for feature in (0, 7, features.size - 1):
            assert torch.allclose(rows[feature], features.direction(feature).cpu(), atol=1e-5)


def test_similar_features_have_the_highest_cosines(model: LoadedModel):
    features = open_features(model, "neurons-2")
    rows = directions(features)
    cosines = torch.nn.functional.cosine_similarity(rows, rows[[9]])
    cosines[9] = -2
    found = similar_features(features, 9, k=5)
    assert [f for f, _ in found] == cosines.topk(5).indices.tolist()
    assert [c for _, c in found] == pytest.approx(cosines.topk(5).values.tolist(), abs=1e-5)
    assert similar_features(features, 9, k=5, rows=rows) == found
    assert len(similar_features(features, 9, k=10**6)) == features.size - 1


def test_a_card_tells_the_groups_apart(model: LoadedModel, tmp_path: Path):
    corpus = Corpus("patterns", lambda: SENTENCES)
    graph = build_graph(model, corpus, [open_features(model, "neurons-2")], tmp_path / "g", permutations=1)["neurons-2"]
    function = graph.counts.function_ids()
    found = feature_card(graph, 3, function)
    member = graph.is_function(function)
    dense = graph.matrix.toarray()[:, 3]
    assert found.function_share == pytest.approx(dense[member].sum() / dense.sum())
    assert found.function_base == pytest.approx(graph.occurrences[member].sum() / graph.positions)
    assert found.rate == pytest.approx(dense.sum() / graph.positions)
    assert found.token_ids == tuple(graph.counts.ids[found.tokens.nodes]) and (dense > 0).sum() == len(found.tokens)
    assert found.function == tuple(np.isin(found.token_ids, function))
    assert max(abs(c.value) for c in found.contexts) == pytest.approx(found.largest, rel=1e-6)
    values = [abs(c.value) for c in found.contexts]
    assert values == sorted(values, reverse=True) and found.mean <= found.largest
