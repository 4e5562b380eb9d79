"""Steering: add chosen features to the residual stream at chosen tokens, and see what the model says then.

h <- h + sum of alpha_i * direction_i at the layer of the features, at the chosen positions of the prompt alone; tokens that
are generated are not steered themselves (arXiv 2510.08203 steers the last function token). alpha is in units of the
feature's own value, so that -alpha of a feature that fires with value alpha takes it out (:func:`suppressing`). Invariants:
alpha = 0 gives the unchanged logits bit for bit; positions before the first steered one are bit-identical.

Any push that is large enough changes what a model says. So beside every push stand two controls of exactly its norm, seeded:
directions drawn at random, and as many other features of the same basis, with the same alphas.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend import interventions
from lens.backend.answers import Answer, Score
from lens.backend.bench import Bench, Change, Run, divergence, next_changes
from lens.backend.encoding import Encoded, TokenMap
from lens.backend.loading import LoadedModel
from lens.backend.readouts import promoted_words
from lens.backend.tracing import trace
from lens.backend.words import token_text
from lens.errors import CapabilityMissing, ControlsImpossible, PromptUnusable
from lens.functiontokens.basis import Features
from lens.functiontokens.prompt import groups_of
from lens.progress import Report, silent
from lens.statistics import p_value

WATCHED = 10
"""Words watched unless the caller names some: those that the direction promotes most by itself."""
RANDOM, OTHERS = "random directions", "other features"


@dataclass(frozen=True)
class Push:
    """One feature that is added.

    Attributes:
        alpha: how much, in units of the feature's value.
        before: the feature's value at the steered positions (mean) before; 0 where it is silent.
    """

    feature: int
    alpha: float
    before: float


@dataclass(frozen=True, eq=False)
class Controls:
    """Pushes of the same norm at the same positions; one entry each.

    Attributes:
        kind: :data:`RANDOM` or :data:`OTHERS`.
        kl: KL(unchanged || pushed) of the next token, in nats.
        logprob: log-probability of the unchanged answer, in nats.
        watched: log of the watched words' probability together, as the next token.
        features: which features each one pushes; ``None`` for directions.
        p_kl, p_watched: one-sided p-values: how often such a push moves the next token, or raises the watched words, at
            least as much as the chosen one.
    """

    kind: str
    kl: Float[np.ndarray, " controls"]
    logprob: Float[np.ndarray, " controls"]
    watched: Float[np.ndarray, " controls"]
    features: Int[np.ndarray, "controls pushed"] | None
    seed: int
    p_kl: float
    p_watched: float

    def as_json(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name).tolist() for name in ("kl", "logprob", "watched")}
        drawn = None if self.features is None else self.features.tolist()
        return {"kind": self.kind, **numbers, "features": drawn, "seed": self.seed, "p_kl": self.p_kl,
                "p_watched": self.p_watched}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Steering:
    """What a push did.

    Attributes:
        positions, tokens: where, as sequence positions and as text.
        norm: of what was added. state_norm: mean norm of the states that it was added to.
        base, treated: the answers, and how likely the unchanged one is.
        gains, losses: next tokens whose probability changed most, largest change first.
        watched: the words watched, as text; watched_before, watched_after: log of their probability together, in nats.
        promoted: whether these are what the direction promotes by itself, rather than words that the caller named.
        controls: empty if none were asked for, or nothing was added.
        note: one sentence on what limits the test; empty if nothing does.
    """

    model: str
    features: str
    layer: int
    pushes: tuple[Push, ...]
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    norm: float
    state_norm: float
    base: Run
    treated: Run
    gains: tuple[Change, ...]
    losses: tuple[Change, ...]
    watched: tuple[str, ...]
    watched_before: float
    watched_after: float
    promoted: bool
    controls: tuple[Controls, ...]
    note: str

    def as_json(self) -> dict[str, Any]:
        fields = [name for name in self.__dataclass_fields__ if name != "controls"]
        listed = {name: getattr(self, name) for name in fields}
        plain = {name: _plain(value) for name, value in listed.items()}
        return {**plain, "controls": [control.as_json() for control in self.controls]}


def last_function_token(token_map: TokenMap, function_ids: Collection[int]) -> int:
    """The position of the prompt's last function token, the template's own and line breaks included (see
    :func:`~lens.functiontokens.prompt.groups_of`): it is where the paper steers.

    Raises:
        PromptUnusable: the prompt has none.
    """
    groups = groups_of(token_map, function_ids)
    for position in reversed(range(len(groups))):
        if groups[position] == "function":
            return position
    raise PromptUnusable(
        f"None of the prompt's {len(token_map)} tokens is one of the {len(function_ids)} function tokens, so that there is "
        "no last one to steer at; choose a token, or a larger share of function tokens."
    )


def suppressing(
    loaded: LoadedModel, encoded: Encoded, features: Features, chosen: Sequence[int], position: int
) -> tuple[tuple[int, float], ...]:
    """The pushes that take features out at a token: minus the value that each has there."""
    values = _values(loaded, encoded, features, (position,))[0]
    return tuple((feature, -float(values[features.check(feature)])) for feature in chosen)


def vector_of(features: Features, pushes: Sequence[tuple[int, float]]) -> Float[Tensor, " d"]:
    """What pushes of (feature, alpha) add together."""
    return torch.stack([alpha * features.direction(feature) for feature, alpha in pushes]).sum(0)


def pushing(
    loaded: LoadedModel, layer: int, positions: Sequence[int], vector: Float[Tensor, " d"]
) -> AbstractContextManager[Any]:
    """The intervention: ``vector`` added to the states of ``positions`` at ``layer``."""
    return interventions.add(loaded, layer, positions, vector)


def steer(
    loaded: LoadedModel,
    encoded: Encoded,
    features: Features,
    pushes: Sequence[tuple[int, float]],
    positions: Sequence[int],
    *,
    watch: Sequence[int] | None = None,
    controls: int = 20,
    pool: Sequence[int] | None = None,
    seed: int = 0,
    answer: Answer | None = None,
    max_new_tokens: int = 24,
    report: Report = silent,
) -> Steering:
    """Add features at tokens of the prompt and measure what changes. A control costs one forward.

    Args:
        pushes: (feature, alpha) of each.
        positions: usually ``[last_function_token(encoded.token_map, function_ids)]``.
        watch: ids of next tokens to watch; ``None`` watches those that the direction promotes most by itself.
        controls: of each kind.
        pool: features that controls are drawn from, such as those that fire in a corpus; ``None`` allows all.
        answer: the unchanged model's, if the caller has it already.

    Raises:
        FeaturesMismatch: a feature that the basis doesn't have.
        CapabilityMissing: a basis that can't be steered at its layer.
        PromptUnusable: a position outside the prompt, or none.
        ControlsImpossible: fewer other features than are pushed.
        Cancelled: raised by ``report``.
    """
    check_steerable(features)
    chosen = _checked(encoded.token_map, positions)
    vector = vector_of(features, pushes)
    total = 2 * controls + 2
    report(0, total, "the unchanged answer")
    bench = Bench(loaded, encoded, answer, max_new_tokens)
    states = trace(loaded, encoded, [f"hidden.{features.layer}"]).hidden(features.layer)[list(chosen)]
    values = _values(loaded, encoded, features, chosen).mean(0)
    report(1, total, "the steered answer")
    treated = bench.run(pushing(loaded, features.layer, chosen, vector))
    after = bench.score(pushing(loaded, features.layer, chosen, vector))
    nothing = not vector.any()
    ids = promoted(loaded, features, pushes) if watch is None else [int(i) for i in watch]
    gains, losses = next_changes(loaded, bench.unchanged, after)
    drawn: tuple[Controls, ...] = ()
    if controls and not nothing:
        of = (treated.kl, watched_logprob(after, ids))
        drawn = _controls(bench, features, pushes, vector, chosen, ids, (controls, pool, seed), of, report)
    report(total, total, "steered")
    return Steering(
        model=loaded.name,
        features=features.name,
        layer=features.layer,
        pushes=tuple(Push(int(f), float(alpha), float(values[f])) for f, alpha in pushes),
        positions=chosen,
        tokens=tuple(encoded.token_map.texts[p] for p in chosen),
        norm=float(vector.norm()),
        state_norm=float(states.float().norm(dim=-1).mean()),
        base=bench.base,
        treated=treated,
        gains=gains,
        losses=losses,
        watched=tuple(token_text(loaded.tokenizer, i) for i in ids),
        watched_before=watched_logprob(bench.unchanged, ids),
        watched_after=watched_logprob(after, ids),
        promoted=watch is None,
        controls=drawn,
        note="Nothing is added, so that nothing changes." if nothing else "",
    )


def check_steerable(features: Features) -> None:
    """Refuse a basis whose directions can't be added at its layer."""
    if not features.steerable:
        raise CapabilityMissing(
            f"{features.name} writes what only the final norm still reads, and steering there isn't supported; choose "
            "features of an earlier block."
        )


