"""What the SEG maps page computes, kept by content: another layer, query or similarity of what was asked runs no forward.

:class:`Shown` is what every section of the page draws from (:mod:`ui.mapsections`): one question with its answer, one query,
its map at every layer, and the reading at the layer in view with points, mask and scores.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from lens.backend.cache import BoundedCache
from lens.backend.catalog import ModelSpec, catalog, ready
from lens.backend.encoding import DEFAULT_PROMPT, encode, visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.maskfiles import Mask
from lens.backend.sizes import held_bytes
from lens.backend.store import STORE
from lens.backend.words import whole_word
from lens.gallery import gallery
from lens.segmaps.asking import (
    PROMPT,
    Asked,
    ask,
    patch_query,
    question,
    seg_query,
    seg_token,
    token_query,
    word_query,
)
from lens.segmaps.maps import Query, SimilarityMap, similarity_map
from lens.segmaps.masks import MaskHead, Raster, head_rasters, open_head
from lens.segmaps.points import Point, PointRule
from lens.segmaps.reading import MapReading, read_map
from lens.segmaps.scores import LayerScores, score_layers
from lens.segmaps.words import named_token
from ui import mapstate, sidebar, state
from ui.mapstate import OwnMask
from ui.state import Reader

THING = "object"
_HEADS: BoundedCache[tuple[Raster, ...]] = BoundedCache(256 << 20, held_bytes)
"""Masks of models' own heads, which may have a value for each pixel."""
"""What a reader's own picture is said to show, until they say it better."""
Threshold = tuple[str, float | None]
"""Rule and number of :func:`lens.segmaps.masks.map_raster`; or ``"head"`` for the model's own mask decoder."""


@dataclass(frozen=True, eq=False)
class Question:
    """What the page was opened with.

    Attributes:
        reader: as on every page, but its trace is that of prompt and answer, every layer of both.
        asked: prompt and answer as one sequence; ``asked.encoded`` is what a further run takes.
        head: the model's own mask decoder; ``None`` where it has none.
        forced: whether the answer was put into the model's mouth.
    """

    reader: Reader
    asked: Asked
    head: MaskHead | None
    forced: bool

    @property
    def key(self) -> Hashable:
        """Names model, picture, prompt and answer."""
        return self.asked.encoded.key


@dataclass(frozen=True, eq=False)
class Shown:
    """The map in view and what it was made from.

    Attributes:
        question: model, picture, prompt and answer.
        query: what the patches are compared with.
        reading: map, points, mask and scores at the layer in view; ``reading.heads`` are the masks of the model's own head,
            the one of this query first, ``reading.wanted`` the reader's mask.
        rule: of the points. threshold: where the mask comes from; ``"head"`` for the model's own decoder.
        word: what is asked for in one word, where that is known: for baselines and swapped queries.
    """

    question: Question
    query: Query
    reading: MapReading
    rule: PointRule
    threshold: Threshold
    word: str

    @property
    def reader(self) -> Reader:
        return self.question.reader

    @property
    def asked(self) -> Asked:
        return self.question.asked

    @property
    def found(self) -> SimilarityMap:
        """The map at every layer."""
        return self.reading.found

    @property
    def layer(self) -> int:
        return self.reading.layer

    @property
    def similarity(self) -> str:
        return self.found.similarity

    @property
    def scale(self) -> str:
        return self.reading.scale

    @property
    def measure(self) -> str:
        """What the map's values are: the similarity, or of a difference map that."""
        return "difference" if self.found.minus else self.similarity

    @property
    def points(self) -> tuple[Point, ...]:
        return self.reading.points

    @property
    def raster(self) -> Raster:
        """The mask in view: the map's above the threshold, or the model's own."""
        return self.reading.heads[0] if self.threshold[0] == "head" else self.reading.raster

    @property
    def share(self) -> float:
        """The share of the picture that the mask takes."""
        return self.raster.share

    @property
    def key(self) -> Hashable:
        """Names question, query, similarity and what was taken away, for what is the same at every layer."""
        return (self.question.key, *query_key(self.query), self.similarity, self.found.minus)


