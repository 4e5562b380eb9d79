"""Reverse search: from a word or a phrase to the patches whose states are nearest to its contextual states.

The word's states come from the index (occurrences that the model had read to the end of the word) or are computed on the
fly, behind a carrier phrase (:mod:`lens.backend.typed`). A patch's score at a layer is its highest similarity with any of
them, at any text layer that the index stores.

Every map has a brightest patch. The null is the same map for other words of the corpus, each with as many states from the
same source; a patch *clears* it when it scores higher than at least :data:`CLEAR` of the other words do at this very patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int

from lens.backend.encoding import visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.backend.typed import typed_states
from lens.errors import CapabilityMissing, QueryMissing
from lens.latentlens.index import Index
from lens.latentlens.search import unit_vectors
from lens.latentlens.spaces import SPACES, spread

MOST = 8
"""States of a word that are used at most."""
OTHERS = 20
"""Other words in the null."""
CLEAR = 0.95
SOURCES = {"index": "Contexts of the index", "typed": "Computed now"}

States = dict[int, Float[np.ndarray, "m d"]]
"""States of a word, by text layer."""


@dataclass(frozen=True, eq=False)
class WordMap:
    """One word over a picture, at every layer of the visual tokens.

    Attributes:
        values: each patch's score; 0 is the layer of the connector's output.
        text_layers: the text layer at which it was highest.
        others: the scores of the null's words.
        sentences: the contexts used; empty for what was computed on the fly.
        null_words: the other words.
    """

    phrase: str
    source: str
    similarity: str
    values: Float[np.ndarray, "layers rows cols"]
    text_layers: Int[np.ndarray, "layers rows cols"]
    others: Float[np.ndarray, "words layers rows cols"]
    sentences: tuple[str, ...]
    null_words: tuple[str, ...]

    @property
    def clear(self) -> Bool[np.ndarray, "layers rows cols"]:
        """The patches that score higher than :data:`CLEAR` of the other words do there."""
        return (self.others < self.values).mean(axis=0) >= CLEAR

    @property
    def peaks(self) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, "words layers"]]:
        """The highest score at each layer, of the word and of the others."""
        return self.values.max(axis=(1, 2)), self.others.max(axis=(2, 3))


def find_word(
    loaded: LoadedModel,
    trace: Trace,
    index: Index,
    phrase: str,
    source: str = "index",
    similarity: str = "raw",
    seed: int = 0,
) -> WordMap:
    """The map of ``phrase`` over the picture of ``trace``, which holds every layer.

    Raises:
        QueryMissing: an empty phrase, one too long, or one that the index doesn't hold (for the source ``"index"``).
        CapabilityMissing: another source, or a similarity that is neither the raw cosine nor one of a space.
    """
    if source not in SOURCES or similarity not in ("raw", *SPACES):
        raise CapabilityMissing(f"A word can't be searched for by {source!r} and {similarity!r}.")
    if not phrase.strip():
        raise QueryMissing("No word was given; type the name of a thing, such as cat.")
    if source == "index":
        rows = contexts_of(index, phrase)
        words, groups = other_words(index, phrase, len(rows), seed)
        least = min([len(rows), *map(len, groups)])
        taken = [rows[:least], *(group[:least] for group in groups)]
        sentence = index.contexts.column("sentence").take(rows[:least])
        sentences = tuple(index.sentences.take(sentence).to_pylist())
        flat = np.concatenate(taken)
        states = {layer: index.taken(layer, flat).reshape(len(taken), least, -1) for layer in index.layers}
    else:
        words, sentences = other_words(index, phrase, 1, seed)[0], ()
        found = typed_states(loaded, [phrase, *words], index.layers)
        states = {layer: torch.stack([one[layer][-1:] for one in found]).numpy() for layer in index.layers}
    grid = visual_grid(trace.token_map)
    positions = torch.from_numpy(grid.positions.reshape(-1))
    patches = torch.stack([trace.hidden(layer)[positions] for layer in range(trace.depth + 1)]).float().numpy()
    values, at = scores(index, patches, states, similarity)
    shape = (len(values), len(patches), grid.rows, grid.cols)
    values, at = values.reshape(shape), at.reshape(shape)
    return WordMap(phrase.strip(), source, similarity, values[0], at[0], values[1:], sentences, tuple(words))


def scores(
    index: Index,
    patches: Float[np.ndarray, "layers n d"],
    states: dict[int, Float[np.ndarray, "words m d"]],
    similarity: str,
) -> tuple[Float[np.ndarray, "words layers n"], Int[np.ndarray, "words layers n"]]:
    """The highest similarity of every patch with any of a word's states, and the text layer where that is."""
    unit = unit_vectors(index, patches.reshape(-1, patches.shape[-1]))
    best: np.ndarray | None = None
    at: np.ndarray | None = None
    for layer, each in states.items():
        words, count, width = each.shape
        rows = unit_vectors(index, each.reshape(-1, width))
        near, far = (
            (rows, unit)
            if similarity == "raw"
            else (spread(index).place(part, similarity, layer) for part in (rows, unit))
        )
        found = (near @ far.T).reshape(words, count, -1).max(axis=1)
        if best is None or at is None:
            best, at = found, np.full(found.shape, layer)
        else:
            at = np.where(found > best, layer, at)
            best = np.maximum(best, found)
    assert best is not None and at is not None
    shape = (len(best), *patches.shape[:2])
    return np.clip(best, -1, 1).reshape(shape), at.reshape(shape)


