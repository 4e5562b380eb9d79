"""States equal the model's own, bit for bit; runs stop early; hooks never stay."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lens.backend.encoding import encode
from lens.backend.hooks import Hook, attached
from lens.backend.loading import LoadedModel
from lens.backend.tracing import hidden_sites, text_states, trace
from lens.errors import CapabilityMissing, LayerMissing, MemoryExhausted, SiteMissing


def hook_counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """How many hooks each module carries."""
    return {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}


@contextmanager
def no_hook_stays(loaded: LoadedModel) -> Iterator[None]:
    """Check that the model carries as many hooks after as before."""
    before = hook_counts(loaded.model)
    yield
    assert hook_counts(loaded.model) == before


@contextmanager
def counted(modules: tuple[nn.Module, ...]) -> Iterator[list[int]]:
    """Which of ``modules`` ran, by index, in order."""
    ran: list[int] = []
    handles = [m.register_forward_pre_hook(lambda _m, _a, i=i: ran.append(i)) for i, m in enumerate(modules)]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def own_output(case):
    with torch.inference_mode():
        return case.loaded.model(**case.encoded.inputs, use_cache=False, output_hidden_states=True)


def test_every_layer_equals_the_models_own_hidden_states(case):
    states = trace(case.loaded, case.encoded, [*hidden_sites(case.depth), "logits"])
    output = own_output(case)
    assert len(output.hidden_states) == case.depth + 1
    for layer, expected in enumerate(output.hidden_states):
        found = states.hidden(layer)
        assert found.shape == (case.length, case.loaded.anatomy.width)
        assert torch.equal(found, expected[0]), f"layer {layer}"
        assert torch.equal(found.norm(dim=-1), expected[0].norm(dim=-1)), f"layer {layer}"
    assert torch.equal(states.site("logits"), output.logits[0])
    assert states.seconds > 0


def test_the_last_layer_is_after_the_norm_and_the_last_block_before(case):
    last = case.depth
    states = trace(case.loaded, case.encoded, [f"block.{last}", f"hidden.{last}"])
    before, after = states.site(f"block.{last}"), states.hidden(last)
    assert not torch.allclose(before, after, atol=1e-2)
    with torch.inference_mode():
        assert torch.equal(case.loaded.anatomy.final_norm(before), after)


def test_inner_blocks_and_layers_are_the_same_states(case):
    states = trace(case.loaded, case.encoded, ["hidden.1", "block.1", "hidden.2", "block.2"])
    for layer in (1, 2):
        assert torch.equal(states.hidden(layer), states.site(f"block.{layer}"))


def test_what_enters_a_block_plus_what_its_sublayers_add_is_what_leaves_it(case):
    blocks = range(1, case.depth + 1)
    sites = [f"{name}.{i}" for i in blocks for name in ("attention", "mlp", "block")]
    states = trace(case.loaded, case.encoded, [*hidden_sites(case.depth), *sites])
    for i in blocks:
        total = states.hidden(i - 1) + states.site(f"attention.{i}") + states.site(f"mlp.{i}")
        torch.testing.assert_close(total, states.site(f"block.{i}"), rtol=1e-5, atol=1e-5)


def test_at_visual_positions_layer_0_is_the_connectors_output(cases):
    for name in ("llava", "demo"):
        case = cases(name)
        states = trace(case.loaded, case.encoded, ["connector", "hidden.0"])
        visual = case.encoded.token_map.visual_positions
        assert len(visual) == len(states.site("connector")) > 0
        assert torch.equal(states.hidden(0)[visual], states.site("connector"))


def test_at_text_positions_layer_0_is_the_input_embedding(cases):
    for name in ("llama", "llava", "demo"):
        case = cases(name)
        text = [p for p, kind in enumerate(case.encoded.token_map.kinds) if kind != "image"]
        ids = torch.tensor(case.encoded.token_map.ids)[text]
        states = trace(case.loaded, case.encoded, ["hidden.0"])
        assert torch.equal(states.hidden(0)[text], case.loaded.anatomy.embeddings.weight[ids])


def test_vision_blocks_equal_the_towers_own_hidden_states(seeing):
    tower = seeing.loaded.anatomy.vision_tower
    states = trace(seeing.loaded, seeing.encoded, ["vision.1", "vision.2", "vision.3"])
    with torch.inference_mode():
        expected = tower(seeing.encoded.inputs["pixel_values"], output_hidden_states=True).hidden_states
    for block in (1, 2, 3):
        assert torch.equal(states.site(f"vision.{block}"), expected[block][0])


def test_a_feature_map_is_flattened_in_reading_order(cases):
    case = cases("demo")
    found: list[torch.Tensor] = []
    block = case.loaded.anatomy.vision_blocks[3]
    with attached([Hook(block, "after", lambda _m, _a, _k, output: found.append(output))]):
        states = trace(case.loaded, case.encoded, ["vision.4"])
    _, channels, rows, cols = found[0].shape
    cells = states.site("vision.4")
    assert cells.shape == (rows * cols, channels)
    assert torch.equal(cells[1 * cols + 2], found[0][0, :, 1, 2])


@pytest.mark.parametrize("last", ["hidden.0", "hidden.1", "attention.2", "mlp.2", "block.2", "block.{N}"])
def test_a_run_stops_after_the_last_site_with_the_same_values(case, last: str):
    site = last.format(N=case.depth)
    whole = trace(case.loaded, case.encoded, [site, "logits"])
    blocks, head = case.loaded.anatomy.blocks, case.loaded.anatomy.unembedding
    with counted((*blocks, head)) as ran:
        short = trace(case.loaded, case.encoded, [site])
    # A pre-hook counts a block as run when it is entered; for hidden.0 the first is entered and left at once.
    entered = max(1, int(site.split(".")[1]))
    assert ran == list(range(entered))
    assert torch.equal(short.site(site), whole.site(site))


def test_hidden_0_runs_no_attention(case):
    with counted(case.loaded.anatomy.attentions) as ran:
        trace(case.loaded, case.encoded, ["hidden.0"])
    assert ran == []


def test_the_connector_alone_runs_no_text_block(cases):
    for name in ("llava", "demo"):
        case = cases(name)
        with counted(case.loaded.anatomy.blocks) as ran:
            trace(case.loaded, case.encoded, ["vision.1", "connector"])
        assert ran == []


def test_the_last_layer_runs_no_unembedding(case):
    with counted((case.loaded.anatomy.unembedding,)) as ran:
        trace(case.loaded, case.encoded, [f"hidden.{case.depth}"])
    assert ran == []


def test_the_order_in_which_sites_are_asked_for_does_not_matter(case):
    sites = [*hidden_sites(case.depth), "mlp.1", "attention.2"]
    forwards, backwards = (trace(case.loaded, case.encoded, s) for s in (sites, sites[::-1]))
    assert forwards.states.keys() == backwards.states.keys() == set(sites)
    assert all(torch.equal(forwards.site(site), backwards.site(site)) for site in sites)


def test_no_hook_stays_after_success_or_early_exit(case):
    own_output(case)  # transformers puts its own hooks on at the first call that asks for hidden states, and keeps them
    with no_hook_stays(case.loaded):
        trace(case.loaded, case.encoded, [*hidden_sites(case.depth), "logits"])
        trace(case.loaded, case.encoded, ["hidden.1"])
        text_states(case.loaded, torch.tensor([[5, 6, 7]]), torch.ones(1, 3), [0, 2])


def test_no_hook_stays_when_the_forward_raises(case):
    own_output(case)

    def burst(_module, _args):
        raise RuntimeError("out of memory, say")

    handle = case.loaded.anatomy.blocks[1].register_forward_pre_hook(burst)
    try:
        with no_hook_stays(case.loaded), pytest.raises(MemoryExhausted, match="out of memory"):
            trace(case.loaded, case.encoded, hidden_sites(case.depth))
    finally:
        handle.remove()
    assert torch.equal(trace(case.loaded, case.encoded, ["hidden.1"]).hidden(1), own_output(case).hidden_states[1][0])


def test_no_hook_stays_when_registering_fails_half_way(llama: LoadedModel):
    class Unhookable(nn.Module):
        def register_forward_hook(self, *args, **kwargs):
            raise RuntimeError("no")

    hooks = [Hook(llama.anatomy.blocks[0], "after", print), Hook(Unhookable(), "after", print)]
    with no_hook_stays(llama), pytest.raises(RuntimeError, match="no"), attached(hooks):
        pass


@pytest.mark.parametrize("site", ["hidden.0", "hidden.2", "vision.1", "connector"])
def test_the_models_own_capture_works_after_an_early_exit(seeing, site: str):
    """The exception passes through transformers' collectors, inside the tower too: none may be left switched on."""
    before = own_output(seeing)
    trace(seeing.loaded, seeing.encoded, [site])
    after = own_output(seeing)
    assert len(after.hidden_states) == len(before.hidden_states)
    assert all(torch.equal(a, b) for a, b in zip(after.hidden_states, before.hidden_states, strict=True))
    with torch.inference_mode():
        assert seeing.loaded.model(**seeing.encoded.inputs).hidden_states is None


