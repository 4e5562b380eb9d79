"""An intervention does what it says, where it says, and nothing else; afterwards the model is as it was."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from lens.backend import interventions
from lens.backend.answers import generate
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import hidden_sites, trace
from lens.errors import LayerMissing, StatesUnusable

MIDDLE = 2
"""A layer inside every tiny model: two blocks before the last."""


def all_layers(case):
    sites = [*hidden_sites(case.depth), f"block.{case.depth}", "logits"]
    return trace(case.loaded, case.encoded, sites)


def vectors(case, count: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, case.loaded.anatomy.width, generator=generator)


def every_kind(case, positions, layer: int = MIDDLE):
    """One of each kind of intervention, by name."""
    loaded = case.loaded
    return {
        "zero": interventions.zero(loaded, layer, positions),
        "scale": interventions.scale(loaded, layer, positions, 3.0),
        "add": interventions.add(loaded, layer, positions, vectors(case, 1)[0]),
        "replace": interventions.replace(loaded, layer, positions, vectors(case, len(positions))),
        "edit": interventions.edit(loaded, layer, positions, lambda states, _which: states + 1),
        "drop": interventions.drop(loaded, positions),
        "skip attention": interventions.skip(loaded, layer, "attention", positions),
        "skip mlp": interventions.skip(loaded, layer, "mlp", positions),
    }


def hooks_on(loaded: LoadedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())


def assert_same(found, expected) -> None:
    assert all(torch.equal(found.site(site), states) for site, states in expected.states.items())


def test_without_positions_a_run_is_bit_identical(case):
    plain = all_layers(case)
    for name, intervention in every_kind(case, []).items():
        with intervention:
            found = all_layers(case)
        assert all(torch.equal(found.site(s), t) for s, t in plain.states.items()), name


@pytest.mark.parametrize("layer", [0, 1, MIDDLE, -1])
def test_each_edit_does_its_arithmetic_at_its_layer(case, layer: int):
    layer = case.depth if layer < 0 else layer
    positions = [3, 1]
    plain = all_layers(case).hidden(layer)
    added, put = vectors(case, 1)[0], vectors(case, 2)
    kinds = every_kind(case, positions, layer)
    expected = {
        "zero": torch.zeros_like(plain[positions]),
        "scale": plain[positions] * 3.0,
        "add": plain[positions] + added,
        "replace": put,
        "edit": plain[positions] + 1,
    }
    for name, states in expected.items():
        with kinds[name]:
            found = trace(case.loaded, case.encoded, [f"hidden.{layer}"]).hidden(layer)
        assert torch.equal(found[positions], states), name
        others = [p for p in range(case.length) if p not in positions]
        untouched = [p for p in others if layer == case.depth or p < min(positions)]
        assert torch.equal(found[untouched], plain[untouched]), name


@pytest.mark.parametrize("kind", ["zero", "scale", "add", "replace", "edit", "skip attention", "skip mlp"])
def test_causality(case, kind: str):
    """Bit-identical before the layer and before the position; changed at the position from the layer on."""
    position = case.length // 2
    plain = all_layers(case)
    with every_kind(case, [position])[kind]:
        found = all_layers(case)
    for layer in range(case.depth + 1):
        changed = found.hidden(layer) != plain.hidden(layer)
        assert not changed[:position].any(), f"layer {layer}: an earlier position moved"
        assert changed[position].any() == (layer >= MIDDLE)
        if layer == MIDDLE:
            assert not changed[position + 1 :].any(), "a later position moved at the layer itself"
        if layer < MIDDLE:
            assert not changed.any()
    assert torch.equal(found.site("logits")[:position], plain.site("logits")[:position])
    assert (found.hidden(case.depth) != plain.hidden(case.depth))[-1].any(), "the last position never noticed"


def test_an_edit_after_the_final_norm_changes_that_positions_logits_alone(case):
    plain = all_layers(case)
    state = vectors(case, 1)
    with interventions.replace(case.loaded, case.depth, [2], state):
        found = all_layers(case)
    for layer in range(case.depth):
        assert torch.equal(found.hidden(layer), plain.hidden(layer))
    assert torch.equal(found.site(f"block.{case.depth}"), plain.site(f"block.{case.depth}"))
    others = [p for p in range(case.length) if p != 2]
    assert torch.equal(found.site("logits")[others], plain.site("logits")[others])
    with torch.inference_mode():
        torch.testing.assert_close(found.site("logits")[2], case.loaded.anatomy.unembedding(state)[0])


def test_replacing_states_by_their_own_is_bit_identical(case):
    plain = all_layers(case)
    positions = list(range(case.length))
    for layer in range(case.depth + 1):
        with interventions.replace(case.loaded, layer, positions, plain.hidden(layer)):
            assert_same(all_layers(case), plain)


def test_patching_one_runs_states_into_another_carries_its_answer(case):
    """All states of a layer from another prompt of the same length: from there on the run is that prompt's."""
    ids = case.encoded.inputs["input_ids"].clone()
    ids[0, -3:] = torch.tensor([11, 12, 13])
    other = type(case.encoded)({**case.encoded.inputs, "input_ids": ids}, case.encoded.token_map, "other", "other")
    wanted = trace(case.loaded, other, ["hidden.1", "logits"])
    with interventions.replace(case.loaded, 1, list(range(case.length)), wanted.hidden(1)):
        assert torch.equal(all_layers(case).site("logits"), wanted.site("logits"))