def contexts_of(index: Index, phrase: str, most: int = MOST) -> Int[np.ndarray, " n"]:
    """Rows of the index that stand at the end of ``phrase`` (capitals aside; no plural is guessed), at most so many, evenly
    spread; first tokens of a text are left out, since their states are attention sinks.

    Raises:
        QueryMissing: there is none.
    """
    wanted = " ".join(phrase.split()).casefold()
    last = wanted.rpartition(" ")[2]
    table = index.contexts
    rows = np.flatnonzero(_lower(index) == last)
    rows = rows[_usable(index)[rows]]
    if " " in wanted and len(rows):
        ends = table.column("end").take(rows).to_pylist()
        texts = index.sentences.take(table.column("sentence").take(rows)).to_pylist()
        before = [text[:end].casefold() for text, end in zip(texts, ends, strict=True)]
        fits = [t.endswith(wanted) and not t[: -len(wanted)][-1:].isalnum() for t in before]
        rows = rows[np.array(fits, bool)]
    if not len(rows):
        raise QueryMissing(
            f"The index {index.name} holds no context of {phrase[:60]!r}; have it computed now, or type another word."
        )
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64)]


def other_words(index: Index, phrase: str, count: int, seed: int = 0) -> tuple[list[str], list[Int[np.ndarray, " n"]]]:
    """Up to :data:`OTHERS` random words of the index that aren't of the phrase, with at most ``count`` contexts each: of
    those with that many, or, if these are too few, with the most."""
    words = _lower(index)
    usable = np.flatnonzero(_usable(index))
    names, inverse, counts = np.unique(words[usable], return_inverse=True, return_counts=True)
    own = set(phrase.casefold().split())
    fit = np.array([name.isalpha() and len(name) > 2 and name not in own for name in names], bool)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[fit[order]]
    enough = [one for one in order if counts[one] >= count]
    chosen = (enough + sorted((one for one in order if counts[one] < count), key=lambda one: -counts[one]))[:OTHERS]
    if not chosen:
        raise QueryMissing(f"The index {index.name} holds no other word to compare {phrase[:60]!r} with.")
    return [str(names[one]) for one in chosen], [usable[inverse == one][:count] for one in chosen]


def _lower(index: Index) -> np.ndarray:
    return np.array(pc.utf8_lower(index.contexts.column("word")).to_pylist(), dtype=object).astype(str)  # type: ignore[attr-defined]


def _usable(index: Index) -> Bool[np.ndarray, " rows"]:
    """Contexts at the end of their word that aren't the first token of a text."""
    seen, end, position = (index.contexts.column(name).to_numpy() for name in ("seen", "end", "position"))
    return (seen >= end) & (position > 0)


def known_words(index: Index, phrases: Sequence[str]) -> list[str]:
    """Those of ``phrases`` that the index holds."""
    held = set(_lower(index)[_usable(index)])
    return [phrase for phrase in phrases if phrase.casefold() in held]
