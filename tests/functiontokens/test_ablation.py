"""Ablation: matched draws, compared at the same places; a verdict that follows the numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lens.backend import interventions
from lens.backend.encoding import Encoded, encode
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.errors import CorpusUnreadable, LayerMissing, PromptUnusable
from lens.functiontokens import ablation
from lens.functiontokens.ablation import Estimate, ablate_corpus, ablate_prompt, raw_text, verdict
from lens.functiontokens.losses import prediction_losses
from tests.helpers import TEXT, tiny_llama

SENTENCES = [f"{text}." for text in TEXT.replace("\n", " ").split(". ")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"), bos=True)


@pytest.fixture(scope="module")
def encoded(llama: LoadedModel) -> Encoded:
    return encode(llama, TEXT[:200].replace("\n", " "))


@pytest.fixture(scope="module")
def function_ids(llama: LoadedModel) -> set[int]:
    return set(range(0, llama.anatomy.vocab_size, 3))


def test_each_draw_takes_as_many_of_both_groups_and_never_the_first_two(llama, encoded, function_ids, monkeypatch):
    seen: list[list[int]] = []
    plain = ablation._losses
    monkeypatch.setattr(ablation, "_losses", lambda *a: seen.append(list(a[3])) or plain(*a))
    found = ablate_prompt(llama, encoded, function_ids, 2, draws=4, share=0.5)
    ids = encoded.token_map.ids
    is_function = [i in function_ids for i in ids]
    least = min(sum(is_function[2:]), sum(not f for f in is_function[2:]))
    assert seen[0] == [] and len(seen) == 9 and found.texts[0].ablated == round(0.5 * least)
    for function, content in zip(seen[1::2], seen[2::2], strict=True):
        assert len(set(function)) == len(set(content)) == found.texts[0].ablated
        assert all(is_function[p] and p >= 2 for p in function)
        assert all(not is_function[p] and p >= 2 for p in content)
    assert seen[1] != seen[3]


@pytest.mark.parametrize("kind", ["own", "all"])
def test_changes_are_those_of_a_run_by_hand(llama: LoadedModel, encoded: Encoded, function_ids, monkeypatch, kind):
    drawn: list[list[int]] = []
    plain = ablation._losses
    monkeypatch.setattr(ablation, "_losses", lambda *a: drawn.append(list(a[3])) or plain(*a))
    found = ablate_prompt(llama, encoded, function_ids, 2, draws=1, means=kind)
    text = found.texts[0]
    states = trace(llama, encoded, ["hidden.2", "hidden.4"])
    ids = encoded.token_map.ids
    own = np.array([i in function_ids for i in ids])
    own[:2] = False
    other = ~own
    other[:2] = False
    means = [states.hidden(2)[group].mean(0) for group in ((own, other) if kind == "own" else (own | other,) * 2)]
    base, _ = prediction_losses(llama, states.hidden(4), ids)
    predicted = np.arange(2, len(ids))  # <s> predicts nothing that counts
    taken = {p + 1 for positions in drawn[1:] for p in positions}
    elsewhere = [t for t in predicted if t not in taken]
    assert text.base == pytest.approx(base[predicted].mean())
    changes = ((text.function, text.function_everywhere), (text.content, text.content_everywhere))
    for positions, mean, (inside, everywhere) in zip(drawn[1:], means, changes, strict=True):
        with interventions.edit(llama, 2, positions, lambda s, w, mean=mean: mean.expand_as(s)):
            final = trace(llama, encoded, ["hidden.4"]).hidden(4)
        change = prediction_losses(llama, final, ids)[0] - base
        assert inside[0] == pytest.approx(change[elsewhere].mean(), abs=1e-4)
        assert everywhere[0] == pytest.approx(change[predicted].mean(), abs=1e-4)
        assert abs(inside[0]) > 1e-4 and inside != everywhere
    assert found.difference.mean == pytest.approx(text.function[0] - text.content[0])
    assert found.everywhere.mean == pytest.approx(text.function_everywhere[0] - text.content_everywhere[0])


def test_after_the_final_norm_nothing_changes_elsewhere(llama: LoadedModel, encoded: Encoded, function_ids):
    """At layer N a position gives to its own prediction alone: the two measures are told apart."""
    found = ablate_prompt(llama, encoded, function_ids, llama.anatomy.depth, draws=3)
    text = found.texts[0]
    assert max(map(abs, (*text.function, *text.content))) < 1e-6
    assert min(map(abs, text.function_everywhere)) > 1e-3
    assert "neither" in found.verdict


def test_a_corpus_is_averaged_over_its_texts(llama: LoadedModel, function_ids: set[int]):
    found = ablate_corpus(llama, SENTENCES, function_ids, 2, name="tiny.txt", texts=6, draws=2)
    assert len(found.texts) == 6 and found.unit == "text"
    means = [np.mean(text.function) - np.mean(text.content) for text in found.texts]
    assert found.difference.mean == pytest.approx(np.mean(means))
    assert found.difference.low < found.difference.mean < found.difference.high
    assert found.function.mean - found.content.mean == pytest.approx(found.difference.mean)
    assert "6 texts of tiny.txt" in found.verdict
    again = ablate_corpus(llama, iter(SENTENCES), function_ids, 2, name="tiny.txt", texts=6, draws=2)
    assert again == found
    json.dumps(found.as_json(), allow_nan=False)


def test_raw_text_is_read_without_template(llama: LoadedModel):
    encoded = raw_text(llama, SENTENCES[0], 10)
    ids = llama.tokenizer(SENTENCES[0])["input_ids"][:10]
    assert list(encoded.token_map.ids) == ids and encoded.token_map.kinds[0] == "special"
    assert set(encoded.token_map.kinds[1:]) == {"text"}
    assert torch.equal(encoded.inputs["input_ids"], torch.tensor([ids]))


def test_the_verdict_follows_the_interval():
    def said(low: float, high: float) -> str:
        return verdict("it", 3, 5, Estimate(0.2, 0, 1), Estimate(0.1, 0, 1), Estimate((low + high) / 2, low, high))

    assert "as the paper claims" in said(0.01, 0.2)
    assert "opposite" in said(-0.2, -0.01)
    assert "no support" in said(-0.1, 0.1)
    assert "no support" in said(-0.01, 0.5) and "no support" in said(-0.5, 0.01)
    assert "+0.200" in said(0.01, 0.2) and "layer 3" in said(0.01, 0.2)


def test_too_little_text(llama: LoadedModel, encoded: Encoded, function_ids: set[int]):
    with pytest.raises(PromptUnusable, match="two function and two content"):
        ablate_prompt(llama, encoded, [], 2)
    with pytest.raises(CorpusUnreadable, match="longer sentences"):
        ablate_corpus(llama, ["a", "it"], function_ids, 2)
    with pytest.raises(LayerMissing):
        ablate_prompt(llama, encoded, function_ids, 99)