def test_nested_edits_act_in_the_order_of_entering(case):
    plain = all_layers(case).hidden(MIDDLE)[1]
    add = interventions.add(case.loaded, MIDDLE, [1], torch.ones(case.loaded.anatomy.width))
    with add, interventions.scale(case.loaded, MIDDLE, [1], 2.0):
        assert torch.equal(all_layers(case).hidden(MIDDLE)[1], (plain + 1) * 2)


def test_a_position_named_twice_is_changed_once(case):
    plain = all_layers(case).hidden(MIDDLE)[1]
    with interventions.scale(case.loaded, MIDDLE, [1, 1], 2.0):
        assert torch.equal(all_layers(case).hidden(MIDDLE)[1], plain * 2)


def shorter_run(case, kept: list[int], more: tuple[int, ...] = ()):
    """The kept tokens alone, with the position ids they had and an all-ones mask; ``more`` ids follow the prompt."""
    anatomy = case.loaded.anatomy
    ids = torch.tensor([*case.encoded.token_map.ids, *more])
    embeds = anatomy.embeddings(ids)
    visual = torch.as_tensor(case.encoded.token_map.visual_positions)
    if len(visual):
        embeds[visual] = trace(case.loaded, case.encoded, ["connector"]).site("connector")
    positions = torch.tensor(kept + list(range(case.length, case.length + len(more))))
    with torch.inference_mode():
        return anatomy.text_model(
            inputs_embeds=embeds[positions][None],
            position_ids=positions[None],
            attention_mask=torch.ones(1, len(positions), dtype=torch.long),
            output_hidden_states=True,
            use_cache=False,
        )


@pytest.mark.parametrize("dropped", [[0], [2], [0, 1], [1, 3], "last", "visual", "all but last"])
def test_dropping_equals_the_shorter_sequence_with_its_old_position_ids(case, dropped):
    names = {
        "last": [case.length - 1],
        "visual": case.encoded.token_map.visual_positions.tolist() or [4],
        "all but last": list(range(case.length - 1)),
    }
    positions = names[dropped] if isinstance(dropped, str) else dropped
    kept = [p for p in range(case.length) if p not in positions]
    with interventions.drop(case.loaded, positions):
        found = all_layers(case)
    expected = shorter_run(case, kept)
    for layer in range(case.depth + 1):
        torch.testing.assert_close(found.hidden(layer)[kept], expected.hidden_states[layer][0], rtol=1e-4, atol=1e-4)
    assert all(torch.isfinite(states).all() for states in found.states.values()), "also in the dropped rows"


