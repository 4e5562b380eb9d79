"""Sink, dead or alive: the class of every visual token of one picture, at any layer, from its nearest vocabulary words.

The released rule (EIT-NLP/EmbedLens): a token belongs to a group if one of its three best words is one of the group's
anchors; alive is what belongs to none. Groups may overlap, and the released code leaves it at that. Here every token also
has one *label*, by the precedence **sink > dead > alive**, and the overlap is reported.

Invariants: labels don't change when states are scaled by positive numbers; a group by the best word alone lies within the
group by the best three; a token is alive exactly when it is neither sink nor dead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.readouts import Words
from lens.backend.tracing import Trace
from lens.embedlens.anchors import Anchor, Anchors
from lens.embedlens.probe import anchor_cosines, probe

CLASSES = ("sink", "dead", "alive")
"""In the order of precedence."""

RULES = (1, 3)
"""How many of a token's best words are looked at: the strict rule and the released one."""

SHOWN = 5
"""Words kept of each token."""


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """The classes of one picture's visual tokens at one layer.

    Attributes:
        rule: how many of the best words are looked at, one of :data:`RULES`.
        labels: one class per patch, by precedence.
        members: by class, the patches that belong to it; sink and dead may overlap.
        words: by patch in reading order, the best words, each with its cosine. Blanks around words are cut off.
        margin: best cosine with an anchor minus best cosine with any other word; positive where an anchor wins. NaN without
            anchors.
        anchor_cosine: best cosine with an anchor; NaN without anchors.
        fractions: by class, the share of patches with that label; they add up to 1.
        overlap: patches that are members of both sink and dead.
    """

    rows: int
    cols: int
    layer: int
    rule: int
    labels: np.ndarray
    members: dict[str, Bool[np.ndarray, "rows cols"]]
    words: tuple[tuple[tuple[str, float], ...], ...]
    margin: Float[np.ndarray, "rows cols"]
    anchor_cosine: Float[np.ndarray, "rows cols"]
    fractions: dict[str, float]
    overlap: int


def classify(
    loaded: LoadedModel, trace: Trace, anchors: Anchors, layer: int = 0, rule: int = 3, min_cosine: float = 0.0
) -> TokenClasses:
    """The class of every visual token of a traced picture.

    Anchors were found at layer 0; at a deeper layer the result says which tokens still stand at them. ``min_cosine``: an
    anchor counts only for tokens whose cosine with it is at least that.

    Raises:
        LayerMissing, SiteMissing: a layer that the model or the trace hasn't.
        CapabilityMissing: the trace has no visual tokens.
        StatesUnusable: NaN, infinities or zeros among the states.
    """
    if rule not in RULES:
        raise ValueError(f"expected a rule of {RULES}, got {rule}")
    grid = visual_grid(trace.token_map)
    states = trace.hidden(loaded.anatomy.check_layer(layer))[grid.positions.reshape(-1)]
    words = probe(loaded, states, max(SHOWN, len(anchors.found) + 1))
    near, margin = _standing(anchor_cosines(loaded, states, [a.id for a in anchors.found]), words, anchors)
    shape = (grid.rows, grid.cols)
    members = {name: flags.reshape(shape) for name, flags in groups(words, anchors, rule, min_cosine).items()}
    labels = np.select([members["sink"], members["dead"]], CLASSES[:2], CLASSES[2])
    return TokenClasses(
        rows=grid.rows,
        cols=grid.cols,
        layer=layer,
        rule=rule,
        labels=labels,
        members=members,
        words=_shown(words),
        margin=margin.reshape(shape),
        anchor_cosine=near.reshape(shape),
        fractions={name: float((labels == name).mean()) for name in CLASSES},
        overlap=int((members["sink"] & members["dead"]).sum()),
    )


def groups(words: Words, anchors: Anchors, rule: int = 3, min_cosine: float = 0.0) -> dict[str, Bool[np.ndarray, " n"]]:
    """By class, which of n states belong to it, from their best words; sink and dead may overlap."""
    best, cosines = words.ids[:, :rule], words.scores[:, :rule]

    def touched(members: Iterable[Anchor]) -> Bool[np.ndarray, " n"]:
        return np.asarray((np.isin(best, [anchor.id for anchor in members]) & (cosines >= min_cosine)).any(1))

    sink, dead = touched(anchors.of("sink")), touched(anchors.of("dead"))
    return {"sink": sink, "dead": dead, "alive": ~(sink | dead)}


def as_json(classes: TokenClasses, anchors: Anchors) -> dict:
    """The classes as the command line and the page export them."""
    return {
        "model": anchors.model,
        "layer": classes.layer,
        "rule": classes.rule,
        "grid": {"rows": classes.rows, "cols": classes.cols},
        "fractions": classes.fractions,
        "overlap": classes.overlap,
        "anchors": [{"id": a.id, "token": a.token, "kind": a.kind, "origin": a.origin or None} for a in anchors.found],
        "patches": [
            {
                "row": i // classes.cols,
                "col": i % classes.cols,
                "class": str(classes.labels[i // classes.cols, i % classes.cols]),
                "words": [[token.strip() or token, round(cosine, 4)] for token, cosine in words],
                "tokens": [token for token, _cosine in words],
            }
            for i, words in enumerate(classes.words)
        ],
    }


def _standing(
    cosines: Float[np.ndarray, "n anchors"], words: Words, anchors: Anchors
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Best cosine with an anchor, and by how much it beats the best word that is none; NaN without anchors."""
    if not anchors.found:
        nothing = np.full(len(words.ids), np.nan)
        return nothing, nothing
    near = cosines.max(1)
    # One word more than there are anchors was asked for, so that at least one of them is none.
    others = np.where(np.isin(words.ids, [anchor.id for anchor in anchors.found]), -np.inf, words.scores)
    return near, near - others.max(1)


def _shown(words: Words) -> tuple[tuple[tuple[str, float], ...], ...]:
    return tuple(
        tuple((token, float(cosine)) for token, cosine in zip(tokens, cosines, strict=True))[:SHOWN]
        for tokens, cosines in zip(words.tokens, words.scores, strict=True)
    )
