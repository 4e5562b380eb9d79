"""The layer scan and the search for the smallest k: what they report is what a run by hand gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import answer_logprob, generate
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.errors import CapabilityMissing, PromptUnusable
from lens.functiontokens.features import SaeFeatures, open_features
from lens.functiontokens.search import Added, Trait, _least, contributions, layer_scan, minimal_k, spaced_layers
from lens.functiontokens.steering import vector_of
from tests.functiontokens.bases import random_sae
from tests.helpers import tiny_llama

TRAIT, PLAIN = "Two dogs run over wet sand.", ("A cat sat on the red mat.", "She reads an old book.")
ALPHA = 40.0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def basis(llama: LoadedModel) -> SaeFeatures:
    return random_sae(llama, layer=3, k=9)


def trait_of(llama: LoadedModel, words: tuple[str, ...] = ("nothing like it",), added: Added = "state") -> Trait:
    """The function token is the full stop that ends each prompt."""
    stop = llama.tokenizer(".")["input_ids"]
    return Trait(llama, encode(llama, TRAIT), [encode(llama, p) for p in PLAIN], words, stop, added, max_new_tokens=5)


def last_states(llama: LoadedModel, layer: int) -> torch.Tensor:
    """Of the trait prompt and of the plain ones, [3, d]."""
    site = f"hidden.{layer}"
    return torch.stack([trace(llama, encode(llama, p), [site]).site(site)[-1] for p in (TRAIT, *PLAIN)])


def answers_with(llama: LoadedModel, layer: int, vector: torch.Tensor) -> list[str]:
    found = []
    for prompt in PLAIN:
        encoded = encode(llama, prompt)
        with interventions.add(llama, layer, [len(encoded.token_map) - 1], vector):
            found.append(generate(llama, encoded, 5).text)
    return found


def test_what_shows_a_trait(llama: LoadedModel):
    trait = trait_of(llama, ("Paris", "北京", "l'eau", " "))
    assert trait.words == ("Paris", "北京", "l'eau")
    for answer in ("It is paris.", "我在北京住", "De l'eau!"):
        assert trait.shows(answer)
    for answer in ("A comparison of Parisians", "", "eau"):
        assert not trait.shows(answer)


def test_the_scan_adds_the_state_of_the_trait_prompt(llama: LoadedModel):
    encoded = encode(llama, TRAIT)
    held = trace(llama, encoded, ["hidden.1", "hidden.3"])
    expected = {layer: answers_with(llama, layer, 2 * held.hidden(layer)[-1]) for layer in (1, 3)}
    trait = trait_of(llama, (expected[3][0],))
    found = layer_scan(trait, [1, 3], alpha=2.0, controls=2)
    assert [list(effect.answers) for effect in found.effects] == [expected[1], expected[3]]
    shares = [float(np.mean([trait.shows(a) for a in expected[layer]])) for layer in (1, 3)]
    assert [effect.success for effect in found.effects] == shares and shares[1] >= 0.5
    assert found.trait_answer == generate(llama, encoded, 5).text
    answer, gains = generate(llama, encoded, 5), []
    for prompt in PLAIN:
        plain = encode(llama, prompt)
        before = answer_logprob(llama, plain, answer)
        with interventions.add(llama, 3, [len(plain.token_map) - 1], 2 * held.hidden(3)[-1]):
            gains.append((answer_logprob(llama, plain, answer) - before) / len(answer.ids))
    assert found.effects[1].gain == pytest.approx(np.mean(gains), rel=1e-5)
    assert found.base.gain == 0 and found.control_gain.shape == found.control_success.shape == (2, 2)
    if found.base.success < shares[1]:
        assert found.best == (3 if shares[1] > shares[0] or found.effects[1].gain > found.effects[0].gain else 1)


def test_the_difference_is_what_the_plain_prompts_lack(llama: LoadedModel, basis: SaeFeatures):
    states = last_states(llama, 3)
    difference = states[0] - states[1:].mean(0)
    found = layer_scan(trait_of(llama, added="difference"), [3], alpha=ALPHA, controls=1)
    assert list(found.effects[0].answers) == answers_with(llama, 3, ALPHA * difference)
    assert list(found.effects[0].answers) != answers_with(llama, 3, ALPHA * states[0])
    assert found.added == "difference" and trait_of(llama).added == "state"
    order, values, parts = contributions(basis, states)
    dense = basis.encode(states)
    wanted = dense[0] - dense[1:].mean(0)
    assert values == pytest.approx([float(wanted[f]) for f in order]) and len(order) == int((wanted != 0).sum()) > 9
    rebuilt = basis.decode(dense)
    torch.testing.assert_close(parts.sum(0), rebuilt[0] - rebuilt[1:].mean(0))
    search = minimal_k(trait_of(llama, added="difference"), basis)
    assert search.order == tuple(order) and search.added == "difference"


def test_no_layer_is_best_where_none_helps(llama: LoadedModel):
    found = layer_scan(trait_of(llama), [2], controls=1)
    assert found.best is None and found.effects[0].success == 0 and not found.shown
    json.dumps(found.as_json(), allow_nan=False)


def test_layers_of_a_scan():
    assert spaced_layers(30) == (1, 5, 9, 13, 17, 21, 25, 29)
    assert spaced_layers(4) == (1, 2, 3) and spaced_layers(1) == (1,)


def test_contributions_are_ranked_and_add_up(llama: LoadedModel, basis: SaeFeatures):
    state = last_states(llama, 3)[:1]
    order, values, parts = contributions(basis, state)
    dense = basis.encode(state)[0]
    assert order == dense.argsort(descending=True)[: len(order)].tolist() and len(order) == 9
    assert values == pytest.approx([float(dense[f]) for f in order])
    torch.testing.assert_close(parts.sum(0), basis.decode(dense[None])[0])
    silent = contributions(basis, torch.zeros(1, llama.anatomy.width))
    assert silent[0] == [] and silent[1] == []


@pytest.mark.parametrize("threshold", [1, 2, 7, 8, 31, 32])
def test_the_search_finds_the_least(threshold: int):
    tried: list[int] = []

    def brings(k: int) -> bool:
        tried.append(k)
        return k >= threshold

    assert _least(brings, 32) == threshold and len(tried) <= 5 and len(set(tried)) == len(tried)


def test_minimal_k_reports_what_runs_by_hand_give(llama: LoadedModel, basis: SaeFeatures):
    order, values, parts = contributions(basis, last_states(llama, 3)[:1])
    by_k = {k: answers_with(llama, 3, ALPHA * parts[:k].sum(0)) for k in range(1, len(order) + 1)}
    trait = trait_of(llama, (by_k[len(order)][0],))
    found = minimal_k(trait, basis, alpha=ALPHA, controls=4)
    assert found.order == tuple(order) and found.values == tuple(values)
    for one in found.tried:
        assert list(one.effect.answers) == by_k[one.k]
    assert found.k is not None and found.feature == order[found.k - 1]
    success = {one.k: one.effect.success for one in found.tried}
    assert success[found.k] >= 0.5 and (found.k == 1 or success[found.k - 1] < 0.5)
    pushes = [(order[found.k - 1], ALPHA * values[found.k - 1])]
    assert found.alone is not None
    assert list(found.alone.answers) == answers_with(llama, 3, vector_of(basis, pushes))
    assert found.control_gain.shape == (4,) and found.p is not None and 0 < found.p <= 1
    json.dumps(found.as_json(), allow_nan=False)


def test_minimal_k_says_why_there_is_none(llama: LoadedModel, basis: SaeFeatures):
    hopeless = minimal_k(trait_of(llama), basis)
    assert hopeless.k is hopeless.feature is hopeless.alone is None and "Not even all 9" in hopeless.note
    assert [one.k for one in hopeless.tried] == [9]
    own = generate(llama, encode(llama, PLAIN[0]), 5).text
    given = minimal_k(trait_of(llama, (own,)), basis)
    assert given.k is None and given.tried == () and "by themselves" in given.note


def test_bad_input(llama: LoadedModel):
    encoded = encode(llama, TRAIT)
    for plain, words in (([], ("a",)), ([encoded], ("  ",))):
        with pytest.raises(PromptUnusable, match="at least one"):
            Trait(llama, encoded, plain, words, [encoded.token_map.ids[-1]])
    with pytest.raises(PromptUnusable, match="function tokens"):
        Trait(llama, encoded, [encoded], ("a",), [])
    with pytest.raises(CapabilityMissing):
        minimal_k(trait_of(llama), open_features(llama, "neurons-4"))