def open_question(spec: ModelSpec, loaded: LoadedModel) -> Question:
    """Ask what the sidebar says, and trace it with the answer; any :class:`LensError` of asking."""
    picture, notice = state.picture()
    if notice:
        st.warning(notice)
    loaded.anatomy.require("connector")
    prompt = state.prompt(usual_prompt(spec))
    encoded = sidebar.choose_view(encode(loaded, prompt, picture))
    view = encoded.token_map.view
    head = open_head(loaded)
    sites = head.sites() if head else ()
    asked = ask(loaded, prompt, picture, sites=sites, view=view)
    forced = mapstate.forced() and asked.seg is not None and not asked.segs
    if forced and asked.seg is not None:
        asked = ask(loaded, prompt, picture, answer=asked.seg.answer, sites=sites, view=view)
    return Question(Reader(spec, loaded, picture, encoded, asked.trace), asked, head, forced)


def with_seg() -> list[str]:
    """Names of the catalog's models that have <SEG> and a mask head."""
    return [name for name, spec in catalog().items() if spec.mask_head]


def with_seg_at_hand() -> list[str]:
    """Those of :func:`with_seg` that a click opens without fetching more than the app's first model needs."""
    rows = catalog()
    first = next(iter(rows))
    return [name for name in with_seg() if ready(rows[name]) or rows[name].made_from == first]


def usual_model() -> str | None:
    """What the page shows while the reader chose no model: one that has <SEG>, where there is one at hand."""
    return next(iter(with_seg_at_hand()), None)


def usual_prompt(spec: ModelSpec) -> str:
    """What the page asks while the reader typed nothing: a model with <SEG> to segment what the photo shows."""
    photo = next((photo for photo in gallery() if photo.key == state.gallery_key()), None)
    thing = photo.thing if photo else THING
    if spec in STORE.models:
        loaded = STORE.model(spec)
        return question(loaded, thing) if seg_token(loaded) else DEFAULT_PROMPT
    return PROMPT.format(thing) if spec.mask_head else DEFAULT_PROMPT


def the_query(question: Question, kind: str, rule: str | None) -> Query:
    """The query that the reader's state names; :class:`QueryMissing` where it isn't there."""
    asked = question.asked
    if kind == "seg":
        return seg_query(asked, mapstate.seg_number(asked), rule)
    if kind == "word":
        return _word(question.reader.loaded, mapstate.word(), question.reader.loaded.fingerprint)
    if kind == "patch":
        grid = visual_grid(asked.token_map)
        return patch_query(asked, *state.patch(grid.rows, grid.cols))
    return token_query(asked, mapstate.token(asked, default_token(asked)), rule or "p")


def default_token(asked: Asked) -> int:
    """The token that a map starts from where nothing was chosen: what the answer names first, or the prompt where the model
    says nothing."""
    for span in reversed(mapstate.spans(asked).values()):
        words = [at for at in span if asked.token_map.kinds[at] == "text"]
        named = named_token([asked.token_map.texts[at] for at in words])
        if named is not None:
            return words[named]
    return len(asked.token_map) - 1


def asked_word(question: Question, query: Query) -> str:
    """What is asked for, in one word: the typed one, the query's own token with the letters around it, or what the prompt
    asks to segment; empty where nobody said."""
    if query.kind == "word":
        return query.text
    if query.kind == "token" and query.position is not None:
        return word_at(question.asked, query.position)
    return segment_word(question)


def word_at(asked: Asked, position: int) -> str:
    """A token with the letters around it."""
    texts = asked.token_map.texts
    start = sum(map(len, texts[:position]))
    text = "".join(texts)
    return text[slice(*whole_word(text, start, start + len(texts[position])))].strip()


