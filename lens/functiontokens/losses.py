"""The loss of predicting tokens, by what the current and the next token are: function or content.

A prediction made at a token (the *current* one) is about the *next* one; its loss is the cross-entropy -log p(next), in
nats. The pairs of groups make four kinds of prediction (arXiv 2510.08203: a content token after a function token costs
most). Invariant: the losses of the four kinds, weighted with their shares, sum to the mean cross-entropy.

Intervals are a Poisson bootstrap (Chamandy et al. 2012): every independent unit, a document of a corpus, gets a
Poisson(1) weight in each resample. So a corpus streams by, and memory doesn't grow with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend.batches import pad
from lens.backend.loading import LoadedModel
from lens.backend.running import forward
from lens.backend.tracing import text_states
from lens.backend.words import Reader, Tokens
from lens.errors import CorpusUnreadable
from lens.progress import Report, silent

PAIRS = (("function", "content"), ("content", "content"), ("function", "function"), ("content", "function"))
"""(current, next), in the paper's order of falling loss."""

UNEMBEDDED = 256
"""Positions unembedded at once: 256 x 49,152 logits are 50 MB in float32."""
BUFFERED = 64
"""Sentences sorted by length before they are put into batches."""
BATCH = 2048
"""Tokens of one batch, padding included."""


@dataclass(frozen=True)
class PairLoss:
    """The predictions of one kind.

    Attributes:
        current, next: ``"function"`` or ``"content"``.
        count: how many there are. share: their part of all predictions.
        loss: mean cross-entropy in nats, with its 95 % bootstrap interval; ``None`` where there are none.
    """

    current: str
    next: str
    count: int
    share: float
    loss: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupLosses:
    """The four-group loss.

    Attributes:
        name: of the text, shown to readers.
        pairs: in the order of :data:`PAIRS`.
        count: predictions in all. loss: their mean cross-entropy in nats, with its interval; ``None`` without any.
        units: how many independent units the intervals rest on. unit: what these are, ``"document"`` or ``"token"``; tokens
            of one text depend on each other, so that such intervals speak of this text alone.
    """

    name: str
    pairs: tuple[PairLoss, ...]
    count: int
    loss: float | None
    low: float | None
    high: float | None
    units: int
    unit: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """Sums of losses by kind of prediction, for the whole and for every bootstrap resample."""

    def __init__(self, resamples: int = 1000, seed: int = 0) -> None:
        self.units = 0
        self._generator = np.random.default_rng(seed)
        self._sums, self._counts = np.zeros((resamples + 1, 4)), np.zeros((resamples + 1, 4))

    def add(self, sums: Float[np.ndarray, "units 4"], counts: Int[np.ndarray, "units 4"]) -> None:
        """Units with the sum and the number of their losses of each kind."""
        weights = self._generator.poisson(1.0, (len(self._sums), len(sums))).astype(np.float64)
        weights[0] = 1.0  # the first row is the sample itself
        self._sums += weights @ sums
        self._counts += weights @ counts
        self.units += len(sums)

    def result(self, name: str, unit: str) -> GroupLosses:
        counts, total = self._counts[0], self._counts[0].sum()
        pairs = []
        for kind, (current, following) in enumerate(PAIRS):
            share = float(counts[kind] / total) if total else 0.0
            figures = _interval(self._sums[:, kind], self._counts[:, kind])
            pairs.append(PairLoss(current, following, int(counts[kind]), share, *figures))
        whole = _interval(self._sums.sum(1), self._counts.sum(1))
        return GroupLosses(name, tuple(pairs), int(total), *whole, self.units, unit)


