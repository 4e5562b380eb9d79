"""What opens the EmbedLens page: whether the tokens that look empty matter for the answer, or that this isn't known yet."""

from __future__ import annotations

from collections.abc import Hashable

import streamlit as st

from lens.embedlens.classes import CLASSES, TokenClasses
from lens.embedlens.verdict import verdict
from ui import addresses, classcards, classes
from ui.classcontrols import View
from ui.state import Reader
from ui.work import offered, runs

NAME = "prune"
EMPTY = ("sink", "dead")
"""Classes whose tokens look empty."""


def kinds(found: TokenClasses) -> list[str]:
    """Classes that have tokens."""
    return [name for name in CLASSES if (found.labels == name).any()]


def content(view: View) -> Hashable:
    """Names the pruning test with controls drawn anywhere."""
    reader, anchors, rule, _found = view
    return classes.key(reader, anchors), rule


def cost(reader: Reader, kinds: list[str]) -> str:
    """What the pruning test takes."""
    return (
        f"Takes each class out of the sequence, and {20 * len(kinds)} random sets: some "
        f"{runs(21 * len(kinds), reader.trace)}."
    )


def opening(view: View) -> None:
    """The verdict of the pruning test, or that it isn't known with the button that finds it out."""
    reader, _anchors, rule, found = view
    tested, empty = kinds(found), [name for name in EMPTY if name in kinds(found)]
    if not empty:
        _say_all_alive(rule.layer)
        return
    place = st.container()
    results = offered(
        NAME, content(view), "Prune each class", classes.prune_work(reader, found, tested, spatial=False),
        cost(reader, tested),
    )  # fmt: skip
    if results:
        said = [verdict(name, results[name]) for name in empty if name in results]
        place.html(classcards.paragraph([*said, "One picture proves nothing."]))
        return
    tokens = " and ".join(f"{int((found.labels == name).sum())} {name}" for name in empty)
    place.html(
        classcards.paragraph([
            f"Whether the {tokens} tokens matter for the answer isn't known yet: a class is a name for where a token lies. "
            "To find out, take them out of the sequence."
        ])
    )  # fmt: skip


def _say_all_alive(layer: int) -> None:
    """Why the figures show one class alone, and the way to where there are others."""
    if layer == 0:
        st.html(classcards.paragraph(["By this rule no visual token looks empty here: none is near an anchor."]))
        return
    said, way = st.columns([4, 1], vertical_alignment="center", gap="medium")
    said.html(
        classcards.paragraph([f"Classes are defined at layer 0; at layer {layer} no token is near an anchor any more."])
    )
    way.button("Go to layer 0", on_click=lambda: addresses.put(layer=None), width="stretch")
