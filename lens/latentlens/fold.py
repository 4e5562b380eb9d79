"""Evidence: neighbours folded by word and, within a word, by what a causal model had read.

Two occurrences with the same beginning have the same state, whatever follows, and one context is found at several text
layers: a list of five such neighbours is one piece of evidence, not five. Folding counts them instead of repeating them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from lens.backend.words import whole_word
from lens.latentlens.index import Index
from lens.latentlens.search import Neighbour

ENDINGS = 4
"""Different endings that are looked up for one beginning."""


@dataclass(frozen=True)
class Beginning:
    """All neighbours with one beginning.

    Attributes:
        best: the most similar of them.
        layers: text layers at which it was found, most similar first.
        evidence: occurrences of the beginning in the corpus.
        endings: how other sentences of the index go on after it; the model had read none of them.
    """

    best: Neighbour
    layers: tuple[int, ...]
    evidence: int
    endings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All neighbours of one word, folded: its beginnings, most similar first, and how many neighbours they were."""

    word: str
    beginnings: tuple[Beginning, ...]
    neighbours: int

    @property
    def best(self) -> Neighbour:
        return self.beginnings[0].best


def fold(neighbours: Sequence[Neighbour], index: Index | None = None) -> tuple[Evidence, ...]:
    """Neighbours (best first) by word, case and outer blanks aside; each word where its best neighbour stood.

    With ``index`` the endings that other sentences give a beginning are looked up.
    """
    words: dict[str, list[Neighbour]] = {}
    for found in neighbours:
        words.setdefault(found.word.strip().casefold() or found.token, []).append(found)
    return tuple(Evidence(group[0].word, _beginnings(group, index), len(group)) for group in words.values())


def _beginnings(group: Sequence[Neighbour], index: Index | None) -> tuple[Beginning, ...]:
    same: dict[tuple[str, str], list[Neighbour]] = {}
    for found in group:
        same.setdefault((found.sentence[: found.seen], found.word), []).append(found)
    out = []
    for found in same.values():
        layers = tuple(dict.fromkeys(one.layer for one in found))
        # Where an index keeps every occurrence as a row of its own, the rows are the count.
        rows = {one.row: one.evidence for one in found}
        own = [one.sentence[one.seen :] for one in found]
        ends = dict.fromkeys([*own, *(endings(index, found[0]) if index is not None else ())])
        ends.pop(own[0], None)
        out.append(Beginning(found[0], layers, sum(rows.values()), tuple(ends)[:ENDINGS]))
    return tuple(out)


def endings(index: Index, found: Neighbour, most: int = ENDINGS) -> tuple[str, ...]:
    """How other sentences of the index go on after what was read at a context: the different rests, at most so many.

    A sentence counts when it begins with the same characters and its word ends at the same place, too. (An index keeps one
    sentence for each beginning that it holds, so that the corpus may know more.)
    """
    begun = found.sentence[: found.seen]
    hits = index.sentences.filter(pc.starts_with(index.sentences, begun)).slice(0, 8 * most).to_pylist()  # type: ignore[attr-defined]
    rests = (
        text[found.seen :]
        for text in hits
        if text != found.sentence and whole_word(text, found.start, found.seen) == (found.start, found.end)
    )
    return tuple(dict.fromkeys(rests))[:most]
