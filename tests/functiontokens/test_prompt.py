"""Reading a prompt: everything agrees with a trace encoded by hand; re-activation and its null behave as defined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lens.backend.encoding import Encoded, TokenMap, encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import hidden_sites, trace
from lens.functiontokens.basis import FIRST
from lens.functiontokens.features import SaeFeatures, open_features
from lens.functiontokens.prompt import first_positions, groups_of, prompt_sites, read_prompt
from lens.functiontokens.steering import last_function_token
from tests.functiontokens.bases import random_sae
from tests.helpers import TEXT, tiny_llama, tiny_llava


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"), bos=True)


@pytest.fixture(scope="module")
def basis(llama: LoadedModel) -> SaeFeatures:
    return random_sae(llama)


@pytest.fixture(scope="module")
def encoded(llama: LoadedModel) -> Encoded:
    return encode(llama, TEXT[:150].replace("\n", " "))


@pytest.fixture(scope="module")
def function_ids(encoded: Encoded) -> set[int]:
    return set(encoded.token_map.ids[3::3])


def test_what_fires_is_what_the_basis_says(llama: LoadedModel, basis: SaeFeatures, encoded: Encoded, function_ids):
    reading = read_prompt(llama, encoded, basis, function_ids, top=4)
    dense = basis.encode(trace(llama, encoded, [basis.site]).site(basis.site)).numpy()
    dense[:FIRST] = 0  # the two loud positions
    assert len(reading.tokens) == len(dense)
    for t, token in enumerate(reading.tokens):
        fires = np.flatnonzero(dense[t])
        assert (token.position, token.active) == (t, len(fires))
        best = sorted(fires.tolist(), key=lambda f: -abs(dense[t, f]))[:4]
        assert [fired.feature for fired in token.top] == best
        firsts = {int(f): int(np.flatnonzero(dense[:, f])[0]) for f in fires}
        assert all(fired.first == firsts[fired.feature] for fired in token.top)
        assert token.again == sum(first < t for first in firsts.values())
    feature = reading.tokens[5].top[0].feature
    np.testing.assert_array_equal(reading.along(feature), dense[:, feature])


def test_reactivated_features_are_those_that_function_tokens_fire_again(llama, basis, encoded, function_ids):
    reading = read_prompt(llama, encoded, basis, function_ids)
    dense = basis.encode(trace(llama, encoded, [basis.site]).site(basis.site)).numpy()
    dense[:FIRST] = 0
    function = np.array([token.group == "function" for token in reading.tokens])
    expected = {}
    for feature in range(basis.size):
        fires = np.flatnonzero(dense[:, feature])
        by = [t for t in fires[1:].tolist() if function[t]]
        if by:
            expected[feature] = (int(fires[0]), tuple(by))
    assert {one.feature: (one.first, one.by) for one in reading.reactivated} == expected and expected
    counts = [len(one.by) for one in reading.reactivated]
    assert counts == sorted(counts, reverse=True)


def test_groups(llama: LoadedModel, encoded: Encoded, function_ids: set[int]):
    groups = groups_of(encoded.token_map, function_ids)
    assert groups[0] == "special"
    for token, group in zip(encoded.token_map.ids[1:], groups[1:], strict=True):
        assert group == ("function" if token in function_ids else "content")
    assert "function" not in groups_of(encoded.token_map, [])
    texts = ("a", "\n", " \n", " ", "b\n")
    breaks = TokenMap((9, 8, 7, 6, 5), ("text", "text", "text", "text", "special"), texts)
    assert groups_of(breaks, [9]) == ("function", "function", "function", "content", "special")
    assert last_function_token(breaks, [6]) == 3 and last_function_token(breaks, []) == 2


def test_losses_are_of_the_text_alone(llama: LoadedModel, basis: SaeFeatures, encoded: Encoded, function_ids: set[int]):
    reading = read_prompt(llama, encoded, basis, function_ids)
    assert reading.tokens[0].loss is None and reading.tokens[1].loss is not None
    text = [token.loss for token in reading.tokens[2:]]  # the first text token is predicted from <s>
    assert reading.losses.count == len(text) and reading.losses.loss == pytest.approx(np.mean(text), rel=1e-9)
    assert reading.losses.unit == "token"


def test_a_trace_that_is_given_is_used(
    llama: LoadedModel, basis: SaeFeatures, encoded: Encoded, function_ids: set[int]
):
    held = trace(llama, encoded, hidden_sites(llama.anatomy.depth))
    given = read_prompt(llama, encoded, basis, function_ids, held=held)
    assert given.as_json() == read_prompt(llama, encoded, basis, function_ids).as_json()
    assert set(prompt_sites(llama, basis)) <= set(held.states)


def test_first_positions():
    rows, ids = np.array([2, 2, 3, 5, 5, 9]), np.array([7, 1, 7, 1, 4, 7])
    assert first_positions(rows, ids).tolist() == [2, 2, 2, 2, 5, 2]
    assert first_positions(rows[:0], ids[:0]).tolist() == []


def test_repetition_beside_its_null(llama: LoadedModel, basis: SaeFeatures, encoded: Encoded, function_ids: set[int]):
    found = read_prompt(llama, encoded, basis, function_ids)
    shares = {"function": [], "content": []}
    for token in found.tokens:
        if token.active and token.group in shares:
            shares[token.group].append(token.again / token.active)
    assert found.repetition.function == pytest.approx(np.mean(shares["function"]))
    assert found.repetition.content == pytest.approx(np.mean(shares["content"]))
    assert found.repetition.null is not None and found.repetition.null[0] < 0 < found.repetition.null[1]
    assert found.repetition.p is not None and 0 < found.repetition.p <= 1
    alone = read_prompt(llama, encoded, basis, [])
    assert alone.repetition.function is None and alone.repetition.null is None and alone.reactivated == ()


def test_the_last_tokens_as_function_tokens_are_seen_to_repeat(
    llama: LoadedModel, basis: SaeFeatures, encoded: Encoded
):
    """A group that stands late repeats more, whatever it is: the null must be able to tell that from chance."""
    reading = read_prompt(llama, encoded, basis, [])
    late = set(encoded.token_map.ids[-15:]) - set(encoded.token_map.ids[:-15])
    assert len(late) > 3
    again = read_prompt(llama, encoded, basis, late)
    assert again.repetition.function > again.repetition.content and again.repetition.p < 0.1
    assert [token.again for token in reading.tokens] == [token.again for token in again.tokens]


def test_neurons_read_a_prompt_too(llama: LoadedModel, encoded: Encoded, function_ids: set[int]):
    reading = read_prompt(llama, encoded, open_features(llama, "neurons-3"), function_ids)
    assert (reading.values < 0).any() and all(token.active == 32 for token in reading.tokens[FIRST:])
    strongest = [abs(fired.value) for fired in reading.tokens[4].top]
    assert strongest == sorted(strongest, reverse=True)


def test_visual_tokens_fire_but_are_not_predicted(tmp_path: Path):
    from tests.embedlens.planted import picture_of_noise

    llava = tiny_llava(tmp_path)
    encoded = encode(llava, "What is this?", picture_of_noise(0))
    reading = read_prompt(llava, encoded, random_sae(llava), {encoded.token_map.ids[-1]})
    visual = [reading.tokens[int(p)] for p in encoded.token_map.visual_positions]
    assert all(token.group == "image" and token.loss is None and token.active for token in visual)
    assert reading.tokens[-1].loss is not None and reading.losses.count < len(reading.tokens) - len(visual)


def test_json_is_plain(llama: LoadedModel, basis: SaeFeatures, encoded: Encoded, function_ids: set[int]):
    found = json.loads(json.dumps(read_prompt(llama, encoded, basis, function_ids).as_json(), allow_nan=False))
    assert found["tokens"][3]["top"][0].keys() == {"feature", "value", "first"}
    assert len(found["losses"]["pairs"]) == 4
