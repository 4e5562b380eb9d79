"""The reader's prompt: which features each token fires, and which of them it re-activates.

A feature is *re-activated* at a token if it fired at an earlier one. The later a token stands, the more has fired before
it, whatever it is; so beside the share of its features that function tokens re-activate stands a null of tokens drawn at
random. Positions 0 and 1 fire nothing here: what an autoencoder says of the attention sink means nothing
(:data:`~lens.functiontokens.basis.FIRST`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.backend.encoding import Encoded, TokenMap
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.functiontokens.basis import FIRST, Features
from lens.functiontokens.losses import GroupLosses, prediction_losses, text_losses
from lens.statistics import p_value, permutation_null


@dataclass(frozen=True)
class Fired:
    """A feature at a token.

    Attributes:
        first: the position at which it fired first; the token's own if that is here.
    """

    feature: int
    value: float
    first: int


@dataclass(frozen=True)
class PromptToken:
    """One token of the prompt.

    Attributes:
        group: ``"function"``, ``"content"``, ``"special"`` or ``"image"``.
        loss, entropy: of the prediction *of* this token, in nats; ``None`` where there is none (the first token, visual
            tokens).
        active, again: how many features fire here, and how many of these had fired before.
        top: the strongest, by magnitude.
    """

    position: int
    id: int
    text: str
    group: str
    loss: float | None
    entropy: float | None
    active: int
    again: int
    top: tuple[Fired, ...]


@dataclass(frozen=True)
class Reactivation:
    """A feature that function tokens re-activate.

    Attributes:
        first: the position at which it fired first. by: the function tokens at which it fired again, in order.
        strongest: its largest magnitude at one of these.
    """

    feature: int
    first: int
    by: tuple[int, ...]
    strongest: float


@dataclass(frozen=True)
class Repetition:
    """How much of what fires has fired before: the mean share over the function tokens and over the content tokens.

    Attributes:
        null: the middle 95 % of function minus content when the groups' names are drawn at random. p: how often they give
            a difference at least as large, two-sided. Both ``None`` if there is only one group.
    """

    function: float | None
    content: float | None
    null: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True, eq=False)
class PromptReading:
    """What a prompt's tokens fire.

    Attributes:
        reactivated: those that most function tokens re-activate first.
        losses: the four-group loss of the prompt's text tokens.
        rows, ids, values: everything that fires, as sparse triples by position: position, feature, value.
    """

    model: str
    features: str
    layer: int
    fires: str
    tokens: tuple[PromptToken, ...]
    reactivated: tuple[Reactivation, ...]
    repetition: Repetition
    losses: GroupLosses
    rows: Int[np.ndarray, " fired"]
    ids: Int[np.ndarray, " fired"]
    values: Float[np.ndarray, " fired"]

    def along(self, feature: int) -> Float[np.ndarray, " seq"]:
        """The values of one feature at every token, 0 where it is silent."""
        found = np.zeros(len(self.tokens))
        mine = self.ids == feature
        found[self.rows[mine]] = self.values[mine]
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything but the sparse triples, for export."""
        plain = {name: getattr(self, name) for name in ("model", "features", "layer", "fires")}
        listed = {name: [asdict(one) for one in getattr(self, name)] for name in ("tokens", "reactivated")}
        return {**plain, **listed, "repetition": asdict(self.repetition), "losses": self.losses.as_json()}


def read_prompt(
    loaded: LoadedModel,
    encoded: Encoded,
    features: Features,
    function_ids: Collection[int],
    *,
    top: int = 8,
    held: Trace | None = None,
    seed: int = 0,
) -> PromptReading:
    """Read what each token of a prompt fires and what it cost to predict.

    Args:
        function_ids: the function tokens; the others are content tokens.
        top: features kept per token.
        held: a trace of ``encoded`` with :func:`prompt_sites`, if the caller has one.
    """
    token_map = encoded.token_map
    held = held or trace(loaded, encoded, prompt_sites(loaded, features))
    groups = groups_of(token_map, function_ids)
    losses, entropies = _predictions(loaded, held)
    rows, ids, values = features.active(held.site(features.site)[FIRST:].float())
    rows = rows + FIRST
    first = first_positions(rows, ids)
    again = first < rows
    function = np.array([group == "function" for group in groups])
    counted = np.isin(groups, ("function", "content"))
    return PromptReading(
        model=loaded.name,
        features=features.name,
        layer=features.layer,
        fires=features.fires,
        tokens=tuple(
            PromptToken(
                position=t,
                id=token_map.ids[t],
                text=token_map.texts[t],
                group=groups[t],
                loss=_number(losses[t]),
                entropy=_number(entropies[t]),
                active=int((rows == t).sum()),
                again=int(again[rows == t].sum()),
                top=_strongest(rows == t, ids, values, first, top),
            )
            for t in range(len(token_map))
        ),
        reactivated=_reactivated(rows, ids, values, first, function),
        repetition=_repetition(rows, again, function, counted, seed),
        losses=text_losses("the prompt", losses, function.tolist(), counted.tolist(), seed),
        rows=rows,
        ids=ids,
        values=values,
    )


