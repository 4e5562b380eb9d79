"""Steering: nothing added changes nothing, earlier positions never change, controls are matched and seeded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import answer_logprob, generate, next_token_logprobs
from lens.backend.encoding import Encoded, encode
from lens.backend.hooks import Hook, attached
from lens.backend.loading import LoadedModel
from lens.backend.readouts import promoted_words
from lens.backend.tracing import hidden_sites, trace
from lens.backend.words import token_text
from lens.errors import Cancelled, CapabilityMissing, ControlsImpossible, FeaturesMismatch, PromptUnusable
from lens.functiontokens.features import SaeFeatures, open_features
from lens.functiontokens.steering import (
    OTHERS,
    RANDOM,
    last_function_token,
    other_features,
    promoted,
    pushing,
    random_vectors,
    steer,
    suppressing,
    vector_of,
)
from tests.functiontokens.bases import random_sae
from tests.helpers import tiny_gpt2, tiny_llama

PROMPT = "A bowl of green apples on a wooden table."
AT = 6


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    make = {"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param]
    return make(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def basis(model: LoadedModel) -> SaeFeatures:
    return random_sae(model)


@pytest.fixture(scope="module")
def encoded(model: LoadedModel) -> Encoded:
    return encode(model, PROMPT)


def all_states(model: LoadedModel, encoded: Encoded) -> dict[str, torch.Tensor]:
    return trace(model, encoded, [*hidden_sites(model.anatomy.depth), "logits"]).states


def test_fact_3_alpha_0_reproduces_the_logits_bit_for_bit(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    before = all_states(model, encoded)
    with pushing(model, basis.layer, [AT], vector_of(basis, [(3, 0.0), (8, 0.0)])):
        after = all_states(model, encoded)
    assert all(torch.equal(before[site], after[site]) for site in before)
    result = steer(model, encoded, basis, [(3, 0.0)], [AT])
    assert result.treated == result.base and result.watched_before == result.watched_after
    assert result.gains == result.losses == result.controls == () and "nothing changes" in result.note
    assert len(result.watched) == 10


def test_fact_3_earlier_positions_are_bit_identical(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    before = all_states(model, encoded)
    with pushing(model, basis.layer, [AT], vector_of(basis, [(3, 50.0)])):
        after = all_states(model, encoded)
    for site in before:
        assert torch.equal(before[site][:AT], after[site][:AT])
    assert not torch.equal(before["logits"][AT:], after["logits"][AT:])


def test_the_state_moves_by_exactly_what_is_said(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    pushes = [(3, 5.0), (8, -2.0)]
    before = trace(model, encoded, [f"hidden.{basis.layer}"]).hidden(basis.layer)
    with pushing(model, basis.layer, [AT], vector_of(basis, pushes)):
        after = trace(model, encoded, [f"hidden.{basis.layer}"]).hidden(basis.layer)
    added = 5 * basis.direction(3) - 2 * basis.direction(8)
    torch.testing.assert_close(after[AT] - before[AT], added)
    result = steer(model, encoded, basis, pushes, [AT], controls=0)
    assert result.norm == pytest.approx(float(added.norm()))
    assert result.state_norm == pytest.approx(float(before[AT].norm()), rel=1e-5)
    values = basis.encode(before[AT][None])[0]
    assert [(p.feature, p.alpha) for p in result.pushes] == pushes
    assert [p.before for p in result.pushes] == pytest.approx([float(values[3]), float(values[8])])


def test_every_number_agrees_with_a_hand_made_run(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    result = steer(model, encoded, basis, [(3, 30.0)], [AT], controls=3, max_new_tokens=6)
    answer, base = generate(model, encoded, 6), next_token_logprobs(model, encoded).double()
    with interventions.add(model, basis.layer, [AT], 30 * basis.direction(3)):
        said, logprob = generate(model, encoded, 6), answer_logprob(model, encoded, answer)
        treated = next_token_logprobs(model, encoded).double()
    assert (result.base.answer, result.treated.answer) == (answer.text, said.text)
    assert result.treated.logprob == logprob
    assert result.treated.kl == pytest.approx(float((base.exp() * (base - treated)).sum()), rel=1e-3, abs=5e-7)
    change = treated.exp() - base.exp()
    best, worst = result.gains[0], result.losses[0]
    assert best.id == int(change.argmax()) and best.after - best.before == pytest.approx(
        float(change.max()), rel=1e-3, abs=1e-8
    )
    assert worst.id == int(change.argmin()) and worst.token == token_text(model.tokenizer, worst.id)
    ids = promoted(model, basis, [(3, 30.0)])
    assert result.watched == tuple(token_text(model.tokenizer, i) for i in ids) and result.promoted
    assert result.watched_after == pytest.approx(float(treated[ids].logsumexp(0)), abs=1e-4)
    for control in result.controls:
        assert control.kl.shape == (3,) and (control.kl > 0).all()
        expected = (1 + (control.kl >= result.treated.kl).sum()) / 4
        assert control.p_kl == pytest.approx(expected)


def test_promoted_words_are_those_of_the_sum(model: LoadedModel, basis: SaeFeatures):
    vector = 2 * basis.direction(4) - basis.direction(9)
    expected = promoted_words(model, vector[None], basis.layer, 10).ids[0].tolist()
    assert promoted(model, basis, [(4, 2.0), (9, -1.0)]) == expected
    assert promoted(model, basis, [(4, -2.0), (9, 1.0)]) != expected
    assert promoted(model, basis, [(4, 0.0)]) == promoted(model, basis, [(4, 1.0)])


def test_controls_have_the_norm_of_the_push_and_are_seeded(basis: SaeFeatures):
    pushes = [(3, 5.0), (8, -2.0)]
    vector = vector_of(basis, pushes)
    drawn = random_vectors(vector, 20, seed=4)
    assert len(drawn) == 20 and all(float(v.norm()) == pytest.approx(float(vector.norm()), rel=1e-5) for v in drawn)
    assert torch.equal(torch.stack(drawn), torch.stack(random_vectors(vector, 20, seed=4)))
    assert not torch.equal(drawn[0], random_vectors(vector, 20, seed=5)[0])
    sets, vectors = other_features(basis, pushes, 20, seed=4)
    assert sets.shape == (20, 2) and not np.isin(sets, [3, 8]).any()
    for features, found in zip(sets.tolist(), vectors, strict=True):
        plain = 5 * basis.direction(features[0]) - 2 * basis.direction(features[1])
        torch.testing.assert_close(found, plain / plain.norm() * vector.norm())
    pooled, _ = other_features(basis, pushes, 20, seed=4, pool=[3, 8, 10, 11, 12])
    assert set(pooled.reshape(-1).tolist()) == {10, 11, 12}
    with pytest.raises(ControlsImpossible):
        other_features(basis, pushes, 20, seed=4, pool=[3, 8, 10])


def test_both_controls_come_with_the_result_and_cost_one_forward_each(model, basis: SaeFeatures, encoded: Encoded):
    answer = generate(model, encoded, 3)
    calls: list[int] = []
    with attached([Hook(model.anatomy.text_model, "before", lambda *_: calls.append(1))]):
        steer(model, encoded, basis, [(3, 9.0)], [AT], controls=0, answer=answer, max_new_tokens=3)
        alone = len(calls)
        result = steer(model, encoded, basis, [(3, 9.0)], [AT], controls=5, answer=answer, max_new_tokens=3)
    assert len(calls) - 2 * alone == 10
    assert [control.kind for control in result.controls] == [RANDOM, OTHERS]
    assert result.controls[0].features is None and result.controls[1].features.shape == (5, 1)
    again = steer(model, encoded, basis, [(3, 9.0)], [AT], controls=5, answer=answer, max_new_tokens=3)
    assert json.dumps(again.as_json(), allow_nan=False) == json.dumps(result.as_json(), allow_nan=False)


def test_suppressing_takes_the_features_out(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    state = trace(model, encoded, [basis.site]).site(basis.site)[AT]
    values = basis.encode(state[None])[0]
    chosen = values.nonzero()[:, 0].tolist()[:2]
    pushes = suppressing(model, encoded, basis, chosen, AT)
    assert pushes == tuple((f, -float(values[f])) for f in chosen)
    kept = values.clone()
    kept[chosen] = 0
    error = state - basis.decode(values[None])[0]
    torch.testing.assert_close(state + vector_of(basis, pushes), basis.decode(kept[None])[0] + error)


def test_neurons_are_steered_as_their_activation_would(tmp_path: Path):
    """Adding alpha times a neuron's direction after its block is what raising its activation by alpha does."""
    llama = tiny_llama(tmp_path)
    encoded, basis = encode(llama, PROMPT), open_features(llama, "neurons-2")

    def raised(module, args, kwargs):
        states = args[0].clone()
        states[:, AT, 7] += 1.5
        return (states, *args[1:]), kwargs

    with attached([Hook(llama.anatomy.down_projections[1], "before", raised)]):
        expected = next_token_logprobs(llama, encoded)
    with pushing(llama, basis.layer, [AT], vector_of(basis, [(7, 1.5)])):
        torch.testing.assert_close(next_token_logprobs(llama, encoded), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(CapabilityMissing, match="earlier block"):
        steer(llama, encoded, open_features(llama, "neurons-4"), [(0, 1.0)], [AT])


def test_the_last_function_token(model: LoadedModel, encoded: Encoded):
    ids = encoded.token_map.ids
    assert last_function_token(encoded.token_map, [ids[2], ids[4]]) == 4
    with pytest.raises(PromptUnusable, match="function tokens"):
        last_function_token(encoded.token_map, [])


def test_several_positions_and_watched_words(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    result = steer(model, encoded, basis, [(3, 9.0)], [AT, 2, AT], watch=[5, 5, 6], controls=0)
    assert result.positions == (2, AT) and not result.promoted
    assert result.tokens == tuple(encoded.token_map.texts[p] for p in (2, AT))
    base = next_token_logprobs(model, encoded).double()
    assert result.watched_before == pytest.approx(float(base[[5, 6]].logsumexp(0)), abs=1e-5)
    with interventions.add(model, basis.layer, [2, AT], 9 * basis.direction(3)):
        assert result.treated.answer == generate(model, encoded).text


def test_what_cannot_be_steered(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    for positions in ([], [-1], [len(encoded.token_map)]):
        with pytest.raises(PromptUnusable, match="choose"):
            steer(model, encoded, basis, [(3, 1.0)], positions)
    with pytest.raises(FeaturesMismatch):
        steer(model, encoded, basis, [(basis.size, 1.0)], [AT])


def test_cancelling_leaves_the_model_as_it_was(model: LoadedModel, basis: SaeFeatures, encoded: Encoded):
    before = next_token_logprobs(model, encoded)
    seen: list[float] = []

    def report(done: float, total: float, message: str) -> None:
        seen.append(done / total)
        if done >= 3:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        steer(model, encoded, basis, [(3, 9.0)], [AT], controls=4, report=report)
    assert seen == [0, 0.1, 0.2, 0.3]
    assert torch.equal(next_token_logprobs(model, encoded), before)
