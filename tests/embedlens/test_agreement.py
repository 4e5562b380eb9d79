"""Neighbouring rules against hand computations: bounds, sums, orders, correlations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lens.backend.attention import attention_received
from lens.backend.encoding import Encoded, encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.embedlens import agreement as rules_of
from lens.embedlens.agreement import RANKINGS, Rules, Thresholds, phi, rules, transition, transprune
from tests.embedlens.planted import PROMPT, Planted, picture_of_noise


@pytest.fixture(scope="module")
def encoded(llava: LoadedModel) -> Encoded:
    return encode(llava, PROMPT, picture_of_noise(0))


@pytest.fixture(scope="module")
def held(llava: LoadedModel, encoded: Encoded) -> Trace:
    return trace(llava, encoded, rules_of.sites(llava))


@pytest.fixture(scope="module")
def received(llava: LoadedModel, encoded: Encoded) -> np.ndarray:
    return attention_received(llava, encoded)


@pytest.fixture(scope="module")
def found(llava: LoadedModel, held: Trace, received: np.ndarray) -> Rules:
    return rules(llava, held, received)


def with_states(held: Trace, change) -> Trace:
    """The trace with its layers changed by ``change(layer, states)``."""
    layers = {f"hidden.{i}": change(i, held.hidden(i).clone()) for i in range(held.depth + 1)}
    return replace(held, states={**held.states, **layers})


def test_fact_5_phi_is_at_most_the_root_of_the_width():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(50, 32, generator=generator) ** 3
    assert (phi(states, tuple(range(32))) <= 32**0.5 + 1e-4).all()
    one = torch.zeros(1, 32)
    one[0, 7] = -3
    assert float(phi(one, (7,))) == pytest.approx(32**0.5)
    assert float(phi(one, (6,))) == 0
    assert float(phi(torch.tensor([[3.0, 4.0]]), (0,))) == pytest.approx(3 / 12.5**0.5)


def test_sink_dimensions_are_found_where_they_were_put(llava: LoadedModel, held: Trace, received: np.ndarray):
    def loud(layer: int, states: torch.Tensor) -> torch.Tensor:
        if layer >= 2:
            states[0, 11] = 1e6
            states[held.token_map.visual_positions[5], 11] = 1e6
        return states

    made = rules(llava, with_states(held, loud), received)
    assert made.sink_dims == (11,) and made.tau == pytest.approx(20 * (32 / 4096) ** 0.5)
    expected = np.zeros(36, bool)
    expected[5] = True
    assert np.array_equal(made.marks["phi"].reshape(-1) & (made.scores["phi"].reshape(-1) > 5), expected)
    assert np.array_equal(made.marks["massive"].reshape(-1), expected)


def test_what_a_model_has_none_of_is_said(llava: LoadedModel, held: Trace):
    flat = with_states(held, lambda layer, states: torch.ones_like(states))
    made = rules(llava, flat, None)
    assert "phi" in made.missing and "phi" not in made.marks and "phi" not in made.scores
    assert set(made.missing) == {"phi", "transprune", "idpruner", "attention"}
    assert not made.marks["massive"].any()


def test_massive_needs_both_thresholds(llava: LoadedModel, held: Trace, received: np.ndarray):
    spot = held.token_map.visual_positions[3]

    def one(layer: int, states: torch.Tensor) -> torch.Tensor:
        states = states.clamp(-1e-3, 1e-3)
        if layer == 2:
            states[spot, 4] = -150
        return states

    changed = with_states(held, one)
    made = rules(llava, changed, received)
    assert made.marks["massive"].reshape(-1).nonzero()[0].tolist() == [3]
    assert made.scores["massive"].reshape(-1)[3] == 150
    assert not rules(llava, changed, received, Thresholds(massive=151)).marks["massive"].any()
    assert not rules(llava, changed, received, Thresholds(massive_ratio=1e9)).marks["massive"].any()


def test_vision_norms_mark_the_planted_patches(planted: Planted):
    encoded = encode(planted.loaded, PROMPT, picture_of_noise(1))
    held = trace(planted.loaded, encoded, rules_of.sites(planted.loaded))
    marked = rules(planted.loaded, held, None).marks["vision_norm"].reshape(-1)
    assert marked.nonzero()[0].tolist() == list(planted.cells["seen"])


def test_ima_is_the_cosine_of_the_means(held: Trace, found: Rules):
    text = [i for i, kind in enumerate(held.token_map.kinds) if kind == "text"]
    for layer in (0, 3):
        states = held.hidden(layer).double().numpy()
        a, b = states[held.token_map.visual_positions].mean(0), states[text].mean(0)
        assert found.ima[layer] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    token = held.hidden(0)[held.token_map.visual_positions[7]].double().numpy()
    centre = held.hidden(0)[text].double().mean(0).numpy()
    expected = token @ centre / np.linalg.norm(token) / np.linalg.norm(centre)
    assert found.scores["ima"].reshape(-1)[7] == pytest.approx(expected, abs=1e-5)


def test_fact_6_both_terms_of_transprune_sum_to_1(held: Trace, received: np.ndarray, found: Rules):
    moved, attended = transprune(held, received)
    assert moved.sum() == pytest.approx(1) and attended.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.scores["transprune"].reshape(-1), moved + attended)
    blocks = rules_of.transition_blocks(held.depth)
    assert list(blocks) == [1, 2] and list(rules_of.transition_blocks(32)) == [7, 8, 9, 10, 11, 12]
    np.testing.assert_allclose(attended, received[2] / received[2].sum(), rtol=1e-5)
    by_hand = np.zeros(36)
    for block in blocks:
        for part in ("attention", "mlp"):
            before, after = (held.site(f"{s}.{block}").double().numpy() for s in (f"{part}_in", part))
            lengths = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
            turned = np.exp(1 - (before * after).sum(1) / lengths[0] / lengths[1])
            by_hand += (lengths[1] / lengths[0] * turned / turned.sum())[held.token_map.visual_positions]
    np.testing.assert_allclose(moved, by_hand / by_hand.sum(), rtol=1e-6)


def test_a_transition_by_hand():
    before, after = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    weights = transition(before, after)
    total = 1 + np.e
    np.testing.assert_allclose(weights, [3 * 1 / total, 2 * np.e / total])


def test_idpruner_picks_importance_then_difference():
    states = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [-1.0, 0.0]])
    importance = np.array([10.0, 9.0, 5.0, 0.0])
    assert rules_of.idpruner(importance, states).argsort()[::-1].tolist() == [0, 3, 2, 1]
    assert rules_of.idpruner(importance, states, trade=1.0).argsort()[::-1].tolist() == [0, 1, 2, 3]
    assert sorted(rules_of.idpruner(np.ones(4), states)) == [1, 2, 3, 4]


def test_every_ranking_keeps_as_many(found: Rules):
    kept = rules_of.keep_sets({n: s for n, s in found.scores.items() if n in RANKINGS}, 0.25)
    assert set(kept) == set(RANKINGS) and all(k.sum() == 9 and k.shape == (6, 6) for k in kept.values())
    best = np.sort(found.scores["attention"].reshape(-1))[-9:]
    assert np.array_equal(np.sort(found.scores["attention"][kept["attention"]]), best)
    whole = rules_of.keep_sets(found.scores, 1.0)
    assert all(k.all() for k in whole.values())
    for budget in (0, 1.1):
        with pytest.raises(ValueError, match="budget"):
            rules_of.keep_sets(found.scores, budget)


def test_embedlens_keeps_alive_before_dead_before_sink():
    labels = np.array([["sink", "dead", "alive"], ["alive", "sink", "dead"]])
    margin = np.array([[0.4, 0.1, -0.1], [-0.6, 0.9, 0.2]])
    order = (-rules_of.embedlens_worth(labels, margin)).reshape(-1).argsort().tolist()
    assert order == [3, 2, 1, 5, 0, 4]
    nothing = rules_of.embedlens_worth(np.full((1, 2), "alive"), np.full((1, 2), np.nan))
    assert np.isfinite(nothing).all()


def test_the_agreement_is_the_correlation_of_two_yes_no_variables():
    a = np.array([[1, 1, 0, 0]], bool)
    b = np.array([[1, 0, 1, 0]], bool)
    c = np.array([[1, 1, 1, 0]], bool)
    names, matrix = rules_of.agreement({"a": a, "not a": ~a, "b": b, "c": c, "none": a & ~a})
    assert names == ("a", "not a", "b", "c", "none")
    assert matrix[0, :3].tolist() == pytest.approx([1, -1, 0])
    # both 2, a alone 0, c alone 1, neither 1: (2 * 1 - 0 * 1) / sqrt(2 * 2 * 3 * 1)
    assert matrix[0, 3] == pytest.approx(2 / 12**0.5)
    assert np.isnan(matrix[4]).all() and np.allclose(matrix[:4, :4], matrix[:4, :4].T)


def test_the_sets_compared(found: Rules):
    labels = np.full((6, 6), "alive")
    labels[0] = "dead"
    chosen = rules_of.sets(found, labels, np.zeros((6, 6)), 0.5)
    assert {"sink", "dead", "alive", "massive", "keep:embedlens", "keep:random"} <= set(chosen)
    assert all(flags.shape == (6, 6) and flags.dtype == bool for flags in chosen.values())
    _, matrix = rules_of.agreement(chosen)
    names = list(chosen)
    assert matrix[names.index("dead"), names.index("alive")] == pytest.approx(-1)
    assert np.isnan(matrix[names.index("sink")]).all(), "an empty class agrees with nothing"
