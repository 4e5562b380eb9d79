"""The null keeps what it must and explains what it should; closed forms against brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from scipy.stats import hypergeom

from lens.backend.corpus import Corpus
from lens.backend.loading import LoadedModel
from lens.functiontokens.build import build_graph
from lens.functiontokens.coverage import (
    as_json,
    coverage,
    covered_features,
    degree_plot,
    group_firings,
    rarefaction,
    reach_by_type,
)
from lens.functiontokens.firings import Shards
from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.nulls import (
    MIN_FIRINGS,
    covered,
    expected_degree,
    expected_distinct,
    missed,
    permuted_coverage,
    shuffle_into,
    tail,
)
from lens.progress import silent
from tests.functiontokens.planted_graph import SENTENCES, Planted, noise, planted
from tests.helpers import tiny_llama

TYPES, SIZE = 12, 30


@dataclass(frozen=True)
class Made:
    """Random firings at random positions, in three shards."""

    shards: Shards
    occurrences: np.ndarray
    firings: np.ndarray
    together: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, TYPES + 1)
    occurrences, firings, together = (
        np.zeros(TYPES, np.int64),
        np.zeros(SIZE, np.int64),
        np.zeros((SIZE, SIZE), np.int64),
    )
    for number in range(3):
        rank = np.sort(generator.choice(TYPES, 60 + number, p=weights / weights.sum()))
        fired = generator.random((len(rank), SIZE)) < np.linspace(0.01, 0.5, SIZE)
        _, feature = np.nonzero(fired)
        starts = np.concatenate([[0], np.cumsum(fired.sum(1))])
        arrays = {"rank": rank.astype(np.int32), "starts.0": starts, "features.0": feature.astype(np.uint16)}
        (folder / f"{number}.safetensors").write_bytes(save(arrays))
        occurrences += np.bincount(rank, minlength=TYPES)
        firings += fired.sum(0)
        together += fired.T.astype(np.int64) @ fired
    return Made(Shards(sorted(folder.iterdir())), occurrences, firings, together)


def shuffled(made: Made, seed: int) -> np.ndarray:
    counts = np.zeros((TYPES, SIZE), np.int32)
    shuffle_into(counts, made.shards, 0, np.append(made.occurrences, 0), np.random.default_rng(seed))
    return counts


def test_a_shuffle_keeps_the_marginals_exactly(made: Made):
    for seed in range(20):
        assert (shuffled(made, seed).sum(0) == made.firings).all()


def test_a_shuffle_moves_labels_over_all_shards_alike(made: Made):
    """The mean of many shuffles is the product of the margins: every label can come to every position."""
    many = np.mean([shuffled(made, seed) for seed in range(600)], axis=0)
    expected = np.outer(made.occurrences, made.firings) / made.occurrences.sum()
    spread = np.sqrt(np.maximum(expected, 0.05) / 600)
    assert (np.abs(many - expected) < 5 * spread).all()


def test_labels_left_out_of_the_curve_take_their_positions(made: Made):
    """Following only the first ranks draws from the same law as following all."""
    labels = np.append(made.occurrences[:4], made.occurrences[4:].sum())
    few = np.zeros((600, 4, SIZE))
    for seed in range(600):
        counts = np.zeros((4, SIZE), np.int32)
        shuffle_into(counts, made.shards, 0, labels, np.random.default_rng(seed))
        few[seed] = counts
    expected = np.outer(made.occurrences[:4], made.firings) / made.occurrences.sum()
    assert (np.abs(few.mean(0) - expected) < 5 * np.sqrt(np.maximum(expected, 0.05) / 600)).all()


def test_the_band_holds_the_exact_expectation(made: Made):
    null = permuted_coverage(made.shards, 0, SIZE, made.occurrences, 400, 0, silent)
    exact = expected_distinct(made.firings, int(made.occurrences.sum()), np.cumsum(made.occurrences))
    assert np.abs(null.mean[0] - exact).max() < 0.35
    assert (null.low[0] <= exact + 1).all() and (exact <= null.high[0] + 1).all()
    assert (np.diff(null.low, axis=1) >= 0).all() and (np.diff(null.mean, axis=0) <= 1e-9).all()
    again = permuted_coverage(made.shards, 0, SIZE, made.occurrences, 400, 0, silent)
    assert (again.low == null.low).all() and (again.mean == null.mean).all(), "seeded"


def test_covered_counts_the_first_token_of_each_feature():
    counts = np.array([[3, 0, 1, 0], [1, 2, 0, 0], [9, 9, 9, 0]])
    assert covered(counts, 1).tolist() == [2, 3, 3]
    assert covered(counts, 2).tolist() == [1, 2, 3]
    assert covered(counts, 3).tolist() == [1, 1, 3]
    assert covered(counts, 10).tolist() == [0, 0, 0]


@pytest.mark.parametrize("positions", [1, 7, 40])
def test_missing_is_the_ratio_of_binomials(positions: int):
    for x in range(positions + 1):
        for q in range(positions + 1):
            wanted = math.comb(positions - x, q) / math.comb(positions, q)
            assert missed(np.array(x), positions, q) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 30, 250])
def test_the_tail_is_the_hypergeometric_one(n: int):
    for positions in (3, 40, 5000, 200_000):
        places = np.unique(np.geomspace(1, positions, 25).round())
        wanted = hypergeom.sf(n - 1, positions, places[:, None], places[None, :])
        assert tail(places[:, None], positions, places[None, :], n) == pytest.approx(wanted, abs=1e-6)


def test_the_expected_degree_is_the_mean_over_shuffles(made: Made):
    shuffles = np.stack([shuffled(made, seed) for seed in range(500)])
    for n in (1, 2, 5):
        exact = expected_degree(made.firings, int(made.occurrences.sum()), made.occurrences, n)
        assert np.abs((shuffles >= n).sum(2).mean(0) - exact).max() < 0.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("nulls"))


def built(model: LoadedModel, basis, folder: Path, permutations: int = 39) -> FeatureGraph:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(folder / "home"))
        corpus = Corpus("patterns", lambda: SENTENCES * 4)
        return build_graph(model, corpus, [basis], folder / "g", permutations=permutations)[basis.name]


@pytest.fixture(scope="module")
def by_chance(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> FeatureGraph:
    return built(model, noise(), tmp_path_factory.mktemp("chance"))


@pytest.fixture(scope="module")
def structured(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> FeatureGraph:
    """Ten features that belong to the most frequent token, and two to each other one."""
    ids = sorted({i for text in SENTENCES for i in model.tokenizer(text)["input_ids"][2:]})
    texts = [i for text in SENTENCES for i in model.tokenizer(text)["input_ids"][2:]]
    ids.sort(key=lambda i: -texts.count(i))
    owners = {feature: (ids[max(0, feature // 2 - 4)],) for feature in range(2 * len(ids) + 8)}
    basis: Planted = planted(model, owners, len(owners), "structured")
    return built(model, basis, tmp_path_factory.mktemp("structured"))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_without_structure_the_null_holds_the_curve(by_chance: FeatureGraph, n: int):
    """A band of 39 shuffles misses one rank in twenty by chance, and neighbouring ranks go together."""
    found = coverage(by_chance, by_chance.counts.function_ids(), n)
    assert found.outside is not None and found.outside.mean() <= 0.2
    assert found.share[-1] > 0.1, "the curve is not trivially empty"


def test_structure_leaves_the_band(structured: FeatureGraph):
    """Features that keep to one token are reached later than chance would."""
    found = coverage(structured, structured.counts.function_ids(), 1)
    assert found.outside is not None and found.low is not None
    middle = slice(1, len(found.share) // 2)
    assert (found.share[middle] < found.low[middle]).all()


def test_coverage_grows_to_at_most_everything(by_chance: FeatureGraph, structured: FeatureGraph):
    for graph in (by_chance, structured):
        for n in MIN_FIRINGS:
            found = coverage(graph, graph.counts.function_ids(), n)
            assert (np.diff(found.share) >= 0).all() and found.share[-1] <= 1 and found.share[0] >= 0
            dense = graph.edges(n).toarray() >= max(n, 1)
            plain = [dense[: k + 1].any(0).sum() for k in range(len(dense))]
            assert covered_features(graph, n).tolist() == plain
        assert coverage(graph, np.zeros(0), 1).share[-1] == 1, "every active feature has an edge"
        assert coverage(graph, np.zeros(0), 4).low is None, "no null was drawn for this n"


def test_the_exact_expectation_lies_in_the_drawn_band(by_chance: FeatureGraph, structured: FeatureGraph):
    for graph in (by_chance, structured):
        found = coverage(graph, np.zeros(0), 1)
        exact = expected_distinct(graph.firings, graph.positions, np.cumsum(graph.occurrences)) / found.active
        assert found.mean is not None and np.abs(found.mean - exact).max() < 0.02


def test_groups_share_the_marginals(structured: FeatureGraph):
    member = structured.is_function(structured.counts.function_ids(0.3))
    firings = group_firings(structured, member)
    assert (firings.sum(0) == structured.firings).all()
    dense = structured.matrix.toarray()
    assert (firings[0] == dense[member].sum(0)).all()


def test_rarefaction_tells_groups_apart_only_where_they_differ(by_chance: FeatureGraph, structured: FeatureGraph):
    chance = rarefaction(by_chance, by_chance.counts.function_ids())
    assert (
        np.abs(chance.function - chance.shuffled).max() < 0.05 and np.abs(chance.content - chance.shuffled).max() < 0.05
    )
    found = rarefaction(structured, structured.counts.function_ids())
    assert found.content[-1] > found.function[-1] + 0.2
    for curve in (found.function, found.content, found.shuffled):
        assert (np.diff(curve) >= -1e-9).all() and curve[-1] <= 1 + 1e-9
    assert found.sample[-1] <= structured.positions / 2
    assert len(rarefaction(structured, np.zeros(0)).sample) == 0, "without function tokens there is nothing to compare"


def test_rarefaction_at_a_groups_whole_size_is_its_reach(structured: FeatureGraph):
    ids = structured.counts.function_ids(0.3)
    member = structured.is_function(ids)
    found = rarefaction(structured, ids)
    smaller = member if structured.occurrences[member].sum() <= structured.occurrences[~member].sum() else ~member
    reach = structured.matrix.toarray()[smaller].any(0).sum() / len(structured.active)
    curve = found.function if smaller is member else found.content
    assert curve[-1] == pytest.approx(reach)


def test_types_are_compared_at_equal_occurrence(structured: FeatureGraph):
    found = reach_by_type(structured, structured.counts.function_ids(0.3), sample=12)
    assert (found.distinct > 0).all() and len(found.ids) == (structured.occurrences >= 12).sum()
    assert found.distinct == pytest.approx(np.diff(structured.matrix.indptr)[structured.occurrences >= 12]), (
        "these features fire on every occurrence"
    )
    assert found.function_interval[0] <= found.function_mean <= found.function_interval[1]
    assert found.content_mean == pytest.approx(2) and found.shuffled > found.content_mean
    none = reach_by_type(structured, structured.counts.function_ids(0.3), sample=10**6)
    assert math.isnan(none.function_mean) and len(none.ids) == 0


def test_the_degree_plot_carries_its_null(by_chance: FeatureGraph):
    found = degree_plot(by_chance, by_chance.counts.function_ids(), 1)
    expected = np.interp(found.occurrences, found.at, found.expected)
    assert np.corrcoef(found.degree, expected)[0, 1] > 0.97 and (found.weight >= found.degree).all()
    assert len(found.texts) == len(found.ids) == len(found.degree)


def test_json_has_the_form_of_the_issue(structured: FeatureGraph):
    content = as_json(structured, coverage(structured, structured.counts.function_ids(), 1))
    assert set(content) == {"model", "features", "layer", "tokens", "coverage", "null", "edges"}
    assert set(content["tokens"][0]) == {"token", "count", "group", "degree"}
    assert len(content["tokens"]) == len(content["coverage"]) == len(content["null"]) == len(structured.counts)
    assert all(low <= high for low, high in content["null"])
    assert sum(token["degree"] for token in content["tokens"]) == content["edges"]
    assert content["tokens"][0]["group"] == "function" and content["tokens"][-1]["group"] == "content"
