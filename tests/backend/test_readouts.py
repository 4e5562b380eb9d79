"""Logit lens and embedding lens against the same thing computed by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lens.backend import readouts
from lens.backend.loading import LoadedModel
from lens.backend.readouts import check_states, embedding_lens, logit_lens, promoted_words
from lens.backend.tracing import hidden_sites, trace
from lens.backend.words import token_text
from lens.errors import LayerMissing, StatesUnusable
from tests.helpers import tiny_llama


def test_at_the_last_layer_the_logit_lens_is_the_models_own_head(case):
    """The state has the final norm already; a second one would give other logits."""
    states = trace(case.loaded, case.encoded, [f"hidden.{case.depth}", "logits"])
    words = logit_lens(case.loaded, states.hidden(case.depth), case.depth, k=7)
    own = states.site("logits").topk(7)
    assert np.array_equal(words.ids, own.indices.numpy())
    np.testing.assert_allclose(words.scores, own.values.numpy(), rtol=1e-5, atol=1e-5)
    twice = logit_lens(case.loaded, states.hidden(case.depth), case.depth - 1, k=7)
    assert not np.allclose(twice.scores, words.scores, atol=1e-3)


def test_before_the_last_layer_the_final_norm_is_applied_once(case):
    anatomy = case.loaded.anatomy
    states = trace(case.loaded, case.encoded, [*hidden_sites(case.depth), f"block.{case.depth}", "logits"])
    for layer in range(case.depth):
        words = logit_lens(case.loaded, states.hidden(layer), layer, k=5)
        with torch.inference_mode():
            own = anatomy.unembedding(anatomy.final_norm(states.hidden(layer))).topk(5)
        assert np.array_equal(words.ids, own.indices.numpy())
        assert np.array_equal(words.scores, own.values.numpy())
    last = logit_lens(case.loaded, states.site(f"block.{case.depth}"), case.depth - 1, k=5)
    np.testing.assert_allclose(last.scores, states.site("logits").topk(5).values.numpy(), rtol=1e-5, atol=1e-5)


def test_the_logit_lens_written_out_for_a_llama(llama: LoadedModel):
    """RMS norm and matrix product in float64, from the weights alone."""
    states = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    h = states.double().numpy()
    gain = llama.anatomy.final_norm.weight.double().numpy()
    normed = h / np.sqrt((h**2).mean(-1, keepdims=True) + llama.model.config.rms_norm_eps) * gain
    logits = normed @ llama.anatomy.unembedding.weight.double().numpy().T
    words = logit_lens(llama, states, 2, k=4)
    assert np.array_equal(words.ids, np.argsort(-logits, axis=-1)[:, :4])
    np.testing.assert_allclose(words.scores, np.take_along_axis(logits, words.ids, 1), rtol=1e-4)


def test_promoted_words_are_what_a_direction_changes(case):
    """In float64, from what norm and head make of the direction and of nothing."""
    anatomy, depth = case.loaded.anatomy, case.depth
    directions = torch.randn(4, anatomy.width, generator=torch.Generator().manual_seed(2))
    weight = anatomy.unembedding.weight.double()
    common = torch.nn.functional.normalize(weight.mean(0), dim=0)
    with torch.inference_mode():
        normed = (anatomy.final_norm(directions) - anatomy.final_norm(torch.zeros_like(directions))).double()
    for layer, states in ((1, normed), (depth, directions.double())):
        words = promoted_words(case.loaded, directions, layer, k=6)
        logits = ((states - (states @ common)[:, None] * common) @ weight.T).numpy()
        np.testing.assert_allclose(words.scores, -np.sort(-logits, axis=1)[:, :6], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(logits, words.ids, 1), words.scores, rtol=1e-3, atol=1e-4)
    moved = promoted_words(case.loaded, directions + 5 * common.float(), depth, k=6)
    assert np.array_equal(moved.ids, words.ids)
    with pytest.raises(StatesUnusable):
        promoted_words(case.loaded, torch.zeros(1, anatomy.width), 1)


def test_the_embedding_lens_equals_brute_force(case):
    states = trace(case.loaded, case.encoded, ["hidden.2"]).hidden(2)
    e = case.loaded.anatomy.embeddings.weight.double().numpy()
    h = states.double().numpy()
    with np.errstate(invalid="ignore"):
        cosines = (h @ e.T) / np.linalg.norm(h, axis=1)[:, None] / np.linalg.norm(e, axis=1)
    cosines[:, ~e.any(axis=1)] = -2  # Llama's padding row is zero
    words = embedding_lens(case.loaded, states, k=6)
    assert np.array_equal(words.ids, np.argsort(-cosines, axis=-1)[:, :6])
    np.testing.assert_allclose(words.scores, np.sort(cosines, axis=-1)[:, ::-1][:, :6], atol=1e-6)


def test_an_embedding_is_nearest_to_itself(case):
    weight = case.loaded.anatomy.embeddings.weight
    words = embedding_lens(case.loaded, weight[40:60], k=1)
    assert words.ids[:, 0].tolist() == list(range(40, 60))
    np.testing.assert_allclose(words.scores[:, 0], 1, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 7.0, 1e30])
def test_the_embedding_lens_does_not_see_the_scale(llama: LoadedModel, factor: float):
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    plain, scaled = embedding_lens(llama, states), embedding_lens(llama, states * factor)
    assert np.array_equal(plain.ids, scaled.ids)
    np.testing.assert_allclose(plain.scores, scaled.scores, atol=1e-6)


def test_best_first_with_the_tokens_text(case):
    states = trace(case.loaded, case.encoded, ["hidden.1"]).hidden(1)
    for words in (logit_lens(case.loaded, states, 1, k=3), embedding_lens(case.loaded, states, k=3)):
        assert words.ids.shape == words.scores.shape == (case.length, 3)
        assert (np.diff(words.scores, axis=1) <= 0).all()
        for ids, tokens in zip(words.ids, words.tokens, strict=True):
            assert list(tokens) == [token_text(case.loaded.tokenizer, int(i)) for i in ids]


def test_words_are_read_while_another_run_has_the_model_and_its_hooks(llama: LoadedModel):
    """A reader who only clicks waits for nobody's answer, sees nothing of another's intervention, and shows it nothing."""
    states, seen = torch.randn(3, llama.anatomy.width, dtype=llama.dtype), []
    expected = logit_lens(llama, states, 1), promoted_words(llama, states, 1)

    def meddle(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output)
        return torch.zeros_like(output)

    parts = (llama.anatomy.final_norm, llama.anatomy.unembedding)
    hooks = [part.register_forward_hook(meddle) for part in parts]
    try:
        with llama.lock, ThreadPoolExecutor(1) as other:
            found = other.submit(lambda: (logit_lens(llama, states, 1), promoted_words(llama, states, 1))).result(30)
    finally:
        for hook in hooks:
            hook.remove()
    assert not seen
    for one, same in zip(found, expected, strict=True):
        assert np.array_equal(one.ids, same.ids) and np.array_equal(one.scores, same.scores)


def test_a_leading_space_is_kept(llama: LoadedModel):
    (cat,) = llama.tokenizer(" sat", add_special_tokens=False)["input_ids"][-1:]
    assert embedding_lens(llama, llama.anatomy.embeddings.weight[cat][None], k=1).tokens == ((" sat",),)


def test_chunks_make_no_difference(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    states = torch.randn(10, 32, generator=torch.Generator().manual_seed(2))
    whole = logit_lens(llama, states, 1), embedding_lens(llama, states)
    monkeypatch.setattr(readouts, "CHUNK", 3)
    monkeypatch.setattr(readouts, "VOCABULARY_CHUNK", 4)
    pieces = logit_lens(llama, states, 1), embedding_lens(llama, states)
    for one, many in zip(whole, pieces, strict=True):
        assert np.array_equal(one.ids, many.ids)
        np.testing.assert_allclose(one.scores, many.scores, rtol=1e-5)


def test_empty_embedding_rows_are_nobodys_neighbours(tmp_path):
    loaded = tiny_llama(tmp_path)
    weight = loaded.anatomy.embeddings.weight
    weight.data[7] = 0
    empty = int((weight == 0).all(dim=1).sum())
    words = embedding_lens(loaded, torch.randn(4, 32), k=len(weight) - empty)
    assert not np.isin(words.ids, [0, 7]).any()
    assert np.isfinite(words.scores).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_states_that_are_no_numbers_are_refused(llama: LoadedModel, value: float):
    states = torch.randn(3, 32)
    states[1, 4] = value
    for lens in (lambda: logit_lens(llama, states, 1), lambda: embedding_lens(llama, states)):
        with pytest.raises(StatesUnusable, match="1 of 3 states"):
            lens()


def test_zero_states_have_no_cosine(llama: LoadedModel):
    states = torch.randn(4, 32)
    states[:2] = 0
    with pytest.raises(StatesUnusable, match="2 of 4"):
        embedding_lens(llama, states)
    # The logit lens is defined for them: the norm maps zero to zero.
    assert np.isfinite(logit_lens(llama, states, 1).scores).all()


def test_numpy_states_are_checked_too():
    check_states(np.ones((2, 3)))
    with pytest.raises(StatesUnusable, match="1 of 2"):
        check_states(np.array([[1.0, 2.0], [0.0, 0.0]]))
    check_states(np.zeros((1, 3)), zeros=False)


@pytest.mark.parametrize("layer", [-1, 5])
def test_layers_that_are_not_there_are_refused(llama: LoadedModel, layer: int):
    with pytest.raises(LayerMissing):
        logit_lens(llama, torch.ones(1, 32), layer)
