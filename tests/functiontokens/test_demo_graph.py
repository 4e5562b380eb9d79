"""The graph that is shipped with the project: whole, small, of the shipped autoencoders, and honest about its null."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.functiontokens.basis import FIRST
from lens.functiontokens.coverage import coverage, covered_features, rarefaction, reach_by_type
from lens.functiontokens.featurecards import feature_card
from lens.functiontokens.features import open_features
from lens.functiontokens.graph import FeatureGraph, graphs_for, open_graph
from lens.functiontokens.losses import corpus_losses
from lens.functiontokens.manifest import SENTENCES, read_manifest
from lens.functiontokens.nulls import expected_distinct
from lens.home import project_root

FOLDER = project_root() / "graphs" / "demo"
SHIPPED = project_root() / "lens" / "functiontokens" / "shipped"
NAMES = [record.name for record in read_manifest(FOLDER).bases]


@pytest.fixture(scope="module", params=NAMES)
def graph(request: pytest.FixtureRequest) -> FeatureGraph:
    return open_graph(FOLDER, request.param)


def test_it_is_small_and_its_text_may_be_shipped():
    manifest = read_manifest(FOLDER)
    assert sum(record.bytes for record in manifest.files.values()) <= 10_000_000
    assert manifest.corpus_licence == "MIT" and "McGill NLP" in (FOLDER / "LICENSE.txt").read_text(encoding="utf-8")
    assert {path.name for path in FOLDER.iterdir()} == {*manifest.files, "manifest.json", "LICENSE.txt"}


def test_its_features_are_those_of_the_shipped_autoencoders():
    shipped = {path.parent.name: json.loads(path.read_text()) for path in SHIPPED.glob("*/cfg.json")}
    for record in read_manifest(FOLDER).bases:
        assert (
            shipped[record.name]["metadata"]["layer"] == record.layer and shipped[record.name]["d_sae"] == record.size
        )
        assert shipped[record.name]["metadata"]["language_fingerprint"] == read_manifest(FOLDER).language_fingerprint


def test_the_facts_hold(graph: FeatureGraph):
    for n in (1, 5, 50):
        tokens, features = graph.degrees(n)
        assert tokens.sum() == features.sum() == graph.edges(n).nnz
        reached = covered_features(graph, n)
        assert (np.diff(reached) >= 0).all() and reached[-1] <= len(graph.active)
    assert (np.asarray(graph.matrix.sum(axis=0)) == graph.firings).all()
    assert graph.occurrences.sum() == graph.positions > 100_000
    assert graph.matrix.nnz > 100_000


def test_the_null_that_was_drawn_holds_its_exact_expectation(graph: FeatureGraph):
    found = coverage(graph, graph.counts.function_ids(), 1)
    reached = np.cumsum(graph.occurrences)[: len(found.share)]
    exact = expected_distinct(graph.firings, graph.positions, reached) / found.active
    assert found.mean is not None and np.abs(found.mean - exact).max() < 0.004
    assert graph.null.permutations == 39


def test_its_function_tokens_are_the_expected_words(graph: FeatureGraph):
    texts = {graph.counts.texts[graph.counts.rank(int(i))] for i in graph.counts.function_ids()}
    assert {" the", ".", ",", " of", " and", " to", " a"} <= texts and 20 <= len(texts) <= 80


def test_its_cards_have_contexts(graph: FeatureGraph):
    for feature in np.argsort(-graph.firings)[[0, 100, 1000]]:
        card = feature_card(graph, int(feature), graph.counts.function_ids())
        assert len(card.contexts) == 8 and card.histogram.sum() == card.firings
        assert all(context.sentence[context.start : context.end] for context in card.contexts)
        assert abs(card.contexts[0].value) == pytest.approx(card.largest, rel=1e-6)


def test_types_can_be_compared(graph: FeatureGraph):
    found = reach_by_type(graph, graph.counts.function_ids())
    assert found.function.sum() > 10 and (~found.function).sum() >= 20 and found.content_mean < found.shuffled


def test_frequency_explains_the_curve_and_equal_occurrence_turns_it_round(graph: FeatureGraph):
    """The trap: shuffled labels give the most frequent token even more features than it has; drawn equally often, function
    tokens together reach fewer than content tokens."""
    ids = graph.counts.function_ids()
    found, rarefied = coverage(graph, ids), rarefaction(graph, ids)
    assert found.low is not None and found.texts[0] == " the"
    assert found.share[0] < 0.9 * found.low[0] and found.low[0] > 0.89 and found.share[9] > 0.9
    many = (rarefied.sample >= 50) & (rarefied.content < 0.99)
    assert many.sum() > 5 and (rarefied.function < rarefied.content)[many].all()


@pytest.mark.model
def test_the_first_state_is_a_hundred_times_as_long_as_the_others(demo: LoadedModel):
    """Measured on this model: 25,139 against 168."""
    states = trace(demo, encode(demo, "What is the capital of Russia?"), ["hidden.15"]).hidden(15)
    norms = states.float().norm(dim=-1)
    assert norms[0] == pytest.approx(25_139, rel=0.01) and norms[FIRST:].mean() == pytest.approx(168, rel=0.05)
    assert norms[FIRST:].max() < 0.01 * norms[0]


@pytest.mark.model
def test_a_content_token_after_a_function_token_costs_most(demo: LoadedModel):
    """The order of the paper's four groups, on the sentences that the graph keeps."""
    graph = open_graph(FOLDER)
    texts = pq.read_table(FOLDER / SENTENCES).column("text").to_pylist()[::150]
    found = corpus_losses(demo, texts, graph.counts.function_ids().tolist())
    largest, second, *rest = (pair.loss for pair in found.pairs)
    assert largest is not None and second is not None and largest > second > max(loss or 0 for loss in rest)


@pytest.mark.model
def test_it_belongs_to_the_demo_model_and_its_autoencoders(demo: LoadedModel, graph: FeatureGraph):
    assert graphs_for(demo)["demo"] == FOLDER
    graph.check(open_features(demo, graph.features.name))