def promoted(loaded: LoadedModel, features: Features, pushes: Sequence[tuple[int, float]]) -> list[int]:
    """Ids of the words that pushes promote most by themselves (:func:`~lens.backend.readouts.promoted_words`); pushes of 0
    count as pushes of 1, so that there are such words."""
    vector = vector_of(features, pushes)
    vector = vector if vector.any() else vector_of(features, [(feature, 1.0) for feature, _alpha in pushes])
    return promoted_words(loaded, vector[None], features.layer, WATCHED).ids[0].tolist()


def watched_logprob(score: Score, ids: Sequence[int]) -> float:
    """Log-probability (nats) that the next token is one of ``ids``, which are at least one."""
    return float(score.next_token.double()[list(dict.fromkeys(ids))].logsumexp(0))


def random_vectors(vector: Float[Tensor, " d"], count: int, seed: int) -> list[Float[Tensor, " d"]]:
    """Directions drawn uniformly from the sphere, of the norm of ``vector``."""
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, len(vector)))).float()
    return list(drawn / drawn.norm(dim=-1, keepdim=True) * vector.norm().cpu())


def other_features(
    features: Features, pushes: Sequence[tuple[int, float]], count: int, seed: int, pool: Sequence[int] | None = None
) -> tuple[Int[np.ndarray, "count pushed"], list[Float[Tensor, " d"]]]:
    """Sets of as many features that are not pushed, and what they add with the same alphas, scaled to the same norm.

    Raises:
        ControlsImpossible: fewer others than are pushed.
    """
    taken = {feature for feature, _alpha in pushes}
    candidates = np.array([f for f in (range(features.size) if pool is None else pool) if f not in taken])
    if len(candidates) < len(pushes):
        raise ControlsImpossible(
            f"{len(pushes)} features are pushed, but only {len(candidates)} others are there as a control; push fewer."
        )
    generator, norm = np.random.default_rng([seed, 1]), vector_of(features, pushes).norm()
    sets = np.array([generator.choice(candidates, len(pushes), replace=False) for _ in range(count)], np.int64)
    alphas = [alpha for _feature, alpha in pushes]
    vectors = [vector_of(features, tuple(zip(drawn, alphas, strict=True))) for drawn in sets.tolist()]
    return sets.reshape(count, len(pushes)), [v / v.norm().clamp_min(1e-12) * norm for v in vectors]


