"""The bench: its numbers are those of runs made by hand, and an unchanged run is no change."""

from __future__ import annotations

import pytest

from lens.backend import interventions
from lens.backend.answers import Answer, answer_logprob, generate, next_token_logprobs
from lens.backend.bench import Bench, divergence
from lens.backend.encoding import Encoded, encode
from lens.backend.loading import LoadedModel
from tests.helpers import tiny_llama

PROMPT = "What is this?"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def encoded(llama: LoadedModel) -> Encoded:
    return encode(llama, PROMPT)


def test_a_treated_run_is_what_a_hand_made_one_gives(llama: LoadedModel, encoded: Encoded):
    bench = Bench(llama, encoded, max_new_tokens=6)
    answer = generate(llama, encoded, 6)
    assert bench.base.answer == answer.text and bench.base.kl == 0.0
    assert bench.base.logprob == answer_logprob(llama, encoded, answer)
    before = next_token_logprobs(llama, encoded).double()
    run = bench.run(interventions.zero(llama, 2, [1]))
    with interventions.zero(llama, 2, [1]):
        after = next_token_logprobs(llama, encoded).double()
        assert run.answer == generate(llama, encoded, 6).text
        assert run.logprob == answer_logprob(llama, encoded, answer)
    assert run.kl == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-4) and run.kl > 1e-4
    assert bench.scores(interventions.zero(llama, 2, [1])) == (run.logprob, run.kl)
    found = bench.score(interventions.zero(llama, 2, [1]))
    assert found.logprob == run.logprob and divergence(bench.unchanged, found) == run.kl


def test_nothing_done_changes_nothing(llama: LoadedModel, encoded: Encoded):
    bench = Bench(llama, encoded)
    assert divergence(bench.unchanged, bench.unchanged) == 0.0
    assert bench.run(interventions.zero(llama, 2, [])) == bench.base


def test_an_answer_that_is_given_is_not_generated(llama: LoadedModel, encoded: Encoded):
    assert Bench(llama, encoded, Answer((5, 6), "given", False)).base.answer == "given"
