"""Finding the feature that carries a trait, as arXiv 2510.08203 describes it: a layer scan, then the smallest k.

A *trait prompt* asks for something ("Answer in French. ...") that *plain prompts* don't ask for. v is the residual stream at
the trait prompt's last function token. The **layer scan** adds v to the plain prompts at their last function token, layer by
layer, and looks where their answers show the trait. **Minimal k** encodes v in features, ranks them by what each
contributes, and searches the least k for which the sum of the first k still brings the trait; the k-th is the feature.

Most of v is the same after any prompt. So v can also be what sets the trait prompt's state apart from the mean of the plain
prompts' (``added="difference"``: contrastive activation addition, Rimsky et al., arXiv 2312.06681).

An answer shows the trait if it holds one of its words. Beside this yes or no stands a measure that moves in small steps:
the *gain*, by how much likelier the answer to the trait prompt becomes after a plain prompt, in nats per token. Vectors
drawn at random, of the same norm, are the controls.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.answers import Answer, answer_logprob, generate
from lens.backend.encoding import Encoded
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.backend.words import UNSPACED
from lens.errors import PromptUnusable
from lens.functiontokens.basis import Features
from lens.functiontokens.steering import check_steerable, last_function_token, pushing, random_vectors
from lens.progress import Report, silent
from lens.statistics import p_value

Added = Literal["state", "difference"]
"""What v is: the trait prompt's state, as in the paper, or that less the mean of the plain prompts' states."""


@dataclass(frozen=True)
class Effect:
    """What a push does to the plain prompts.

    Attributes:
        success: share of them whose answers show the trait.
        gain: mean change of the log-probability of the trait prompt's answer, in nats per token.
        answers: one per prompt.
    """

    success: float
    gain: float
    answers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LayerScan:
    """v added at one layer after the other.

    Attributes:
        added, alpha: what v is, and what it was multiplied with.
        base: the plain prompts as they are; its gain is 0.
        trait_answer: to the trait prompt; shown: whether it shows the trait itself.
        effects: one per layer.
        control_success, control_gain: of random vectors of the norm of v.
        best: the layer of greatest success, of several that of greatest gain; ``None`` where none is better than base.
    """

    model: str
    words: tuple[str, ...]
    added: Added
    alpha: float
    trait_answer: str
    shown: bool
    base: Effect
    layers: tuple[int, ...]
    effects: tuple[Effect, ...]
    control_success: Float[np.ndarray, "layers controls"]
    control_gain: Float[np.ndarray, "layers controls"]
    best: int | None
    seed: int

    def as_json(self) -> dict[str, Any]:
        return _as_json(self)


@dataclass(frozen=True)
class Tried:
    """One number of features that was tried."""

    k: int
    effect: Effect


@dataclass(frozen=True, eq=False)
class MinimalK:
    """The search for the least number of features that brings the trait.

    Attributes:
        added, alpha: as in :class:`LayerScan`.
        order, values: the features of v, the largest contribution first, and their values in v.
        tried: by rising k. A search by halves takes it that more features never bring less; this list shows whether.
        k: the least that brings the trait to ``enough`` of the plain prompts; ``None`` if not even all features do, or if
            the plain prompts show it by themselves; ``note`` says which.
        feature: the k-th, and alone: what it does by itself with the same alpha.
        control_gain: of random vectors of the norm of what the first k add. p: how often they gain at least as much.
    """

    model: str
    features: str
    layer: int
    words: tuple[str, ...]
    added: Added
    alpha: float
    enough: float
    base: Effect
    order: tuple[int, ...]
    values: tuple[float, ...]
    tried: tuple[Tried, ...]
    k: int | None
    feature: int | None
    alone: Effect | None
    control_gain: Float[np.ndarray, " controls"]
    p: float | None
    seed: int
    note: str

    def as_json(self) -> dict[str, Any]:
        return _as_json(self)


class Trait:
    """A trait prompt, plain prompts, the words that show it, and where each is steered.

    Raises:
        PromptUnusable: no plain prompt, no word, or a prompt without a function token.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Encoded,
        plain: Sequence[Encoded],
        words: Sequence[str],
        function_ids: Collection[int],
        added: Added = "state",
        max_new_tokens: int = 16,
    ) -> None:
        self.loaded, self.prompt, self.plain = loaded, prompt, tuple(plain)
        self.added: Added = added
        self.words = tuple(word for word in (word.strip() for word in words) if word)
        self.max_new_tokens = max_new_tokens
        if not self.plain or not self.words:
            raise PromptUnusable(
                "The search needs at least one prompt without the trait and one word that shows it; give both."
            )
        self.source = last_function_token(prompt.token_map, function_ids)
        self.positions = tuple(last_function_token(one.token_map, function_ids) for one in self.plain)
        self.answer: Answer = generate(loaded, prompt, max_new_tokens)
        self._before = [answer_logprob(loaded, one, self.answer) for one in self.plain]

    def shows(self, answer: str) -> bool:
        """Whether an answer holds one of the words: as a whole word, in any case."""
        return any(re.search(_pattern(word), answer, re.IGNORECASE) for word in self.words)

    def states(self, sites: Sequence[str]) -> dict[str, Float[Tensor, "prompts d"]]:
        """What v is made of, by site: the state of the trait prompt at its last function token, and below it those of the
        plain prompts if v is the difference."""
        places = [(self.prompt, self.source)]
        if self.added == "difference":
            places += zip(self.plain, self.positions, strict=True)
        held = [(trace(self.loaded, one, sites), position) for one, position in places]
        return {site: torch.stack([one.site(site)[position].float() for one, position in held]) for site in sites}

    def effect(self, layer: int, vector: Float[Tensor, " d"] | None) -> Effect:
        """What adding a vector does to the plain prompts; ``None`` adds nothing."""
        answers = []
        for one, position in zip(self.plain, self.positions, strict=True):
            with nullcontext() if vector is None else pushing(self.loaded, layer, [position], vector):
                answers.append(generate(self.loaded, one, self.max_new_tokens).text)
        success = float(np.mean([self.shows(answer) for answer in answers]))
        return Effect(success, 0.0 if vector is None else self.gain(layer, vector), tuple(answers))

    def gain(self, layer: int, vector: Float[Tensor, " d"]) -> float:
        """The gain alone: one forward per plain prompt."""
        changes = []
        for one, position, before in zip(self.plain, self.positions, self._before, strict=True):
            with pushing(self.loaded, layer, [position], vector):
                changes.append(answer_logprob(self.loaded, one, self.answer) - before)
        return float(np.mean(changes)) / max(len(self.answer.ids), 1)