def test_dropping_with_new_position_ids_would_differ(case):
    """The test above can tell: closing the gap gives other states."""
    kept = [p for p in range(case.length) if p not in (1, 2)]
    with interventions.drop(case.loaded, [1, 2]):
        found = all_layers(case).hidden(case.depth)[kept]
    ids = torch.tensor([case.encoded.token_map.ids])[:, kept]
    if len(case.encoded.token_map.visual_positions) == 0:
        with torch.inference_mode():
            closed = case.loaded.anatomy.text_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        assert not torch.allclose(found, closed, atol=1e-2)


def test_dropping_works_without_an_attention_mask(case):
    inputs = {k: v for k, v in case.encoded.inputs.items() if k != "attention_mask"}
    with interventions.drop(case.loaded, [1]), torch.inference_mode():
        bare = case.loaded.model(**inputs, use_cache=False).logits
        masked = case.loaded.model(**case.encoded.inputs, use_cache=False).logits
    assert torch.equal(bare, masked)


def greedy_by_hand(case, steps: int, next_logits) -> tuple[int, ...]:
    ids: tuple[int, ...] = ()
    ends = {case.loaded.model.generation_config.eos_token_id}
    for _ in range(steps):
        best = int(next_logits(ids).argmax())
        if best in ends:
            break
        ids = (*ids, best)
    return ids


def test_a_dropped_token_stays_dropped_while_generating(case):
    dropped = [0, 2, 3]
    kept = [p for p in range(case.length) if p not in dropped]

    def next_logits(ids: tuple[int, ...]) -> torch.Tensor:
        with torch.inference_mode():
            return case.loaded.anatomy.unembedding(shorter_run(case, kept, ids).last_hidden_state[0, -1])

    with interventions.drop(case.loaded, dropped):
        answer = generate(case.loaded, case.encoded, 6)
    assert answer.ids == greedy_by_hand(case, 6, next_logits)


