"""Is a map specific to its word? Its likeness to the maps of control words, and what is left of it without them.

A control word takes the place of the query's own; picture, answer and patches stay
(:func:`lens.segmaps.controls.swapped_query`). Pearson's r over the patches says how alike two maps are: r² is the share of
the map's variance that the control's map accounts for, whatever the scale of either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from lens.backend.loading import LoadedModel
from lens.errors import QueryMissing
from lens.progress import Report, silent
from lens.segmaps.asking import Asked
from lens.segmaps.controls import swapped_query
from lens.segmaps.maps import Query, SimilarityMap

WORDS = ("submarine", "piano", "giraffe")
"""Control words where nobody gave any: a vehicle, a thing and an animal that few photographs show."""
MOST = 8
"""Control words at most."""
SAME, OWN = 0.9, 0.5
"""The rule, by the highest r with a control word, to two digits. From .9 another word's map accounts for 80 % of the map's
variance or more: the map isn't specific. Below .5 none accounts for a quarter, and smooth maps of a few blobs reach such an
r by chance: it is, as far as these words tell. Between: partly."""
ROUNDING = 1e-3
"""Standard deviations below which a difference is what runs of texts of different lengths give for the same state."""


@dataclass(frozen=True)
class Specificity:
    """How alike the map of a word is to the maps of control words, at one layer.

    Attributes:
        word: the query's; untrusted text. alike: by control word, r over the patches; NaN where either map is constant.
    """

    word: str
    alike: Mapping[str, float]

    @property
    def nearest(self) -> str | None:
        """The control word with the most similar map; ``None`` where no r exists."""
        known = {word: r for word, r in self.alike.items() if math.isfinite(r)}
        return max(known, key=known.__getitem__) if known else None

    @property
    def verdict(self) -> str:
        """``"yes"``, ``"partly"`` or ``"no"`` by the rule of :data:`SAME` and :data:`OWN`; ``"unknown"`` without an r."""
        if self.nearest is None:
            return "unknown"
        r = round(self.alike[self.nearest], 2)  # as it is shown
        return "no" if r >= SAME else "partly" if r >= OWN else "yes"

    @property
    def question(self) -> str:
        return f"Specific to “{self.word}”?"

    @property
    def answer(self) -> str:
        """One sentence."""
        if self.nearest is None:
            return "It can't be told: the map, or every control word's, is the same at every patch."
        near = f"the map for “{self.nearest}”"
        r = f"r {self.alike[self.nearest]:.2f}"
        return {
            "no": f"No: {near} is nearly the same ({r}).",
            "partly": f"Partly: {near} is alike ({r}).",
            "yes": f"Yes, as far as {len(self.alike)} other word{'s' * (len(self.alike) != 1)} can tell: {near} is the most "
            f"similar ({r}).",
        }[self.verdict]


def control_words(words: Sequence[str], query: Query, word: str) -> tuple[str, ...]:
    """The ``words`` that can stand for a query's ``word``: without blanks, repetitions and the word itself, at most
    :data:`MOST`.

    Raises:
        QueryMissing: the query is a patch, ``word`` has no letters, or none of the words is left.
    """
    if query.kind == "patch":
        raise QueryMissing("A patch has no word that another could take the place of; choose a token or a typed word.")
    if not any(char.isalnum() for char in word):
        what = (
            f"{word[:60]!r} is no word"
            if word.strip()
            else "The text doesn't say in one word what is asked for, so there is none"
        )
        raise QueryMissing(f"{what} that another could take the place of; choose a word of the text, or type one.")
    plain = dict.fromkeys(" ".join(one.split()) for one in words)
    left = tuple(one for one in plain if one and one.casefold() != word.strip().casefold())[:MOST]
    if not left:
        raise QueryMissing(
            f"No control word is left beside {word.strip()[:60]!r}; give at least one other, such as {WORDS[0]}."
        )
    return left


def control_queries(
    loaded: LoadedModel, asked: Asked, query: Query, word: str, others: Sequence[str], report: Report = silent
) -> tuple[Query, ...]:
    """The query with each of :func:`control_words` in the place of ``word``: one run each, or of a typed word one short pass
    of text. :class:`QueryMissing` where ``word`` stands in neither prompt nor answer."""
    made = []
    for done, other in enumerate(others):
        report(done, len(others), f"“{other}” in the place of “{word}”")
        made.append(swapped_query(loaded, asked, query, word, other))
    return tuple(made)


def specificity(found: SimilarityMap, word: str, controls: Mapping[str, SimilarityMap], layer: int) -> Specificity:
    """What the maps of control words, by word, say of a map at one layer."""
    return Specificity(word, {other: likeness(found.at(layer), one.at(layer)) for other, one in controls.items()})


def likeness(one: Float[np.ndarray, "rows cols"], other: Float[np.ndarray, "rows cols"]) -> float:
    """Pearson's r over the patches; NaN where either map is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1])


def difference(found: SimilarityMap, controls: Mapping[str, SimilarityMap]) -> SimilarityMap:
    """At every layer, the map's z-scores minus the mean of the z-scores of the control words' maps.

    Z-scores, so that a control which is the same map but for a factor and a shift leaves nothing: raw products with it would
    leave the whole pattern. 0: the patch stands out as much for the other words. Where a map is constant, or what is left is
    below :data:`ROUNDING`, the layer is 0 everywhere.
    """
    mean = np.mean([_z_scores(one.raw) for one in controls.values()], axis=0)
    own = _z_scores(found.raw)
    left = np.where(own.any((1, 2), keepdims=True), own - mean, 0.0)
    left[np.abs(left).max((1, 2)) < ROUNDING] = 0.0
    return replace(found, raw=left, minus=tuple(controls))


def _z_scores(raw: Float[np.ndarray, "layers rows cols"]) -> Float[np.ndarray, "layers rows cols"]:
    """Each layer with mean 0 and standard deviation 1; 0 where it is constant."""
    centred = raw - raw.mean((1, 2), keepdims=True)
    spread = raw.std((1, 2), keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