def layer_scan(
    trait: Trait,
    layers: Sequence[int] | None = None,
    *,
    alpha: float = 1.0,
    controls: int = 2,
    seed: int = 0,
    report: Report = silent,
) -> LayerScan:
    """Add v to the plain prompts, layer by layer.

    Costs (1 + controls) x layers x plain prompts answers.

    Args:
        layers: 1..N-1; by default eight, evenly spaced.
        alpha: what v is multiplied with.
    """
    loaded = trait.loaded
    chosen = tuple(layers) if layers is not None else spaced_layers(loaded.anatomy.depth)
    states = trait.states([f"hidden.{layer}" for layer in chosen])
    base, effects, control_effects = trait.effect(0, None), [], []
    for done, layer in enumerate(chosen):
        report(done, len(chosen), f"layer {layer}")
        vector = alpha * apart(states[f"hidden.{layer}"])
        effects.append(trait.effect(layer, vector))
        control_effects.append([trait.effect(layer, drawn) for drawn in random_vectors(vector, controls, seed)])
    report(len(chosen), len(chosen), "layer scan done")
    ranked = max(zip(effects, chosen, strict=True), key=lambda pair: (pair[0].success, pair[0].gain))
    return LayerScan(
        model=loaded.name,
        words=trait.words,
        added=trait.added,
        alpha=alpha,
        trait_answer=trait.answer.text,
        shown=trait.shows(trait.answer.text),
        base=base,
        layers=chosen,
        effects=tuple(effects),
        control_success=_column(control_effects, "success"),
        control_gain=_column(control_effects, "gain"),
        best=ranked[1] if ranked[0].success > base.success else None,
        seed=seed,
    )


