"""Answers and their probabilities against loops written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import Answer, answer_logprob, generate, next_token_logprobs
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel


def full_logits(case, more: tuple[int, ...] = ()) -> torch.Tensor:
    """Logits [seq + more, vocab] of one forward over the whole sequence, without a cache."""
    prompt = case.encoded.inputs["input_ids"]
    ids = torch.cat([prompt, torch.tensor([more]).long()], dim=1)
    with torch.inference_mode():
        inputs = {**case.encoded.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return case.loaded.model(**inputs, use_cache=False).logits[0]


def test_an_answer_is_the_argmax_again_and_again(case):
    ids: tuple[int, ...] = ()
    end = case.loaded.model.generation_config.eos_token_id
    while len(ids) < 12 and (best := int(full_logits(case, ids)[-1].argmax())) != end:
        ids = (*ids, best)
    answer = generate(case.loaded, case.encoded, 12)
    assert answer.ids == ids
    assert answer.finished == (len(ids) < 12)
    assert answer.text == case.loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_an_answer_ends_at_the_end_of_sequence_token(case, monkeypatch: pytest.MonkeyPatch):
    ids = generate(case.loaded, case.encoded, 12).ids
    stop = next(i for i in range(1, len(ids)) if ids[i] not in ids[:i])
    monkeypatch.setattr(case.loaded.model.generation_config, "eos_token_id", [ids[stop], 399])
    text = case.loaded.tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
    assert generate(case.loaded, case.encoded, 12) == Answer(ids[:stop], text, True)


def test_a_checkpoints_sampling_defaults_do_not_make_it_less_greedy(case, monkeypatch: pytest.MonkeyPatch):
    """Generation configurations ship with temperatures, penalties and beams; a greedy answer knows none of them."""
    plain = generate(case.loaded, case.encoded, 8)
    config = case.loaded.model.generation_config
    for name, value in {
        "do_sample": True,
        "temperature": 5.0,
        "repetition_penalty": 9.0,
        "no_repeat_ngram_size": 1,
        "num_beams": 3,
    }.items():
        monkeypatch.setattr(config, name, value)
    assert generate(case.loaded, case.encoded, 8) == plain


def test_the_next_tokens_distribution(case):
    logprobs = next_token_logprobs(case.loaded, case.encoded)
    assert logprobs.shape == (case.loaded.anatomy.vocab_size,)
    assert math.isclose(float(logprobs.exp().sum()), 1, rel_tol=1e-5)
    torch.testing.assert_close(logprobs, full_logits(case)[-1].log_softmax(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ids", [(9,), (9, 31, 9), (300, 2, 1, 77, 5, 6)])
def test_an_answers_log_probability_is_the_sum_over_its_tokens(case, ids: tuple[int, ...]):
    logprobs = full_logits(case, ids).double().log_softmax(-1)
    start = case.length - 1
    expected = sum(float(logprobs[start + i, token]) for i, token in enumerate(ids))
    assert math.isclose(answer_logprob(case.loaded, case.encoded, ids), expected, rel_tol=1e-5)
    assert answer_logprob(case.loaded, case.encoded, Answer(ids, "", False)) == answer_logprob(
        case.loaded, case.encoded, ids
    )


def test_the_chain_rule(case):
    """log p(a, b) = log p(a) + log p(b | a), and the greedy token is the likeliest of all."""
    logprobs = next_token_logprobs(case.loaded, case.encoded)
    singles = [answer_logprob(case.loaded, case.encoded, (t,)) for t in (4, 50, 200)]
    torch.testing.assert_close(torch.tensor(singles), logprobs[[4, 50, 200]], rtol=1e-4, atol=1e-4)
    (greedy, *_) = generate(case.loaded, case.encoded, 1).ids or (case.loaded.tokenizer.eos_token_id,)
    assert int(logprobs.argmax()) == greedy
    assert answer_logprob(case.loaded, case.encoded, ()) == 0.0


def test_interventions_change_the_answers_probability_and_only_inside(case):
    before = answer_logprob(case.loaded, case.encoded, (9, 31))
    with interventions.zero(case.loaded, 1, [case.length - 1]):
        inside = answer_logprob(case.loaded, case.encoded, (9, 31))
        logprobs = next_token_logprobs(case.loaded, case.encoded)
    assert abs(inside - before) > 1e-3
    assert not torch.equal(logprobs, next_token_logprobs(case.loaded, case.encoded))
    assert answer_logprob(case.loaded, case.encoded, (9, 31)) == before


def test_an_answer_stops_where_the_models_context_ends(gpt2: LoadedModel):
    """Learned positions end at 512: a prompt that nearly fills them leaves room for a few tokens only."""
    ids = torch.randint(5, 300, (1, 509), generator=torch.Generator().manual_seed(0))
    short = encode(gpt2, "A cat")
    encoded = type(short)(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        type(short.token_map)(tuple(ids[0].tolist()), ("text",) * 509, ("",) * 509),
        "long",
        "long",
    )
    answer = generate(gpt2, encoded, 24)
    assert len(answer.ids) <= 4