def _controls(
    bench: Bench,
    features: Features,
    pushes: Sequence[tuple[int, float]],
    vector: Float[Tensor, " d"],
    positions: tuple[int, ...],
    ids: Sequence[int],
    draw: tuple[int, Sequence[int] | None, int],
    of: tuple[float, float],
    report: Report,
) -> tuple[Controls, ...]:
    count, pool, seed = draw
    sets, others = other_features(features, pushes, count, seed, pool)
    kinds = ((RANDOM, None, random_vectors(vector, count, seed)), (OTHERS, sets, others))
    found, done = [], 2
    for kind, chosen, vectors in kinds:
        rows = []
        for one in vectors:
            report(done, 2 * count + 2, f"control: {kind}")
            score = bench.score(pushing(bench.loaded, features.layer, positions, one))
            rows.append((divergence(bench.unchanged, score), score.logprob, watched_logprob(score, ids)))
            done += 1
        kl, logprob, watched = np.array(rows).T
        p_values = [p_value(value, null, two_sided=False) for value, null in zip(of, (kl, watched), strict=True)]
        found.append(Controls(kind, kl, logprob, watched, chosen, seed, *p_values))
    return tuple(found)


def _values(loaded: LoadedModel, encoded: Encoded, features: Features, positions: Sequence[int]) -> np.ndarray:
    states = trace(loaded, encoded, [features.site]).site(features.site)
    return features.encode(states[list(positions)].float()).cpu().numpy()


def _checked(token_map: TokenMap, positions: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(sorted({int(p) for p in positions}))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(token_map):
        named = ", ".join(map(str, chosen)) or "none"
        raise PromptUnusable(
            f"The tokens to steer at were given as {named}, but the prompt has tokens 0 to {len(token_map) - 1}; choose "
            "at least one of these."
        )
    return chosen


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries; everything else as it is."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
