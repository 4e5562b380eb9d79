"""All that is known of one feature: where it fires most, what it says, on which tokens, and what is like it.

Contexts, histogram and tokens come from a graph's files; words and similar features from the feature's own direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend.loading import LoadedModel
from lens.backend.readouts import promoted_words
from lens.functiontokens import manifest as form
from lens.functiontokens.basis import Features
from lens.functiontokens.graph import FeatureGraph, Neighbours, sound
from lens.functiontokens.reduce import magnitudes
from lens.functiontokens.tables import read_contexts

WORDS = 10
SIMILAR = 8
BEFORE, AFTER = 200, 80
"""Characters of a context shown before and after its token."""
CHUNK = 1024
"""Features whose directions are computed at once."""


@dataclass(frozen=True)
class Context:
    """A piece of the corpus in which a feature fires; ``sentence[start:end]`` is the token on which it does.

    The causal model had read what stands before, up to ``end``. ``value`` is the feature's, with its sign.
    """

    sentence: str
    start: int
    end: int
    value: float


@dataclass(frozen=True, eq=False)
class FeatureCard:
    """One feature in one graph.

    Attributes:
        feature: its number; name, layer: of its basis.
        contexts: the strongest firings, at most one in a sentence.
        firings: all; rate: share of the positions; mean, largest: of its values' magnitudes.
        histogram: firings by magnitude; bins: the edges of its bins, one more.
        tokens: on which it fires, most firings first (nodes are ranks); token_texts: theirs.
        function_share: share of the firings that fall on function tokens; function_base: share of all positions that do.
    """

    name: str
    layer: int
    feature: int
    contexts: tuple[Context, ...]
    firings: int
    rate: float
    mean: float
    largest: float
    histogram: Int[np.ndarray, " bins"]
    bins: Float[np.ndarray, " edges"]
    tokens: Neighbours
    token_texts: tuple[str, ...]
    token_ids: tuple[int, ...]
    function: tuple[bool, ...]
    function_share: float
    function_base: float


@dataclass(frozen=True)
class FeatureWords:
    """What adding a feature does to the next word, by the readout of its direction: (word, logit), strongest first."""

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]


def feature_card(graph: FeatureGraph, feature: int, function_ids: np.ndarray) -> FeatureCard:
    """What a graph knows of a feature. :class:`FeaturesMismatch` if there is none of that number."""
    tokens = graph.feature_tokens(feature)
    member = graph.is_function(function_ids)
    path = graph.folder / form.part_name(graph.number, "features")
    held = sound(graph.folder, lambda: pq.read_table(path, columns=["histogram"]).column(0)[feature].as_py())
    counts, bins = magnitudes(held or ())
    firings = int(graph.firings[feature])
    inside = int(tokens.firings[member[tokens.nodes]].sum())
    return FeatureCard(
        name=graph.features.name,
        layer=graph.layer,
        feature=feature,
        contexts=_contexts(graph, feature),
        firings=firings,
        rate=firings / max(graph.positions, 1),
        mean=float(graph.mean[feature]),
        largest=float(graph.largest[feature]),
        histogram=counts,
        bins=bins,
        tokens=tokens,
        token_texts=tuple(graph.counts.texts[rank] for rank in tokens.nodes),
        token_ids=tuple(int(graph.counts.ids[rank]) for rank in tokens.nodes),
        function=tuple(bool(member[rank]) for rank in tokens.nodes),
        function_share=inside / max(firings, 1),
        function_base=float(graph.occurrences[member].sum() / max(graph.positions, 1)),
    )


def _contexts(graph: FeatureGraph, feature: int) -> tuple[Context, ...]:
    rows = sound(graph.folder, lambda: read_contexts(graph.folder, graph.number, feature))
    return tuple(Context(*excerpt(text, start, end), value) for text, start, end, value in rows)


def excerpt(text: str, start: int, end: int) -> tuple[str, int, int]:
    """What stands around ``text[start:end]``: at most :data:`BEFORE` and :data:`AFTER` characters, cut between words and
    marked where something is left out; and where the token stands in it."""
    first, last = 0, len(text)
    if start > BEFORE:
        first = text.find(" ", start - BEFORE, start) + 1 or start - BEFORE
    if last - end > AFTER:
        last = max(text.rfind(" ", end, end + AFTER), end)
    head, tail = "… " if first else "", " …" if last < len(text) else ""
    shift = len(head) - first
    return head + text[first:last] + tail, start + shift, end + shift


def feature_words(loaded: LoadedModel, features: Features, feature: int, k: int = WORDS) -> FeatureWords:
    """The words whose logits a feature's direction raises and lowers most.

    By :func:`~lens.backend.readouts.promoted_words` of the direction and of its opposite. What later blocks make of the
    direction is left out. Features of the states after the final norm (layer N of an autoencoder) are not normed again.
    """
    direction = features.direction(feature)
    after_norm = features.site == f"hidden.{loaded.anatomy.depth}"
    layer = loaded.anatomy.depth if after_norm else loaded.anatomy.depth - 1
    if not bool(direction.abs().max() > 0):
        return FeatureWords((), ())
    words = promoted_words(loaded, torch.stack([direction, -direction]), layer, k)
    up, down = (
        tuple(zip(tokens, map(float, scores), strict=True))
        for tokens, scores in zip(words.tokens, words.scores, strict=True)
    )
    return FeatureWords(up, tuple((word, -score) for word, score in down))


def directions(features: Features) -> Float[Tensor, "m d"]:
    """What one unit of each feature writes, on the CPU.

    An autoencoder has its directions at hand; neurons are decoded a piece at a time, each piece less what is decoded from
    nothing, so that a bias drops out.
    """
    if features.kind == "sae":
        return torch.stack([features.direction(feature).cpu() for feature in range(features.size)])
    nothing = features.decode(torch.zeros(1, features.size))
    pieces = torch.eye(features.size).split(CHUNK)
    return torch.cat([(features.decode(piece) - nothing).cpu() for piece in pieces])


def similar_features(
    features: Features, feature: int, k: int = SIMILAR, rows: Float[Tensor, "m d"] | None = None
) -> tuple[tuple[int, float], ...]:
    """The features whose directions point the same way: (number, cosine), the most alike first, itself left out.

    ``rows``: of :func:`directions`, if they are at hand. A feature without a direction is like none.
    """
    features.check(feature)
    rows = directions(features) if rows is None else rows
    norms = rows.norm(dim=1)
    if float(norms[feature]) == 0:
        return ()
    cosines = rows @ rows[feature] / (norms * norms[feature]).clamp_min(1e-12)
    cosines = cosines.masked_fill(norms == 0, -2.0)
    cosines[feature] = -2.0
    best = cosines.topk(min(k, len(rows)))
    return tuple((int(i), float(c)) for c, i in zip(best.values, best.indices, strict=True) if c > -1.5)