def minimal_k(
    trait: Trait,
    features: Features,
    *,
    alpha: float = 1.0,
    enough: float = 0.5,
    controls: int = 20,
    seed: int = 0,
    report: Report = silent,
) -> MinimalK:
    """Search the least number of the trait's features that brings it to the share ``enough`` of the plain prompts.

    Raises:
        CapabilityMissing: a basis that can't be steered at its layer.
    """
    check_steerable(features)
    order, values, parts = contributions(features, trait.states([features.site])[features.site])
    base, tried = trait.effect(0, None), {}

    def brings(k: int) -> bool:
        report(len(tried), len(order).bit_length() + 1, f"the first {k} of {len(order)} features")
        tried[k] = trait.effect(features.layer, alpha * parts[:k].sum(0))
        return tried[k].success >= enough

    k, note = None, ""
    if base.success >= enough:
        note = "The plain prompts show the trait by themselves; choose other words or prompts."
    elif not len(order) or not brings(len(order)):
        note = f"Not even all {len(order)} features of the token bring the trait; try another layer or a larger alpha."
    else:
        k = _least(brings, len(order))
    alone, gains, p = None, np.zeros(0), None
    if k is not None:
        alone = trait.effect(features.layer, alpha * parts[k - 1])
        drawn = random_vectors(alpha * parts[:k].sum(0), controls, seed)
        gains = np.array([trait.gain(features.layer, one) for one in drawn])
        p = p_value(tried[k].gain, gains, two_sided=False) if controls else None
    return MinimalK(
        model=trait.loaded.name,
        features=features.name,
        layer=features.layer,
        words=trait.words,
        added=trait.added,
        alpha=alpha,
        enough=enough,
        base=base,
        order=tuple(order),
        values=tuple(values),
        tried=tuple(Tried(size, tried[size]) for size in sorted(tried)),
        k=k,
        feature=None if k is None else order[k - 1],
        alone=alone,
        control_gain=gains,
        p=p,
        seed=seed,
        note=note,
    )


def apart(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The first row, less the mean of the others if there are any."""
    return rows[0] - rows[1:].mean(0) if len(rows) > 1 else rows[0]


def contributions(
    features: Features, states: Float[Tensor, "n d_in"]
) -> tuple[list[int], list[float], Float[Tensor, "active d"]]:
    """The features of the first state, their values (less their mean in the other states, if there are any) and what each
    adds, ranked by the norm of that (for an autoencoder with a decoder of unit norm and one state: by value, as the paper
    does)."""
    values = apart(features.encode(states.float())).cpu()
    ids = values.nonzero()[:, 0].tolist()
    if not ids:
        return [], [], torch.zeros(0, 1)
    parts = torch.stack([float(values[i]) * features.direction(i) for i in ids])
    ranks = parts.norm(dim=-1).argsort(descending=True, stable=True)
    order = [ids[place] for place in ranks.tolist()]
    return order, [float(values[i]) for i in order], parts[ranks]


def spaced_layers(depth: int, count: int = 8) -> tuple[int, ...]:
    """At most ``count`` layers of 1..N-1, evenly spaced."""
    return tuple(sorted({int(layer) for layer in np.linspace(1, max(depth - 1, 1), count).round()}))


def _least(brings: Any, most: int) -> int:
    """The least k of 1..most for which ``brings(k)``, if it does for ``most`` and for everything above the least."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if brings(middle) else (middle, high)
    return high


def _pattern(word: str) -> str:
    """A whole word; in scripts without spaces, anywhere."""
    return re.escape(word) if UNSPACED.search(word) else rf"(?<!\w){re.escape(word)}(?!\w)"


def _column(effects: Sequence[Sequence[Effect]], name: str) -> Float[np.ndarray, "layers controls"]:
    return np.array([[getattr(effect, name) for effect in row] for row in effects]).reshape(len(effects), -1)


def _as_json(result: Any) -> dict[str, Any]:
    plain = asdict(result)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in plain.items()}