def _interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Mean and its middle 95 % over the resamples in which there is anything."""
    if not counts[0]:
        return None, None, None
    drawn = counts[1:] > 0
    low, high = np.quantile(sums[1:][drawn] / counts[1:][drawn], (0.025, 0.975)) if drawn.any() else (np.nan, np.nan)
    return float(sums[0] / counts[0]), float(low), float(high)


def prediction_losses(
    loaded: LoadedModel, final: Float[Tensor, "seq d"], ids: Sequence[int]
) -> tuple[Float[np.ndarray, " seq"], Float[np.ndarray, " seq"]]:
    """What predicting each token cost, and how open the prediction was: -log p(token) and the entropy of p, in nats.

    Both belong to the prediction *of* the token, made at the position before it; the first token has none (NaN).

    Args:
        final: the states of layer N.
        ids: the tokens, as many as states.
    """
    losses, entropies = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    targets = torch.tensor(list(ids), device=loaded.device)
    with loaded.lock, torch.inference_mode():
        for start in range(0, len(ids) - 1, UNEMBEDDED):
            stop = min(start + UNEMBEDDED, len(ids) - 1)
            rows = final[start:stop].to(loaded.device, loaded.dtype)
            logits = forward(loaded, loaded.anatomy.unembedding, rows).float()
            logprobs = logits.log_softmax(-1)
            picked = logprobs.gather(1, targets[start + 1 : stop + 1, None])[:, 0]
            losses[start + 1 : stop + 1] = -picked.double().cpu().numpy()
            entropies[start + 1 : stop + 1] = torch.special.entr(logprobs.exp()).sum(-1).double().cpu().numpy()
    return losses, entropies


def by_pair(
    losses: Float[np.ndarray, " seq"], function: Sequence[bool], counted: Sequence[bool]
) -> tuple[Float[np.ndarray, "seq 4"], Int[np.ndarray, "seq 4"]]:
    """Each token's loss in the column of its kind (:data:`PAIRS`), and 1 there; rows of 0 where there is no prediction.

    ``counted``: tokens that take part. A prediction counts if its token and the one before do.
    """
    is_function, taking_part = np.asarray(function, bool), np.asarray(counted, bool)
    sums, counts = np.zeros((len(losses), 4)), np.zeros((len(losses), 4), np.int64)
    rows = 1 + np.flatnonzero(taking_part[1:] & taking_part[:-1])
    kinds = 2 * is_function[rows] + ~is_function[rows - 1]  # the place in PAIRS
    sums[rows, kinds], counts[rows, kinds] = losses[rows], 1
    return sums, counts


def text_losses(
    name: str, losses: Float[np.ndarray, " seq"], function: Sequence[bool], counted: Sequence[bool], seed: int = 0
) -> GroupLosses:
    """The four-group loss of one text, whose tokens are the units."""
    sums, counts = by_pair(losses, function, counted)
    rows = counts.any(1)
    tally = Tally(seed=seed)
    tally.add(sums[rows], counts[rows])
    return tally.result(name, "token")


def corpus_losses(
    loaded: LoadedModel,
    sentences: Iterable[str],
    function_ids: Collection[int],
    *,
    name: str = "corpus",
    limit: int | None = None,
    max_tokens: int = 256,
    seed: int = 0,
    report: Report = silent,
) -> GroupLosses:
    """The four-group loss of a corpus, each sentence read by itself as raw text (no chat template).

    Args:
        limit: tokens after which reading stops; ``None`` reads everything.
        max_tokens: at which each sentence is cut.

    Raises:
        CorpusUnreadable: no sentence of at least two tokens.
        Cancelled: raised by ``report``.
    """
    tally, function, done = Tally(seed=seed), frozenset(function_ids), 0
    for batch in batches(loaded, sentences, max_tokens):
        report(done, limit or 0, f"{name}: {done:,} tokens read")
        done += sum(len(tokens.ids) for tokens in batch)
        final = _final_states(loaded, batch)
        for tokens, states in zip(batch, final, strict=True):
            losses, _entropy = prediction_losses(loaded, states, tokens.ids)
            sums, counts = by_pair(losses, [i in function for i in tokens.ids], tokens.real)
            tally.add(sums.sum(0, keepdims=True), counts.sum(0, keepdims=True))
        if limit is not None and done >= limit:
            break
    report(done, done, f"{name}: {done:,} tokens read")
    if not tally.units:
        raise CorpusUnreadable(f"{name} holds no sentence of at least two tokens; give a longer text.")
    return tally.result(name, "document")


def batches(
    loaded: LoadedModel, sentences: Iterable[str], max_tokens: int, shortest: int = 2
) -> Iterator[list[Tokens]]:
    """Tokenized sentences in batches of like length, at most :data:`BATCH` tokens with their padding; those of fewer than
    ``shortest`` tokens are left out."""
    reader, stream = Reader(loaded.tokenizer, min(max_tokens, loaded.anatomy.context)), iter(sentences)
    while texts := list(islice(stream, BUFFERED)):
        long_enough = [tokens for tokens in reader(texts) if len(tokens.ids) >= shortest]
        batch: list[Tokens] = []
        for tokens in sorted(long_enough, key=lambda t: len(t.ids)):
            if batch and (len(batch) + 1) * len(tokens.ids) > BATCH:
                yield batch
                batch = []
            batch.append(tokens)
        if batch:
            yield batch


def _final_states(loaded: LoadedModel, batch: Sequence[Tokens]) -> list[Float[Tensor, "seq d"]]:
    """The states of layer N of each sentence."""
    ids, mask = pad([tokens.ids for tokens in batch])
    depth = loaded.anatomy.depth
    states = text_states(loaded, ids, mask, [depth])[depth]
    return [row[: len(tokens.ids)] for row, tokens in zip(states, batch, strict=True)]
