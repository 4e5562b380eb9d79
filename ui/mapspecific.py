"""Under the map of the SEG maps page: whether it is specific to its word, by the maps of control words; and the difference
map that is left without them.

What costs no run of the whole model, or less than :data:`AT_ONCE` seconds of them, is computed unasked; else it stands
behind a button that says what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import streamlit as st

from lens.errors import LensError
from lens.segmaps.maps import Query, SimilarityMap
from lens.segmaps.specificity import Specificity, control_queries, control_words, difference, specificity
from ui import maps, mapstate
from ui.maps import Question
from ui.work import offered, runs

AT_ONCE = 1.0
SIGNS = {"yes": "●", "partly": "◐", "no": "○", "unknown": "–"}
"""Of a verdict, beside its word."""


@dataclass(frozen=True, eq=False)
class Told:
    """The control words' maps, and what they say of the map in view at its layer."""

    controls: Mapping[str, SimilarityMap]
    specific: Specificity


def told(question: Question, query: Query, found: SimilarityMap, layer: int, *, asked_for: bool) -> Told | None:
    """Say in one line whether a map is specific to its word; ``None`` while that isn't known, or where it can't be.

    ``asked_for``: whether the reader chose the scale that needs it.
    """
    word = maps.asked_word(question, query)
    if query.kind == "patch":
        if asked_for:
            st.info("A patch has no word that another could take the place of, so the map is shown as z-scores.")
        return None
    try:
        others = control_words(mapstate.controls().split(","), query, word)
        queries = _queries(question, query, word, others, asked_for)
    except LensError as error:
        _line("unknown", f"Specific to “{word or query.text}”?", f"It can't be told. {error}")
        _words()
        return None
    if queries is None:
        if asked_for:
            st.caption("Until the control words have been tried the map is shown as z-scores.")
        return None
    controls = {
        other: maps.the_map(question, one, found.similarity, of=(*maps.query_key(query), word, other))
        for other, one in zip(others, queries, strict=True)
    }
    specific = specificity(found, word, controls, layer)
    alike = ", ".join(f"“{other}” {r:.2f}".replace("-", "−") for other, r in specific.alike.items())
    _line(specific.verdict, specific.question, specific.answer, f"r over the patches at layer {layer}: {alike}.")
    _words()
    return Told(controls, specific)


def in_scale(found: SimilarityMap, scale: str, told: Told | None) -> tuple[SimilarityMap, str]:
    """The map and the scale that it can be shown in: a difference needs its controls; until they are there, z-scores."""
    if scale != "difference":
        return found, scale
    return (difference(found, told.controls), scale) if told else (found, "z-score")


def _queries(
    question: Question, query: Query, word: str, others: tuple[str, ...], asked_for: bool
) -> tuple[Query, ...] | None:
    loaded, asked = question.reader.loaded, question.asked
    if query.kind == "word":
        return _typed(question, query, word, others, (loaded.fingerprint, query.text, others))
    takes = len(others) * asked.trace.seconds
    return offered(
        "specific", (question.key, *maps.query_key(query), word, others), f"Is this map specific to “{word}”?",
        lambda report: control_queries(loaded, asked, query, word, others, report),
        f"Puts {_listed(others)} in its place: {runs(len(others), asked.trace)}.", at_once=asked_for or takes < AT_ONCE,
    )  # fmt: skip


@st.cache_resource(max_entries=64, show_spinner=False)
def _typed(
    _question: Question, _query: Query, _word: str, _others: tuple[str, ...], content: object
) -> tuple[Query, ...]:
    return control_queries(_question.reader.loaded, _question.asked, _query, _word, _others)


def _listed(words: tuple[str, ...]) -> str:
    quoted = [f"“{word}”" for word in words]
    return " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def _line(verdict: str, question: str, answer: str, note: str = "") -> None:
    first, _, rest = answer.partition(" ")
    st.html(
        f'<p class="tl-verdict tl-{verdict}"><span aria-hidden="true">{SIGNS[verdict]}</span> <b>{escape(question)} '
        f'{escape(first)}</b> {escape(rest)} <span class="tl-how">{escape(note)}</span></p>'
    )


def _words() -> None:
    """Where the reader says which words are tried."""
    with st.popover("Control words", icon=":material/swap_horiz:"):
        st.session_state["controls_box"] = mapstate.controls()
        st.text_input(
            "Put in the word's place, with commas between them", key="controls_box",
            on_change=lambda: mapstate.choose_controls(st.session_state["controls_box"]),
            help="Names of things that the picture doesn't show: where the map for one of them is nearly the same, this one "
            "isn't about the word. From r 0.90 another word's map accounts for 80 % of its variance; below 0.50 for less "
            "than a quarter.",
        )  # fmt: skip