def segment_word(question: Question) -> str:
    """What the prompt asks to segment; empty where it asks something else."""
    seg, prompt = question.asked.seg, question.reader.encoded.prompt.strip()
    before, _, after = (seg.prompt if seg else PROMPT).partition("{}")
    fits = prompt.startswith(before) and prompt.endswith(after)
    return prompt.removeprefix(before).removesuffix(after) if fits else ""


def prompt_positions(question: Question) -> range:
    """Positions of the reader's own words, without what the chat template puts around them."""
    texts = question.asked.token_map.texts
    ends = np.cumsum([len(text) for text in texts])
    start = "".join(texts).rfind(question.reader.encoded.prompt, 0, int(ends[question.asked.start - 1]))
    if start < 0:
        return mapstate.spans(question.asked)["prompt"]
    last = start + len(question.reader.encoded.prompt) - 1
    return range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, last, "right")) + 1)


def the_map(question: Question, query: Query, similarity: str, of: tuple[Hashable, ...] = ()) -> SimilarityMap:
    """The map of a query at every layer. ``of``: names a query that was read in another sequence."""
    return _map(question.asked, query, similarity, (question.key, *(of or query_key(query))))


def seg_maps(shown: Shown) -> dict[str, SimilarityMap]:
    """The map of every <SEG> of the answer, by its name."""
    asked, rule = shown.asked, shown.query.rule
    queries = [seg_query(asked, number, rule) for number in range(len(asked.segs))]
    return {query.text: the_map(shown.question, query, shown.similarity) for query in queries}


def read(
    question: Question,
    found: SimilarityMap,
    layer: int,
    *,
    scale: str,
    rule: PointRule,
    threshold: Threshold,
    wanted: OwnMask | None,
) -> MapReading:
    """The map at one layer with its points, masks and scores; :class:`MapConstant` where nothing stands out."""
    heads = head_masks(question, found)
    parted = ("otsu", None) if threshold[0] == "head" else threshold
    reading = read_map(question.asked, found, layer, scale=scale, points=rule, threshold=parted, heads=heads)
    if wanted is None:
        return reading
    return replace(reading, scores=scores(question, found, wanted), wanted=wanted.mask)


def scores(question: Question, found: SimilarityMap, wanted: OwnMask) -> LayerScores:
    """Every layer of a map of this question against the reader's mask."""
    content = (
        question.key,
        found.kind,
        found.name,
        found.position,
        found.rule,
        found.similarity,
        found.minus,
        wanted.key,
    )
    return _scores(found, wanted.mask, content)


def head_reads(question: Question, kind: str) -> bool:
    """Whether the model's own mask decoder has a mask for the query in view: it reads <SEG> alone."""
    return question.head is not None and kind == "seg" and bool(question.asked.segs)


def head_masks(question: Question, found: SimilarityMap) -> tuple[Raster, ...]:
    """The masks that the model's own head gives: for a <SEG>, that one's first, then those of the others."""
    if question.head is None or found.kind != "seg" or found.position is None:
        return ()
    others = [position for position in question.asked.segs if position != found.position]
    head, positions = question.head, (found.position, *others)
    return _HEADS.get((question.key, positions), lambda: head_rasters(head, question.asked.trace, found, positions))


@st.cache_resource(max_entries=64, show_spinner=False)
def _word(_loaded: LoadedModel, word: str, fingerprint: str) -> Query:
    return word_query(_loaded, word)


@st.cache_resource(max_entries=64, show_spinner=False)
def _map(_asked: Asked, _query: Query, similarity: str, content: Hashable) -> SimilarityMap:
    return similarity_map(_asked.trace, _query, similarity)


@st.cache_resource(max_entries=256, show_spinner=False)
def _scores(_found: SimilarityMap, _mask: Mask, content: Hashable) -> LayerScores:
    return score_layers(_found, _mask)


def query_key(query: Query) -> tuple[Hashable, ...]:
    """Names a query of one question."""
    return query.kind, query.text, query.position, query.rule
