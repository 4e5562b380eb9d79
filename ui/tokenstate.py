"""The state of the page of function tokens that no widget holds: the node in view, the reader's text, the token in it.

It stands in the address (:mod:`ui.addresses`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import streamlit as st

from lens.functiontokens.basis import FIRST
from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.prompt import PromptReading
from ui import addresses
from ui.tokens import DEFAULT_TEXT, Setting

Node = tuple[str, int]
"""("token", id) or ("feature", number)."""
PAINTS = {"group": "group", "loss": "loss", "entropy": "entropy", "feature": "a feature"}
"""By what the text may be coloured, the default first, and how the page calls it."""
TRAIL = 6
"""Nodes of the walk that are kept to go back to."""


def node(setting: Setting) -> Node:
    """The token or feature in view; the most frequent token while none was chosen, or when the address names none of this
    graph."""
    graph = setting.has_graph
    held = addresses.get("node")
    found = re.fullmatch(r"(token|feature)-([0-9]{1,9})", held)
    if found:
        kind, number = found[1], int(found[2])
        if _is_there(graph, kind, number):
            return kind, number
    usual = int(graph.counts.ids[int(np.argmax(graph.occurrences))])
    if held:
        wanted = "a token or feature of this graph, such as token-12 or feature-345"
        addresses.unknown("node", wanted, f"the most frequent token, token-{usual},")
    return "token", usual


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
    addresses.put(node=f"{kind}-{number}")


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
    changes = {"shown": None}
    if addresses.get("node").startswith("feature"):
        changes["node"] = f"token-{tokens[-1][1]}" if tokens else None
    addresses.put(**changes)


def text() -> str:
    """The reader's text, right or wrong."""
    return addresses.get("text") or DEFAULT_TEXT


def choose_text(new: str) -> None:
    """Read another text."""
    addresses.put(at=None, text=None if new in ("", DEFAULT_TEXT) else new)


def spot(reading: PromptReading) -> int:
    """The position in the text that is in view: the one chosen, else the last function token's."""
    held = addresses.get("at")
    if re.fullmatch("[0-9]{1,5}", held) and int(held) < len(reading.tokens):
        return int(held)
    function = [token.position for token in reading.tokens if token.group == "function"]
    usual = function[-1] if function else min(FIRST, len(reading.tokens) - 1)
    if held:
        addresses.unknown("at", f"a position of this text (0 to {len(reading.tokens) - 1})", f"position {usual}")
    return usual


def choose_spot(position: int) -> None:
    """Look at one token of the text."""
    addresses.put(at=str(position))


def shown(setting: Setting) -> int | None:
    """The feature by which the text is coloured; ``None`` for none."""
    held = addresses.get("shown")
    if re.fullmatch("[0-9]{1,9}", held) and int(held) < setting.features.size:
        return int(held)
    if held:
        addresses.unknown("shown", f"the number of a feature (0 to {setting.features.size - 1})", "none")
    return None


def show_feature(feature: int) -> None:
    """Colour the text by a feature."""
    addresses.put(shown=str(feature), paint="feature")