def test_observing_changes_nothing(case):
    before = own_output(case).logits
    states = trace(case.loaded, case.encoded, [*hidden_sites(case.depth), "attention.1", "mlp.1", "logits"])
    assert torch.equal(states.site("logits"), before[0])
    assert torch.equal(own_output(case).logits, before)


def test_captured_states_are_not_written_to_afterwards(case):
    """A later forward leaves an earlier trace as it was."""
    states = trace(case.loaded, case.encoded, hidden_sites(case.depth))
    kept = {site: tensor.clone() for site, tensor in states.states.items()}
    trace(case.loaded, encode(case.loaded, "A cat sat"), hidden_sites(case.depth))
    assert all(torch.equal(states.site(site), tensor) for site, tensor in kept.items())


def test_concurrent_traces_give_the_same_values(case):
    other = encode(case.loaded, "Two dogs run over wet sand.")
    jobs = [(case.encoded, hidden_sites(case.depth)), (case.encoded, ("hidden.1",)), (other, ("logits", "mlp.1"))]
    expected = [trace(case.loaded, encoded, sites) for encoded, sites in jobs]
    with ThreadPoolExecutor(8) as pool:
        runs = [(i, pool.submit(trace, case.loaded, *jobs[i])) for _ in range(8) for i in range(len(jobs))]
        for i, run in runs:
            found = run.result()
            for site in jobs[i][1]:
                # Not bit by bit: once numba is loaded, worker threads round differently (6e-6 seen on logits).
                torch.testing.assert_close(found.site(site), expected[i].site(site), rtol=1e-4, atol=1e-4)


