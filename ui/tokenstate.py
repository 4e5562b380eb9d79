"""The state of the page of function tokens that no widget holds: the node in view, the reader's text, the token in it.

It stands in the address, as :mod:`ui.state` keeps what all pages share.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import streamlit as st

from lens.functiontokens.basis import FIRST
from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.prompt import PromptReading
from ui import state
from ui.tokens import DEFAULT_TEXT, Setting

Node = tuple[str, int]
"""("token", id) or ("feature", number)."""
OWN = ("node", "text", "at", "shown", "paint")
"""Their names in the address."""
PAINTS = {"group": "group", "loss": "loss", "entropy": "entropy", "feature": "a feature"}
"""By what the text may be coloured, the default first, and how the page calls it."""
TRAIL = 6
"""Nodes of the walk that are kept to go back to."""


def node(setting: Setting) -> Node:
    """The token or feature in view; the most frequent token while none was chosen, or when the address names none of this
    graph."""
    graph = setting.has_graph
    found = re.fullmatch(r"(token|feature)-(\d{1,9})", state.held("node", ""))
    if found:
        kind, number = found[1], int(found[2])
        if _is_there(graph, kind, number):
            return kind, number
    return "token", int(graph.counts.ids[int(np.argmax(graph.occurrences))])


def _is_there(graph: FeatureGraph, kind: str, number: int) -> bool:
    if kind == "feature":
        return number < graph.size
    return bool((graph.counts.ids == number).any())


def begin(at: Node) -> None:
    """The walk begins where the page does."""
    if not st.session_state.get("walked"):
        st.session_state["walked"] = [at]


def choose_node(kind: str, number: int) -> None:
    """Walk to a token or a feature."""
    trail = [one for one in st.session_state.get("walked", []) if one != (kind, number)]
    st.session_state["walked"] = [*trail, (kind, number)][-TRAIL:]
    state.put("node", f"{kind}-{number}")


def take_node(chart: str) -> Callable[[], None]:
    """A click on a mark of a figure walks to its token or feature; an emptied selection changes nothing."""

    def take() -> None:
        points = st.session_state[chart]["selection"]["points"]
        if points and points[0].get("customdata"):
            kind, number = points[0]["customdata"][:2]
            choose_node(str(kind), int(number))

    return take


def trail(current: Node) -> list[Node]:
    """The last nodes of the walk, the current one last."""
    before = [one for one in st.session_state.get("walked", []) if one != current]
    return [*before[1 - TRAIL :], current]


def leave_feature() -> None:
    """A number names another feature in another basis: the walk begins anew from its last token."""
    tokens = [one for one in st.session_state.get("walked", []) if one[0] == "token"]
    st.session_state["walked"] = tokens
    if state.held("node", "").startswith("feature"):
        if tokens:
            state.put("node", f"token-{tokens[-1][1]}")
        else:
            state.drop("node")
    state.drop("shown")


def text() -> str:
    """The reader's text, right or wrong."""
    return state.held("text", DEFAULT_TEXT)


def choose_text(new: str) -> None:
    """Read another text; one too long for an address is kept in the session alone."""
    state.drop("at")
    st.session_state["text"] = new
    if new == DEFAULT_TEXT or len(new) > state.URL_PROMPT:
        st.query_params.pop("text", None)
    else:
        st.query_params["text"] = new


def spot(reading: PromptReading) -> int:
    """The position in the text that is in view: the one chosen, else the last function token's."""
    held = state.held("at", "")
    if held.isdecimal() and len(held) < 6 and int(held) < len(reading.tokens):
        return int(held)
    function = [token.position for token in reading.tokens if token.group == "function"]
    return function[-1] if function else min(FIRST, len(reading.tokens) - 1)


def choose_spot(position: int) -> None:
    """Look at one token of the text."""
    state.put("at", str(position))


def shown(setting: Setting) -> int | None:
    """The feature by which the text is coloured; ``None`` for none."""
    held = state.held("shown", "")
    return int(held) if held.isdecimal() and len(held) < 10 and int(held) < setting.features.size else None


def show_feature(feature: int) -> None:
    """Colour the text by a feature."""
    state.put("shown", str(feature))
    choose_paint("feature")


def paint() -> str:
    """By what the text is coloured, one of :data:`PAINTS`."""
    held = state.held("paint", "")
    return held if held in PAINTS else next(iter(PAINTS))


def choose_paint(by: str) -> None:
    """Colour the text by its groups, by a value, or by a feature; the control that shows it follows."""
    st.session_state["paint_by"] = by
    if by == next(iter(PAINTS)):
        state.drop("paint")
    else:
        state.put("paint", by)


def adopt() -> None:
    """Take over what a copied address says, so that a switch of pages keeps it."""
    state.adopt(OWN)
