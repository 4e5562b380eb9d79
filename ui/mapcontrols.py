"""Section of the SEG maps page: controls that an honest map doesn't survive, and baselines that it must beat."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import streamlit as st

from lens.backend.images import open_picture
from lens.backend.maskfiles import Mask, read_mask
from lens.errors import LensError
from lens.figures.segmaps import map_multiples
from lens.gallery import gallery
from lens.progress import Report
from lens.segmaps import baselines, controls
from lens.segmaps.controls import Control
from lens.segmaps.maps import SimilarityMap
from lens.segmaps.points import POSITIVE, grid_points, inside_share, random_points
from lens.segmaps.scores import MapScores, score_layers
from lens.segmaps.specificity import WORDS, likeness
from ui import export, mapstate, mapviews, state
from ui.classcards import table
from ui.export import Exhibit
from ui.maps import Shown
from ui.work import offered

OTHER, ABSENT = "grass", WORDS[0]
RANDOM_POINTS = 1000


@dataclass(frozen=True, eq=False)
class Compared:
    """A map beside the one in view: what it is, and what it means if both are alike."""

    name: str
    note: str
    found: SimilarityMap


@dataclass(frozen=True, eq=False)
class Tried:
    """Controls that were run, and by name the sentences of those that make no sense here."""

    maps: tuple[Compared, ...]
    refused: dict[str, str]


@dataclass(frozen=True)
class Words:
    """What is asked for, what is asked for instead, what isn't in the picture; and whose query is taken."""

    word: str
    other: str
    absent: str
    picture: str


def beside(shown: Shown) -> list[Exhibit]:
    """The map in view among its baselines at once, and its controls once they were run."""
    words = _words(shown)
    maps = [Compared("this map", "", shown.found), *_baselines(shown, words.word)]
    tried = offered(
        "controls", (shown.key, words), "Run the controls", _work(shown, words),
        "Six runs of the model, one of them with random weights, which takes the memory of its blocks once more.",
    )  # fmt: skip
    if tried:
        maps[1:1] = tried.maps
    maps = [one for one in maps if shown.layer in one.found.layers]
    scores = _scores(shown, maps)
    drawn = _multiples(shown, maps, scores, words if tried else None)
    export.show(drawn)
    st.html(_table(shown, maps, scores))
    if tried and tried.refused:
        left_out = " ".join(f"<i>{name}</i>: {escape(text)}" for name, text in tried.refused.items())
        st.html(f'<p class="tl-how">Left out. {left_out}</p>')
    if not scores:
        st.caption("With a mask (section “Scores”) each of these maps is scored too, and the oracle joins them.")
    return [drawn]


def _words(shown: Shown) -> Words:
    """What takes part in the controls."""
    names = {photo.key: photo.title for photo in gallery()}
    others = [key for key in names if key != state.gallery_key()]
    first, second, third, fourth = st.columns(4, gap="medium")
    return Words(
        first.text_input("Asked for", value=shown.word, key=f"asked-{shown.word}").strip(),
        second.text_input("Ask for this instead", value=OTHER, key="control-other").strip(),
        third.text_input("Not in the picture", value=ABSENT, key="control-absent").strip(),
        fourth.selectbox("Query of another picture", others, format_func=names.get, key="control-picture"),
    )


def _work(shown: Shown, words: Words) -> Callable[[Report], Tried]:
    loaded, asked, query, how = shown.reader.loaded, shown.asked, shown.query, shown.similarity
    picture = next(photo for photo in gallery() if photo.key == words.picture)

    def rollout() -> Control:
        if query.position is None:
            raise LensError("A typed word is no token of this sequence, so no attention flows to it.")
        at = query.position - (query.rule == "p-1")
        return Control("attention rollout", baselines.NOTES["rollout"], baselines.rollout(loaded, asked, at))

    steps: dict[str, Callable[[], Control]] = {
        "swapped query": lambda: controls.swapped(loaded, asked, query, words.word, words.other, how),
        "absent object": lambda: controls.swapped(loaded, asked, query, words.word, words.absent, how, absent=True),
        "another picture's query": lambda: controls.foreign(
            loaded, asked, query, open_picture(picture.path), words.word, how
        ),
        "untrained token": lambda: controls.untrained(loaded, asked, query, how),
        "random language model": lambda: controls.randomised(loaded, asked, query, how),
        "attention rollout": rollout,
    }

    def work(report: Report) -> Tried:
        made, refused = [], {}
        for done, (name, step) in enumerate(steps.items()):
            report(done, len(steps), name)
            try:
                control = step()
                made.append(Compared(control.name, control.note, control.found))
            except LensError as error:
                refused[name] = str(error)
        return Tried(tuple(made), refused)

    return work