def test_a_trace_counts_its_bytes_and_names_what_it_has(case):
    states = trace(case.loaded, case.encoded, ["hidden.0", "hidden.1"])
    picture = case.encoded.picture.nbytes if case.encoded.picture else 0
    assert states.nbytes == 2 * case.length * case.loaded.anatomy.width * 4 + picture
    assert (states.key, states.depth, states.token_map) == (case.encoded.key, case.depth, case.encoded.token_map)
    with pytest.raises(SiteMissing, match=r"'hidden.2'.*hidden.0, hidden.1"):
        states.hidden(2)


@pytest.mark.parametrize(
    "site",
    ["", "hidden", "hidden.", "hidden.x", "hidden.-1", "hidden.1.2", "logits.1", "connector.2", "head.3", "hidden.²"],
)
def test_unknown_sites_are_refused(llama: LoadedModel, site: str):
    with pytest.raises(SiteMissing, match="known are"):
        trace(llama, encode(llama, "A cat"), [site])


@pytest.mark.parametrize("site", ["hidden.5", "block.0", "block.5", "attention.0", "mlp.5"])
def test_layers_that_are_not_there_are_refused(llama: LoadedModel, site: str):
    with pytest.raises(LayerMissing):
        trace(llama, encode(llama, "A cat"), [site])


@pytest.mark.parametrize("site", ["vision.1", "connector"])
def test_vision_sites_of_a_text_model_are_refused(llama: LoadedModel, site: str):
    with pytest.raises(CapabilityMissing):
        trace(llama, encode(llama, "A cat"), [site])


@pytest.mark.parametrize("site", ["vision.1", "connector"])
def test_vision_sites_without_a_picture_are_refused(llava: LoadedModel, site: str):
    with pytest.raises(SiteMissing, match=f"{site}.*picture"):
        trace(llava, encode(llava, "A cat"), ["hidden.1", site])


def test_no_sites_no_run(case):
    with counted(case.loaded.anatomy.blocks) as ran:
        assert trace(case.loaded, case.encoded, []).states == {}
    assert ran == []


def padded(rows: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def test_a_padded_batch_has_the_states_of_each_text_alone(case):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(5, 300, (n,), generator=generator).tolist() for n in (7, 2, 11, 1)]
    layers = range(case.depth + 1)
    batch = text_states(case.loaded, *padded(rows), layers)
    assert sorted(batch) == list(layers)
    for i, row in enumerate(rows):
        ids = torch.tensor([row])
        alone = text_states(case.loaded, ids, torch.ones_like(ids), layers)
        with torch.inference_mode():
            own = case.loaded.anatomy.text_model(input_ids=ids, output_hidden_states=True, use_cache=False)
        for layer in layers:
            assert torch.equal(alone[layer][0], own.hidden_states[layer][0])
            torch.testing.assert_close(batch[layer][i, : len(row)], alone[layer][0], rtol=1e-4, atol=1e-4)


def test_what_stands_in_the_padding_does_not_matter(case):
    rows = [[5, 6, 7, 8], [9, 10]]
    first, second = (text_states(case.loaded, *padded(rows, pad), [case.depth])[case.depth] for pad in (0, 77))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1, :2], second[1, :2])


def test_text_states_go_no_deeper_than_asked_and_unembed_nothing(case):
    ids = torch.tensor([[5, 6, 7]])
    anatomy = case.loaded.anatomy
    with counted((*anatomy.blocks, anatomy.unembedding)) as ran:
        found = text_states(case.loaded, ids, torch.ones_like(ids), [2, 1, 2])
    assert ran == [0, 1]
    assert sorted(found) == [1, 2]


def test_text_states_refuse_missing_layers(case):
    ids = torch.tensor([[5, 6, 7]])
    for layer in (-1, case.depth + 1):
        with pytest.raises(LayerMissing):
            text_states(case.loaded, ids, torch.ones_like(ids), [1, layer])
