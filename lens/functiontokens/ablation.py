"""Ablation: what function tokens hold, taken out, against as much of what content tokens hold.

The state of each ablated position at one layer is replaced by a mean state, and the run goes on from there: by the mean of
its own group over all that is read (``means="own"``), or of all tokens (``"all"``), which lies nearer to content tokens, the
greater part, and so makes them the cheaper ones to ablate. In every draw as many function as content positions are taken,
each set at random, and the loss is compared at the same places in both runs: **elsewhere**, in predictions made at
positions that neither run ablates. (What a position predicts itself is destroyed by ablating it, whatever it gives to
others; ``everywhere`` counts that too.) Positions 0 and 1 are never ablated: without the attention sink the model
breaks (:data:`~lens.functiontokens.basis.FIRST`).

The claim that is tested (arXiv 2510.08203): function tokens call up what the context holds and steer the prediction, so that
the model should miss them more than as many content tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend import interventions
from lens.backend.encoding import Encoded, TokenMap
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.backend.words import Reader
from lens.errors import CorpusUnreadable, PromptUnusable
from lens.functiontokens.basis import FIRST
from lens.functiontokens.losses import prediction_losses
from lens.functiontokens.prompt import groups_of
from lens.progress import Report, silent
from lens.statistics import bootstrap_interval

GROUPS = ("function", "content")
Means = Literal["own", "all"]
SHARE = 0.5
"""Of the smaller group that is ablated: the other half stays, to be predicted from."""


@dataclass(frozen=True)
class TextAblation:
    """One text; changes are in nats per prediction, one entry per draw.

    Attributes:
        ablated: positions taken out in each run.
        base: mean loss of the unchanged model over all predictions.
        function, content: change elsewhere when such positions are ablated.
        function_everywhere, content_everywhere: change over all predictions.
    """

    ablated: int
    base: float
    function: tuple[float, ...]
    content: tuple[float, ...]
    function_everywhere: tuple[float, ...]
    content_everywhere: tuple[float, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Ablation:
    """The test on one or several texts.

    Attributes:
        means: what replaced the states, ``"own"`` or ``"all"``.
        unit: what intervals are over: ``"text"`` (bootstrap of the mean over texts) or, of a single text, ``"draw"`` (the
            middle 95 % of the draws).
        function, content, difference: change of loss elsewhere, and function minus content.
        everywhere: the difference over all predictions.
        verdict: one or two sentences on the paper's claim.
    """

    model: str
    name: str
    layer: int
    share: float
    means: Means
    seed: int
    unit: str
    texts: tuple[TextAblation, ...]
    base: float
    function: Estimate
    content: Estimate
    difference: Estimate
    everywhere: Estimate
    verdict: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def ablate_prompt(
    loaded: LoadedModel,
    encoded: Encoded,
    function_ids: Collection[int],
    layer: int,
    *,
    draws: int = 20,
    share: float = SHARE,
    means: Means = "own",
    seed: int = 0,
    report: Report = silent,
) -> Ablation:
    """The test on the reader's prompt; only its text tokens are ablated and predicted. Costs two forwards a draw.

    Raises:
        PromptUnusable: without at least two tokens of each group.
        LayerMissing: a layer that the model hasn't.
    """
    states = _means(loaded, [encoded], function_ids, layer, means)

    def inner(done: int) -> None:
        report(done, draws, f"ablation: draw {done} of {draws}")

    found = _ablate(loaded, encoded, function_ids, layer, states, (draws, share, seed), inner)
    if found is None:
        raise PromptUnusable("The test needs at least two function and two content tokens; write a longer prompt.")
    return _summary(loaded, "the prompt", (layer, share, means, seed), [found])


def ablate_corpus(
    loaded: LoadedModel,
    sentences: Iterable[str],
    function_ids: Collection[int],
    layer: int,
    *,
    name: str = "corpus",
    texts: int = 40,
    draws: int = 3,
    share: float = SHARE,
    means: Means = "own",
    max_tokens: int = 128,
    seed: int = 0,
    report: Report = silent,
) -> Ablation:
    """The test on the first ``texts`` sentences of a corpus that have at least two tokens of each group, as raw text.

    Costs 2 + 2 x draws forwards per text. The mean states are those of all these texts.

    Raises:
        CorpusUnreadable: no such sentence.
        LayerMissing: a layer that the model hasn't.
        Cancelled: raised by ``report``.
    """
    chosen: list[Encoded] = []
    for sentence in sentences:
        if len(chosen) == texts:
            break
        encoded = raw_text(loaded, sentence, max_tokens)
        if _room(encoded.token_map, function_ids, share):
            chosen.append(encoded)
    if not chosen:
        raise CorpusUnreadable(
            f"{name} holds no sentence with at least two function and two content tokens; give longer sentences."
        )
    states, found = _means(loaded, chosen, function_ids, layer, means), []
    for number, encoded in enumerate(chosen):
        report(number, len(chosen), f"ablation: text {number + 1} of {len(chosen)}")
        result = _ablate(
            loaded, encoded, function_ids, layer, states, (draws, share, seed + number), lambda _done: None
        )
        assert result is not None
        found.append(result)
    report(len(chosen), len(chosen), "ablation done")
    return _summary(loaded, name, (layer, share, means, seed), found)


def raw_text(loaded: LoadedModel, text: str, max_tokens: int) -> Encoded:
    """A text as it stands, without chat template, cut after ``max_tokens``."""
    tokens = Reader(loaded.tokenizer, min(max_tokens, loaded.anatomy.context))([text])[0]
    ids = torch.tensor([tokens.ids], dtype=torch.long, device=loaded.device)
    kinds = tuple("text" if real else "special" for real in tokens.real)
    token_map = TokenMap(tokens.ids, kinds, tuple(loaded.tokenizer.decode([i]) for i in tokens.ids))
    return Encoded({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, token_map, "", text)


def _room(token_map: TokenMap, function_ids: Collection[int], share: float) -> int:
    """How many positions of each group are ablated; 0 if there are too few."""
    groups = groups_of(token_map, function_ids)[FIRST:]
    least = min(groups.count("function"), groups.count("content"))
    return max(1, round(share * least)) if least >= 2 else 0


def _means(
    loaded: LoadedModel, texts: Sequence[Encoded], function_ids: Collection[int], layer: int, means: Means
) -> dict[str, Float[Tensor, " d"]]:
    """What replaces the states of each group at ``layer``; from position :data:`FIRST` on."""
    totals = {group: torch.zeros(loaded.anatomy.width, dtype=torch.float64) for group in GROUPS}
    counts = dict.fromkeys(GROUPS, 0)
    for encoded in texts:
        states = trace(loaded, encoded, [f"hidden.{loaded.anatomy.check_layer(layer)}"]).hidden(layer)
        groups = groups_of(encoded.token_map, function_ids)
        for group in GROUPS:
            kept = [p for p in range(FIRST, len(groups)) if groups[p] == group]
            totals[group] += states[kept].double().sum(0)
            counts[group] += len(kept)
    if means == "all":
        whole = torch.stack(list(totals.values())).sum(0) / max(sum(counts.values()), 1)
        return dict.fromkeys(GROUPS, whole.float())
    return {group: (totals[group] / max(counts[group], 1)).float() for group in GROUPS}


def _ablate(
    loaded: LoadedModel,
    encoded: Encoded,
    function_ids: Collection[int],
    layer: int,
    means: dict[str, Float[Tensor, " d"]],
    draw: tuple[int, float, int],
    report: Any,
) -> TextAblation | None:
    """Every draw on one text; ``None`` if it has too few tokens."""
    draws, share, seed = draw
    token_map = encoded.token_map
    size = _room(token_map, function_ids, share)
    if not size:
        return None
    groups = np.array(groups_of(token_map, function_ids))
    places = np.arange(len(groups))
    candidates = {group: places[(groups == group) & (places >= FIRST)] for group in GROUPS}
    is_text = np.isin(groups, GROUPS)
    predicted = np.concatenate([[False], is_text[1:] & is_text[:-1]])  # predictions of text, made at text
    base = _losses(loaded, encoded, layer, [], means["content"])
    generator, changes = np.random.default_rng(seed), []
    for done in range(draws):
        report(done)
        sets = {group: generator.choice(candidates[group], size, replace=False) for group in candidates}
        made_at_ablated = np.isin(places - 1, np.concatenate(list(sets.values())))
        elsewhere = predicted & ~made_at_ablated
        row = []
        for group in GROUPS:
            change = _losses(loaded, encoded, layer, sets[group].tolist(), means[group]) - base
            row += [change[elsewhere].mean() if elsewhere.any() else 0.0, change[predicted].mean()]
        changes.append(row)
    function, function_all, content, content_all = (tuple(map(float, column)) for column in np.array(changes).T)
    return TextAblation(size, float(base[predicted].mean()), function, content, function_all, content_all)


def _losses(
    loaded: LoadedModel, encoded: Encoded, layer: int, positions: Sequence[int], mean: Float[Tensor, " d"]
) -> Float[np.ndarray, " seq"]:
    depth = loaded.anatomy.depth
    with interventions.replace(loaded, layer, positions, mean.expand(len(positions), -1)):
        held = trace(loaded, encoded, [f"hidden.{depth}"])
    return prediction_losses(loaded, held.hidden(depth), encoded.token_map.ids)[0]


def _summary(
    loaded: LoadedModel, name: str, settings: tuple[int, float, Means, int], texts: list[TextAblation]
) -> Ablation:
    function = [np.array(text.function) for text in texts]
    content = [np.array(text.content) for text in texts]
    apart = [a - b for a, b in zip(function, content, strict=True)]
    layer, share, means, seed = settings
    everywhere = [np.array(text.function_everywhere) - np.array(text.content_everywhere) for text in texts]
    estimates = [_estimate(values, seed) for values in (function, content, apart, everywhere)]
    return Ablation(
        loaded.name,
        name,
        layer,
        share,
        means,
        seed,
        "text" if len(texts) > 1 else "draw",
        tuple(texts),
        float(np.mean([text.base for text in texts])),
        *estimates,
        verdict=verdict(name, layer, len(texts), *estimates[:3]),
    )


def _estimate(values: Sequence[np.ndarray], seed: int) -> Estimate:
    """Over texts the bootstrap of their means; of one text the middle 95 % of its draws."""
    means = np.array([one.mean() for one in values])
    if len(means) > 1:
        return Estimate(float(means.mean()), *bootstrap_interval(means, seed=seed))
    low, high = np.quantile(values[0], (0.025, 0.975))
    return Estimate(float(means[0]), float(low), float(high))


def verdict(name: str, layer: int, texts: int, function: Estimate, content: Estimate, difference: Estimate) -> str:
    """The result in words, with the numbers that it rests on."""
    numbers = (
        f"Ablating function tokens at layer {layer} changes the loss elsewhere by {function.mean:+.3f} nats, as many "
        f"content tokens by {content.mean:+.3f} (difference {difference.mean:+.3f}, 95 % interval {difference.low:+.3f} "
        f"to {difference.high:+.3f}, over {'texts' if texts > 1 else 'draws'})."
    )
    where = f"{texts} texts of {name}" if texts > 1 else name
    if difference.low > 0:
        return f"{numbers} On {where} the model misses function tokens more, as the paper claims."
    if difference.high < 0:
        return f"{numbers} On {where} the model misses content tokens more: the opposite of the paper's claim."
    return f"{numbers} On {where} neither is missed more than the other: the paper's claim finds no support here."
