"""Attention received, against the model's own attention weights; and the inputs of sublayers as trace sites."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.answers import answer_logprob, next_token_logprobs, score
from lens.backend.attention import attention_received, eager
from lens.backend.hooks import Hook, attached
from lens.backend.tracing import trace
from lens.errors import CapabilityMissing


def implementations(loaded) -> list[str]:
    return [module.config._attn_implementation for module in (loaded.anatomy.text_model, *loaded.anatomy.attentions)]


@pytest.mark.parametrize("name", ["llava", "demo"])
def test_it_is_the_mean_over_heads_and_the_text_after_the_picture(cases, name: str):
    case = cases(name)
    visual = case.encoded.token_map.visual_positions
    start = trace(case.loaded, case.encoded, ["hidden.0"]).hidden(0)
    with eager(case.loaded), torch.inference_mode():
        output = case.loaded.anatomy.text_model(inputs_embeds=start[None], use_cache=False, output_attentions=True)
    expected = [w[0][:, visual[-1] + 1 :, visual].double().mean((0, 1)).numpy() for w in output.attentions]
    received = attention_received(case.loaded, case.encoded)
    assert received.shape == (case.depth, len(visual))
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-7)
    assert (received.sum(1) > 0).all() and (received.sum(1) < 1).all()
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_eager_changes_logits_by_rounding_alone_and_is_put_back(case):
    plain = trace(case.loaded, case.encoded, ["logits"]).site("logits")
    before = implementations(case.loaded)
    with pytest.raises(RuntimeError), eager(case.loaded):
        assert set(implementations(case.loaded)) == {"eager"} and "eager" not in before
        found = trace(case.loaded, case.encoded, ["logits"]).site("logits")
        raise RuntimeError
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)
    assert implementations(case.loaded) == before
    assert torch.equal(trace(case.loaded, case.encoded, ["logits"]).site("logits"), plain)


def test_text_alone_and_models_without_weights_say_so(cases, monkeypatch: pytest.MonkeyPatch):
    case = cases("llama")
    with pytest.raises(CapabilityMissing, match="no visual tokens"):
        attention_received(case.loaded, case.encoded)
    seeing = cases("llava")
    module = seeing.loaded.anatomy.attentions[1]
    inner = module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: (inner(*args, **kwargs)[0], None))
    with pytest.raises(CapabilityMissing, match="gives no attention weights"):
        attention_received(seeing.loaded, seeing.encoded)
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: (lambda o, w: (o, 2 * w))(*inner(*args, **kwargs)))
    with pytest.raises(CapabilityMissing, match="should sum to 1"):
        attention_received(seeing.loaded, seeing.encoded)


def test_a_sublayer_makes_its_output_of_its_input(case):
    for block in (1, case.depth):
        held = trace(case.loaded, case.encoded, [f"mlp_in.{block}", f"mlp.{block}", f"attention_in.{block}"])
        with torch.inference_mode():
            output = case.loaded.anatomy.mlps[block - 1](held.site(f"mlp_in.{block}")[None])[0]
        torch.testing.assert_close(output, held.site(f"mlp.{block}"), rtol=1e-4, atol=1e-4)
        assert held.site(f"attention_in.{block}").shape == held.site(f"mlp_in.{block}").shape
        assert not torch.equal(held.site(f"attention_in.{block}"), held.site(f"mlp_in.{block}"))


def test_one_forward_scores_the_answer_and_the_next_token(case):
    calls: list[int] = []
    with attached([Hook(case.loaded.anatomy.text_model, "before", lambda *_: calls.append(1))]):
        found = score(case.loaded, case.encoded, (9, 31))
    assert len(calls) == 1
    assert found.logprob == answer_logprob(case.loaded, case.encoded, (9, 31))
    torch.testing.assert_close(found.next_token, next_token_logprobs(case.loaded, case.encoded), rtol=1e-4, atol=1e-4)