def prompt_sites(loaded: LoadedModel, features: Features) -> tuple[str, ...]:
    """What :func:`read_prompt` needs of a trace."""
    return features.site, f"hidden.{loaded.anatomy.depth}"


def groups_of(token_map: TokenMap, function_ids: Collection[int]) -> tuple[str, ...]:
    """The group of each token: text is ``"function"`` or ``"content"``, everything else its kind.

    Line breaks count as function tokens. They are among the most frequent tokens of any text (in the paper's list too), but
    a corpus that is read line by line holds none, so that its counts can't say so.
    """
    function = frozenset(function_ids)
    groups = []
    for kind, i, text in zip(token_map.kinds, token_map.ids, token_map.texts, strict=True):
        in_function = i in function or ("\n" in text and text.isspace())
        groups.append(kind if kind != "text" else "function" if in_function else "content")
    return tuple(groups)


def first_positions(rows: Int[np.ndarray, " fired"], ids: Int[np.ndarray, " fired"]) -> Int[np.ndarray, " fired"]:
    """For each firing, the position at which its feature fires first."""
    _features, place = np.unique(ids, return_inverse=True)
    first = np.full(len(_features), np.iinfo(np.int64).max)
    np.minimum.at(first, place, rows)
    return first[place]


def _predictions(loaded: LoadedModel, held: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Losses and entropies; NaN also where a visual token is what would be predicted."""
    token_map = held.token_map
    losses, entropies = prediction_losses(loaded, held.hidden(held.depth), token_map.ids)
    losses[token_map.visual_positions] = entropies[token_map.visual_positions] = np.nan
    return losses, entropies


def _strongest(here: np.ndarray, ids: np.ndarray, values: np.ndarray, first: np.ndarray, top: int) -> tuple[Fired, ...]:
    order = np.argsort(-np.abs(values[here]), kind="stable")[:top]
    columns = (ids[here][order].tolist(), values[here][order].tolist(), first[here][order].tolist())
    return tuple(Fired(*fired) for fired in zip(*columns, strict=True))


def _reactivated(
    rows: np.ndarray, ids: np.ndarray, values: np.ndarray, first: np.ndarray, function: np.ndarray
) -> tuple[Reactivation, ...]:
    chosen = np.flatnonzero((first < rows) & function[rows])
    chosen = chosen[np.lexsort((rows[chosen], ids[chosen]))]
    starts = np.flatnonzero(np.diff(ids[chosen], prepend=-1))
    found = []
    for mine in np.split(chosen, starts[1:]) if len(chosen) else []:
        strongest = float(np.abs(values[mine]).max())
        found.append(Reactivation(int(ids[mine[0]]), int(first[mine[0]]), tuple(rows[mine].tolist()), strongest))
    return tuple(sorted(found, key=lambda one: (-len(one.by), -one.strongest, one.feature)))


def _repetition(
    rows: np.ndarray, again: np.ndarray, function: np.ndarray, counted: np.ndarray, seed: int
) -> Repetition:
    """Tokens that fire nothing have no share."""
    active = np.bincount(rows, minlength=len(function))
    before = np.bincount(rows, weights=again, minlength=len(function))
    used = counted & (active > 0)
    shares, inside = before[used] / active[used], function[used]
    function_mean = float(shares[inside].mean()) if inside.any() else None
    content_mean = float(shares[~inside].mean()) if not inside.all() else None
    if function_mean is None or content_mean is None:
        return Repetition(function_mean, content_mean, None, None)
    null = permutation_null(shares, inside, seed=seed)
    low, high = np.quantile(null, (0.025, 0.975))
    return Repetition(
        function_mean, content_mean, (float(low), float(high)), p_value(function_mean - content_mean, null)
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