def _baselines(shown: Shown, word: str) -> list[Compared]:
    """What costs no run of the model."""
    asked, how = shown.asked, shown.similarity
    made = [baselines.mean_text(asked, how), baselines.stands_out(asked.trace), baselines.centre_prior(asked.trace)]
    made.append(baselines.random_map(asked.trace))
    try:
        named = baselines.class_word(asked, word, how)
        if not np.array_equal(named.raw, shown.found.raw):
            made.insert(0, named)
    except LensError:  # the word isn't in the text
        pass
    if everything := _all_objects(shown):
        made.append(baselines.oracle(asked.trace, everything, "all objects"))
    if own := mapstate.mask(shown.reader):
        made.append(baselines.oracle(asked.trace, own.mask))
    return [Compared(found.name, baselines.NOTES[found.kind], found) for found in made]


def _all_objects(shown: Shown) -> Mask | None:
    """A mask of everything that could have been asked for, if the reader has one."""
    picture = shown.reader.picture
    with st.popover("All objects", icon=":material/stacks:"):
        st.caption(
            "A method that finds objects and doesn't listen outlines them all, whichever is asked for. Give the mask of all "
            "objects together, such as the picture's COCO annotations, to see how far that gets."
        )
        file = st.file_uploader("Mask of all objects", key="all-objects")
        if file is None:
            return None
        try:
            return read_mask(file.getvalue(), (picture.width, picture.height), picture.name)
        except LensError as error:
            state.show_error(error)
    return None


def _scores(shown: Shown, maps: Sequence[Compared]) -> list[MapScores]:
    """Each map's scores at the layer in view; nothing without a mask."""
    own = mapstate.mask(shown.reader)
    if own is None:
        return []
    content = (shown.key, own.key, shown.layer)
    return [_score(one.found, own.mask, shown.layer, (*content, one.name)) for one in maps]


@st.cache_resource(max_entries=256, show_spinner=False)
def _score(_found: SimilarityMap, _mask: Mask, layer: int, content: Hashable) -> MapScores:
    return score_layers(_found.only(layer), _mask).at(layer)


def _multiples(shown: Shown, maps: Sequence[Compared], scores: Sequence[MapScores], words: Words | None) -> Exhibit:
    """``words``: what the controls were run with."""
    alike = [likeness(shown.found.at(shown.layer), one.found.at(shown.layer)) for one in maps]
    panels = {}
    for number, (one, r) in enumerate(zip(maps, alike, strict=True)):
        parts = [f"r {r:.2f}" if number else "", f"IoU {scores[number].iou:.2f}" if scores else ""]
        panels[one.name] = (one.found.at(shown.layer), " · ".join(filter(None, parts)))
    figure = map_multiples(shown.reader.picture.image, shown.found.boxes, panels, width=mapviews.ACROSS)
    rows: list[dict[str, object]] = [
        {
            "map": one.name,
            "r": r,
            "row": row,
            "col": col,
            "value": float(value),
            **(_as_row(scores[i]) if scores else {}),
        }
        for i, (one, r) in enumerate(zip(maps, alike, strict=True))
        for (row, col), value in np.ndenumerate(one.found.at(shown.layer))
    ]
    title = f"{mapviews.query_name(shown.found, shown.word)} at layer {shown.layer} beside controls and baselines"
    source = mapviews.scored(shown)
    if words:
        source |= {"asked for": words.word, "asked for instead": words.other, "not in the picture": words.absent,
                   "query of another picture": words.picture}  # fmt: skip
    return Exhibit("beside", title, figure, lambda: rows, source)


def _as_row(score: MapScores) -> dict[str, object]:
    return {"IoU": score.iou, "AUC": score.auc, "pointing": score.pointing}


def _table(shown: Shown, maps: Sequence[Compared], scores: Sequence[MapScores]) -> str:
    """What each map is, how alike it is and how well it does."""
    own = mapstate.mask(shown.reader)
    rows = []
    for number, one in enumerate(maps):
        r = _number(likeness(shown.found.at(shown.layer), one.found.at(shown.layer))) if number else "1"
        cells = [f"<b>{escape(one.name)}</b>" if not number else escape(one.name), r]
        if own:
            score = scores[number]
            cells += [
                _number(score.iou),
                _number(score.auc),
                f"{score.pointing:.0%}",
                _points_inside(shown, one, own.mask),
            ]
        rows.append((*cells, f'<div style="min-width:15rem">{escape(one.note)}</div>'))
    head = ("map", "r with this map", *(("IoU", "AUC", "pointing", "positive points inside") if own else ()), "")
    if own:
        share = inside_share(random_points(shown.found.boxes, RANDOM_POINTS), own.mask.inside)["positive"]
        rows.append(
            ("random points", "", "", "", "", f"{share:.0%}", f"{RANDOM_POINTS:,} places where the encoder sees.")
        )
    return table(head, rows)


def _points_inside(shown: Shown, one: Compared, mask: Mask) -> str:
    try:
        points = grid_points(one.found.at(shown.layer), one.found.boxes, one.found.size, shown.rule)
    except LensError:  # a constant map has no points
        return "–"
    share = inside_share([point for point in points if point.label == POSITIVE], mask.inside)
    return f"{share['positive']:.0%}" if share else "–"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"
