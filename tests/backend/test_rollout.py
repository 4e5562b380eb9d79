"""Attention rollout against the product of the model's own attention weights; and a prompt with its answer behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.answered import with_answer
from lens.backend.answers import generate, score
from lens.backend.attention import attention_rollout, eager
from lens.backend.tracing import trace
from lens.errors import CapabilityMissing, PromptUnusable


@pytest.mark.parametrize("name", ["llava", "demo"])
def test_it_is_the_product_of_attention_and_residual_stream(cases, name: str):
    case = cases(name)
    start = trace(case.loaded, case.encoded, ["hidden.0"]).hidden(0)
    with eager(case.loaded), torch.inference_mode():
        output = case.loaded.anatomy.text_model(inputs_embeds=start[None], use_cache=False, output_attentions=True)
    flow = np.eye(case.length)
    position = case.length - 1
    visual = case.encoded.token_map.visual_positions
    expected = [flow[position, visual]]
    for weights in output.attentions:
        flow = (0.5 * weights[0].double().mean(0).numpy() + 0.5 * np.eye(case.length)) @ flow
        expected.append(flow[position, visual])
    found = attention_rollout(case.loaded, case.encoded, position)
    assert found.shape == (case.depth + 1, len(visual))
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-7)
    assert not found[0].any() and (found[1:] > 0).all() and (found.sum(1) < 1).all()


def test_a_visual_token_starts_as_itself(seeing):
    visual = seeing.encoded.token_map.visual_positions
    assert attention_rollout(seeing.loaded, seeing.encoded, int(visual[3]))[0].tolist() == [
        float(i == 3) for i in range(len(visual))
    ]


def test_rollout_without_a_picture_is_refused(cases):
    with pytest.raises(CapabilityMissing, match="no visual tokens"):
        attention_rollout(cases("llama").loaded, cases("llama").encoded, 0)


def test_the_answers_states_are_those_of_writing_it(case):
    """Each of its tokens is the likeliest after the state before it: the greedy answer again, from one forward."""
    answer = generate(case.loaded, case.encoded, 6)
    whole = with_answer(case.loaded, case.encoded, answer.ids)
    assert len(whole.token_map) == case.length + len(answer.ids) == whole.inputs["input_ids"].shape[1]
    held = trace(case.loaded, whole, ["logits"]).site("logits")
    again = held[case.length - 1 : -1].argmax(-1).tolist() if answer.ids else []
    assert tuple(again) == answer.ids
    logprobs = held.float().log_softmax(-1)[case.length - 1 : -1]
    total = float(sum(row[i] for row, i in zip(logprobs, answer.ids, strict=True)))
    assert total == pytest.approx(score(case.loaded, case.encoded, answer).logprob, abs=1e-3)


def test_an_answer_is_part_of_the_key_and_leaves_the_prompt_alone(seeing):
    one, other = (with_answer(seeing.loaded, seeing.encoded, ids) for ids in ((5, 6), (5, 7)))
    assert len({seeing.encoded.key, one.key, other.key}) == 3
    assert with_answer(seeing.loaded, seeing.encoded, ()) is seeing.encoded
    assert one.token_map.texts[: seeing.length] == seeing.encoded.token_map.texts
    assert one.token_map.kinds[-2:] == ("text", "text")
    assert with_answer(seeing.loaded, seeing.encoded, (2,)).token_map.kinds[-1] == "special"
    assert (one.token_map.visual_positions == seeing.encoded.token_map.visual_positions).all()
    before = trace(seeing.loaded, seeing.encoded, ["hidden.3"]).hidden(3)
    torch.testing.assert_close(trace(seeing.loaded, one, ["hidden.3"]).hidden(3)[: seeing.length], before)


def test_an_answer_beyond_the_context_is_refused(seeing):
    with pytest.raises(PromptUnusable, match="context"):
        with_answer(seeing.loaded, seeing.encoded, (5,) * 512)
