"""Late visual tokens: against blocks run by hand on the text alone, then on the whole sequence."""

from __future__ import annotations

import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import generate
from lens.backend.injection import inject
from lens.backend.tracing import hidden_sites, trace
from lens.errors import LayerMissing


def everything(case):
    return trace(case.loaded, case.encoded, [*hidden_sites(case.depth), "logits"])


def by_hand(case, layer: int) -> torch.Tensor:
    """Logits [seq, vocab]: text through blocks 0..layer-1 as a shorter sequence with its old positions, then all."""
    anatomy, model = case.loaded.anatomy, case.loaded.anatomy.text_model
    start = trace(case.loaded, case.encoded, ["hidden.0"]).hidden(0)
    visual = case.encoded.token_map.visual_positions
    text = torch.tensor([p for p in range(case.length) if p not in set(visual.tolist())])

    def run(states: torch.Tensor, positions: torch.Tensor, blocks) -> torch.Tensor:
        embedded = model.rotary_emb(states, positions[None])
        causal = torch.ones(len(positions), len(positions), dtype=torch.bool).tril()[None, None]
        for block in blocks:
            states = block(states, attention_mask=causal, position_embeddings=embedded, position_ids=positions[None])
        return states

    with torch.inference_mode():
        whole = start[None].clone()
        whole[:, text] = run(start[None, text], text, anatomy.blocks[:layer])
        whole = run(whole, torch.arange(case.length), anatomy.blocks[layer:])
        return anatomy.unembedding(anatomy.final_norm(whole))[0]


def test_at_layer_0_the_run_is_bit_identical(case):
    plain = everything(case)
    with inject(case.loaded, case.encoded, 0):
        found = everything(case)
    assert all(torch.equal(found.site(site), states) for site, states in plain.states.items())


@pytest.mark.parametrize("name", ["llava", "demo"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_later_layer_is_what_the_definition_says(cases, name: str, layer: int):
    case = cases(name)
    with inject(case.loaded, case.encoded, layer):
        found = everything(case)
    expected = by_hand(case, layer)
    torch.testing.assert_close(found.site("logits")[-1], expected[-1], rtol=1e-4, atol=1e-4)
    visual = case.encoded.token_map.visual_positions
    assert torch.equal(found.hidden(layer)[visual], everything(case).hidden(0)[visual])
    assert not torch.allclose(found.site("logits")[-1], everything(case).site("logits")[-1], atol=1e-3)


def test_at_the_last_layer_the_picture_is_gone(seeing):
    text = [p for p in range(seeing.length) if p not in set(seeing.encoded.token_map.visual_positions.tolist())]
    with inject(seeing.loaded, seeing.encoded, seeing.depth):
        found = everything(seeing)
    with interventions.drop(seeing.loaded, seeing.encoded.token_map.visual_positions.tolist()):
        dropped = everything(seeing)
    torch.testing.assert_close(found.site("logits")[text], dropped.site("logits")[text], rtol=1e-4, atol=1e-4)


def test_text_alone_has_nothing_to_inject(cases):
    case = cases("llama")
    plain = everything(case).site("logits")
    with inject(case.loaded, case.encoded, 2):
        assert torch.equal(everything(case).site("logits"), plain)


def test_answers_go_on_from_the_injected_run(seeing):
    """With the key-value cache as without it."""
    with inject(seeing.loaded, seeing.encoded, 2):
        answer = generate(seeing.loaded, seeing.encoded, 6).ids
        ids: tuple[int, ...] = ()
        for _ in answer:
            more = torch.cat([seeing.encoded.inputs["input_ids"], torch.tensor([ids]).long()], 1)
            inputs = {**seeing.encoded.inputs, "input_ids": more, "attention_mask": torch.ones_like(more)}
            with torch.inference_mode():
                logits = seeing.loaded.model(**inputs, use_cache=False).logits
            ids = (*ids, int(logits[0, -1].argmax()))
    assert answer == ids and len(answer) > 1
    assert answer != generate(seeing.loaded, seeing.encoded, 6).ids


def test_nothing_stays_behind(seeing):
    before = everything(seeing).site("logits")
    with pytest.raises(RuntimeError), inject(seeing.loaded, seeing.encoded, 2):
        raise RuntimeError
    assert torch.equal(everything(seeing).site("logits"), before)
    with pytest.raises(LayerMissing), inject(seeing.loaded, seeing.encoded, seeing.depth + 1):
        pass
