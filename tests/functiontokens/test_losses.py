"""The four-group loss: its parts are the whole, exactly; a corpus gives what its sentences give one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.backend.tracing import text_states
from lens.errors import Cancelled, CorpusUnreadable
from lens.functiontokens.losses import PAIRS, Tally, batches, by_pair, corpus_losses, prediction_losses, text_losses
from tests.helpers import TEXT, tiny_llama

SENTENCES = TEXT.replace("\n", " ").split(". ")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def function_ids(llama: LoadedModel) -> set[int]:
    """Every third id, so that all four kinds occur."""
    return set(range(0, llama.anatomy.vocab_size, 3))


def by_hand(llama: LoadedModel, text: str) -> tuple[list[int], torch.Tensor]:
    """A text's tokens and the model's own log-probabilities of the next one, in one plain forward."""
    ids = llama.tokenizer(text)["input_ids"]
    with torch.inference_mode():
        logits = llama.model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits
    return ids, logits[0].double().log_softmax(-1)


def test_losses_and_entropies_are_those_of_a_plain_forward(llama: LoadedModel):
    ids, logprobs = by_hand(llama, TEXT)
    depth = llama.anatomy.depth
    final = text_states(llama, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), [depth])[depth][0]
    losses, entropies = prediction_losses(llama, final, ids)
    assert np.isnan(losses[0]) and np.isnan(entropies[0])
    for t in range(1, len(ids)):
        assert losses[t] == pytest.approx(-float(logprobs[t - 1, ids[t]]), abs=1e-4)
        assert entropies[t] == pytest.approx(float(-(logprobs[t - 1].exp() * logprobs[t - 1]).sum()), abs=1e-4)


def test_pieces_of_the_sequence_make_no_difference(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    final, ids = torch.randn(20, llama.anatomy.width, generator=generator), list(range(20))
    whole = prediction_losses(llama, final, ids)
    monkeypatch.setattr("lens.functiontokens.losses.UNEMBEDDED", 7)
    for a, b in zip(whole, prediction_losses(llama, final, ids), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_every_prediction_is_of_one_kind():
    function = [True, False, False, True, True, False]
    counted = [True, True, True, True, True, False]
    sums, counts = by_pair(np.array([np.nan, 1.0, 2, 4, 8, 16]), function, counted)
    found = {PAIRS[int(row.argmax())]: float(s.sum()) for row, s in zip(counts, sums, strict=True) if row.any()}
    assert found == {
        ("function", "content"): 1.0,
        ("content", "content"): 2.0,
        ("content", "function"): 4.0,
        ("function", "function"): 8.0,
    }
    assert counts.sum() == 4  # the last is not counted


def test_fact_5_shares_times_losses_are_the_mean_cross_entropy(llama: LoadedModel, function_ids: set[int]):
    found = corpus_losses(llama, SENTENCES, function_ids)
    plain = [(ids, logprobs) for ids, logprobs in (by_hand(llama, text) for text in SENTENCES) if len(ids) > 1]
    each = [-float(logprobs[t, ids[t + 1]]) for ids, logprobs in plain for t in range(len(ids) - 1)]
    assert found.count == len(each) == sum(pair.count for pair in found.pairs)
    assert found.loss == pytest.approx(np.mean(each), abs=1e-4)
    weighted = sum(pair.share * pair.loss for pair in found.pairs if pair.loss is not None)
    assert weighted == pytest.approx(found.loss, rel=1e-12)
    assert sum(pair.share for pair in found.pairs) == pytest.approx(1, abs=1e-12)
    assert all(pair.count and pair.low < pair.loss < pair.high for pair in found.pairs)
    assert found.units == len(plain) and found.unit == "document" and found.low < found.loss < found.high


def test_a_corpus_is_its_sentences(llama: LoadedModel, function_ids: set[int]):
    whole = corpus_losses(llama, SENTENCES, function_ids)
    alone = [
        corpus_losses(llama, [text], function_ids) for text in SENTENCES if len(llama.tokenizer(text)["input_ids"]) > 1
    ]
    for kind in range(4):
        parts = [one.pairs[kind] for one in alone if one.pairs[kind].count]
        assert whole.pairs[kind].count == sum(part.count for part in parts)
        total = sum(part.count * part.loss for part in parts)
        assert whole.pairs[kind].loss == pytest.approx(total / whole.pairs[kind].count, abs=1e-4)


def test_the_interval_is_that_of_the_documents():
    """Against the textbook standard error of a mean over independent documents of one prediction each."""
    values = np.random.default_rng(1).normal(3, 1, 400)
    tally = Tally(resamples=2000)
    for value in values:  # one by one, as a corpus streams by
        tally.add(np.array([[value, 0, 0, 0]]), np.array([[1, 0, 0, 0]]))
    found = tally.result("corpus", "document")
    error = values.std() / 20
    assert found.loss == pytest.approx(values.mean(), rel=1e-12)
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert found.pairs[0].loss == found.loss and found.pairs[0].share == 1
    empty = found.pairs[1]
    assert (empty.count, empty.share, empty.loss, empty.low, empty.high) == (0, 0.0, None, None, None)


def test_the_same_seed_gives_the_same_intervals(llama: LoadedModel, function_ids: set[int]):
    first, again = (corpus_losses(llama, SENTENCES, function_ids, seed=3) for _ in range(2))
    assert first == again and first != corpus_losses(llama, SENTENCES, function_ids, seed=4)
    assert first.as_json()["pairs"][0]["loss"] == first.pairs[0].loss


def test_reading_stops_at_the_limit_and_reports(llama: LoadedModel, function_ids: set[int]):
    seen: list[tuple[float, float]] = []
    endless = (text for _ in iter(int, 1) for text in SENTENCES)
    found = corpus_losses(llama, endless, function_ids, limit=300, report=lambda d, t, m: seen.append((d, t)))
    assert found.count < 3000 and seen[0] == (0, 300)

    def stop(done: float, total: float, message: str) -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        corpus_losses(llama, SENTENCES, function_ids, report=stop)


def test_batches_keep_every_sentence_once_and_stay_small(llama: LoadedModel):
    texts = [" ".join(SENTENCES[: 1 + n % 7]) for n in range(150)]
    found = list(batches(llama, texts, 64))
    sizes = [len(batch) * max(len(tokens.ids) for tokens in batch) for batch in found]
    assert sum(map(len, found)) == 150 and max(sizes) <= 2048
    assert all(len(tokens.ids) <= 64 for batch in found for tokens in batch)


def test_text_without_predictions(llama: LoadedModel):
    with pytest.raises(CorpusUnreadable, match="two tokens"):
        corpus_losses(llama, ["a", "b"], {1})
    nothing = text_losses("the prompt", np.array([np.nan]), [True], [True])
    assert nothing.loss is None and nothing.count == 0