@pytest.mark.parametrize("kind", ["zero", "add", "replace", "skip mlp"])
def test_edits_hold_for_the_prompts_positions_while_generating(case, kind: str):
    """Against runs of the whole sequence without a cache, where positions are plain row numbers."""
    positions = [0, case.length - 1, 2]

    def next_logits(ids: tuple[int, ...]) -> torch.Tensor:
        prompt = case.encoded.inputs["input_ids"]
        inputs = {**case.encoded.inputs, "input_ids": torch.cat([prompt, torch.tensor([ids]).long()], dim=1)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with every_kind(case, positions)[kind], torch.inference_mode():
            return case.loaded.model(**inputs, use_cache=False).logits[0, -1]

    with every_kind(case, positions)[kind]:
        answer = generate(case.loaded, case.encoded, 6)
    assert answer.ids == greedy_by_hand(case, 6, next_logits)


def test_a_token_whose_every_sublayer_is_skipped_keeps_its_input_embedding(case):
    position = 3
    plain = all_layers(case)
    skips = [
        interventions.skip(case.loaded, block, sublayer, [position])
        for block in range(1, case.depth + 1)
        for sublayer in ("attention", "mlp")
    ]
    for skip in skips:
        skip.__enter__()
    try:
        found = all_layers(case)
    finally:
        for skip in reversed(skips):
            skip.__exit__(None, None, None)
    for layer in range(case.depth):
        assert torch.equal(found.hidden(layer)[position], plain.hidden(0)[position]), f"layer {layer}"
    assert torch.equal(found.site(f"block.{case.depth}")[position], plain.hidden(0)[position])
    assert_same(all_layers(case), plain)


@pytest.mark.parametrize(("sublayer", "other"), [("attention", "mlp"), ("mlp", "attention")])
def test_skipping_leaves_the_other_sublayer_in_place(case, sublayer: str, other: str):
    sites = ["hidden.1", f"{sublayer}.2", f"{other}.2", "block.2"]
    with interventions.skip(case.loaded, 2, sublayer, [1]):
        found = trace(case.loaded, case.encoded, sites)
    assert not found.site(f"{sublayer}.2")[1].any()
    assert found.site(f"{sublayer}.2")[0].any()
    total = found.hidden(1)[1] + found.site(f"{other}.2")[1]
    torch.testing.assert_close(found.site("block.2")[1], total, rtol=1e-5, atol=1e-5)


def test_afterwards_the_model_is_as_it_was(case):
    plain = all_layers(case)
    hooks = hooks_on(case.loaded)
    for name, intervention in every_kind(case, [1, 2]).items():
        with intervention:
            all_layers(case)
        assert hooks_on(case.loaded) == hooks, name
    for name, intervention in every_kind(case, [1, 2]).items():
        with pytest.raises(ZeroDivisionError), intervention:
            raise ZeroDivisionError
        assert hooks_on(case.loaded) == hooks, name
    assert_same(all_layers(case), plain)


def test_a_change_that_raises_leaves_the_model_as_it_was(case):
    plain = all_layers(case)
    hooks = hooks_on(case.loaded)
    edit = interventions.edit(case.loaded, MIDDLE, [1], lambda states, _which: 1 / 0)
    with pytest.raises(ZeroDivisionError), edit:
        all_layers(case)
    assert hooks_on(case.loaded) == hooks
    assert_same(all_layers(case), plain)


def test_other_threads_wait_and_see_the_unchanged_model(llama: LoadedModel):
    encoded = encode(llama, "A cat sat on the mat.")
    plain = trace(llama, encoded, ["logits"]).site("logits")
    seen: list[torch.Tensor] = []
    other = threading.Thread(target=lambda: seen.append(trace(llama, encoded, ["logits"]).site("logits")))
    with interventions.zero(llama, 1, [1]):
        other.start()
        time.sleep(0.2)
        assert seen == []
        assert not torch.equal(trace(llama, encoded, ["logits"]).site("logits"), plain)
    other.join(60)
    assert torch.equal(seen[0], plain)


@pytest.mark.parametrize("layer", [-1, 5])
def test_layers_that_are_not_there_are_refused(llama: LoadedModel, layer: int):
    with pytest.raises(LayerMissing), interventions.zero(llama, layer, [0]):
        pass


@pytest.mark.parametrize("block", [-1, 0, 5])
def test_blocks_that_are_not_there_are_refused(llama: LoadedModel, block: int):
    """Block 0 doesn't exist: taken for ``attentions[-1]`` it would silently be the last."""
    with pytest.raises(LayerMissing, match=f"Block {block} .*1 to 4"), interventions.skip(llama, block, "mlp", [0]):
        pass


def test_negative_positions_are_refused(case):
    """Counted from the end they would mean another token at every step of ``generate``."""
    for name, intervention in every_kind(case, [-1]).items():
        with pytest.raises(ValueError, match="-1"), intervention:
            pytest.fail(name)


@pytest.mark.parametrize("shape", [(3,), (32, 1), (2, 32), ()])
def test_a_vector_of_another_width_is_refused(llama: LoadedModel, shape: tuple[int, ...]):
    with pytest.raises(StatesUnusable, match="32"):
        interventions.add(llama, 1, [0, 1], torch.zeros(shape))


@pytest.mark.parametrize("shape", [(32,), (1, 32), (2, 31), (3, 32)])
def test_replacements_must_be_one_vector_a_position(llama: LoadedModel, shape: tuple[int, ...]):
    with pytest.raises(StatesUnusable, match=r"\(2, 32\)"):
        interventions.replace(llama, 1, [0, 1], torch.zeros(shape))
