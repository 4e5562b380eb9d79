"""The upper part of the page of function tokens: the curves with their controls, and the walk through the graph."""

from __future__ import annotations

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens.functiontokens.graph import FeatureGraph
from lens.functiontokens.nulls import expected_degree
from ui import addresses, export, tokencards, tokens, tokenstate, tokenviews
from ui.export import Exhibit
from ui.tokencards import visible
from ui.tokens import Setting
from ui.tokenstrip import Piece, strip

ORDERS = {"firings": "firings", "lift": "times chance"}
OFFERED = 400
"""Tokens in the menu; any other can be typed."""
LISTED = 8


def curves(setting: Setting) -> list[Exhibit]:
    """Coverage with its null, beside rarefaction; and what that says."""
    found, types = tokens.rarefaction(setting)
    st.html(tokencards.verdict(tokens.coverage(setting), found, types))
    left, right = st.columns(2, gap="medium")
    exhibits = [tokenviews.coverage(setting), tokenviews.rarefaction(setting)]
    with left:
        st.markdown("**The paper's curve, with its null**")
        export.show(exhibits[0], on_select=tokenstate.take_node("coverage"))
    with right:
        st.markdown("**At equal numbers of occurrences**")
        export.show(exhibits[1])
    return exhibits


def walk(setting: Setting) -> list[Exhibit]:
    """The graph around one node, and the node's card."""
    graph, node = setting.has_graph, tokenstate.node(setting)
    tokenstate.begin(node)
    st.markdown("**Walk from token to feature to token**")
    first, second, third = st.columns([3, 2, 2], vertical_alignment="bottom", gap="medium")
    _find_token(setting, graph, first)
    _find_feature(setting, second)
    order = addresses.segmented(
        "Strongest by", ORDERS, "order", "firings", ORDERS, third,
        help="Times chance: how many times as often as with shuffled labels, so that the particular comes first; by "
        "firings, the ubiquitous does.",
    )  # fmt: skip
    _trail(setting, graph, node)
    left, right = st.columns([5, 4], gap="medium")
    exhibits = [tokenviews.walk(setting, node, order)]
    with left:
        export.show(exhibits[0], on_select=tokenstate.take_node("walk"))
        found = tokens.around(setting, node, order)
        most = (
            f" Of the edges among these nodes the strongest {len(found.edge_token)} are drawn." if found.hidden else ""
        )
        st.caption(
            f"Click a token or a feature to go there. The {node[0]} in view has {found.all:,} edges in all.{most}"
        )
    with right:
        if node[0] == "token":
            _token_card(setting, graph, node[1])
        else:
            exhibits.append(_feature_card(setting, node[1]))
    return exhibits


def _find_token(setting: Setting, graph: FeatureGraph, place: DeltaGenerator) -> None:
    names = menu(graph, setting.has_graph.manifest.created)
    place.selectbox(
        "Go to a token", list(names), index=None, key="find-token", accept_new_options=True,
        placeholder="choose one of the most frequent, or type any", on_change=_go_to_token, args=(graph, names),
    )  # fmt: skip
    if missing := st.session_state.pop("token-missing", None):
        place.caption(f"The token “{tokencards.plain(missing)}” doesn't occur in this corpus; try a shorter word.")


@st.cache_resource(max_entries=4, show_spinner=False)
def menu(_graph: FeatureGraph, created: str) -> dict[str, int]:
    """The most frequent tokens by a name of their own."""
    names: dict[str, int] = {}
    for rank in np.argsort(-_graph.occurrences, kind="stable")[:OFFERED].tolist():
        text, token_id = _graph.counts.texts[rank], int(_graph.counts.ids[rank])
        name = visible(text)
        names.setdefault(name if name not in names else f"{name} ({token_id})", token_id)
    return names


def _go_to_token(graph: FeatureGraph, names: dict[str, int]) -> None:
    typed = st.session_state["find-token"]
    st.session_state["find-token"] = None
    if typed is None:
        return
    if typed not in names:
        wanted = [rank for form in (f" {typed.strip()}", typed.strip(), typed) for rank in _ranks(graph, form)]
        if not wanted:
            st.session_state["token-missing"] = typed
            return
        tokenstate.choose_node("token", int(graph.counts.ids[wanted[0]]))
        return
    tokenstate.choose_node("token", names[typed])


def _ranks(graph: FeatureGraph, text: str) -> list[int]:
    try:
        return [graph.counts.texts.index(text)]
    except ValueError:
        return []


def _find_feature(setting: Setting, place: DeltaGenerator) -> None:
    def go() -> None:
        number = st.session_state["find-feature"]
        st.session_state["find-feature"] = None
        if number is not None:
            tokenstate.choose_node("feature", int(number))

    place.number_input(
        "… or to a feature",
        0,
        setting.features.size - 1,
        None,
        key="find-feature",
        on_change=go,
        placeholder="its number",
    )


def _trail(setting: Setting, graph: FeatureGraph, node: tokenstate.Node) -> None:
    trail = tokenstate.trail(node)
    if len(trail) < 2:
        return

    def back(number: int) -> None:
        tokenstate.choose_node(*trail[number])

    strip("trail", [Piece(_named(setting, graph, one), on=one == node) for one in trail], back, "chips")


def _named(setting: Setting, graph: FeatureGraph, node: tokenstate.Node) -> str:
    kind, number = node
    return visible(graph.counts.texts[graph.counts.rank(number)]) if kind == "token" else f"feature {number}"


def _token_card(setting: Setting, graph: FeatureGraph, token_id: int) -> None:
    found = graph.token_features(token_id, setting.n)
    best = np.lexsort((found.nodes, -found.firings * np.log2(np.maximum(found.lift, 1.0))))[:LISTED]
    rows = [
        (int(found.nodes[i]), tokens.gloss(setting, int(found.nodes[i])), int(found.firings[i]), float(found.rate[i]),
         float(found.lift[i]))
        for i in best
    ]  # fmt: skip
    rank = graph.counts.rank(token_id)
    expected = expected_degree(graph.firings, graph.positions, graph.occurrences[[rank]], setting.n)
    member = bool(np.isin(token_id, setting.function_ids))
    st.html(tokencards.token_card(graph, token_id, member, setting.n, float(expected[0]), rows))


def _feature_card(setting: Setting, feature: int) -> Exhibit:
    card = tokens.card(setting, feature)
    st.html(tokencards.feature_head(card, tokens.words(setting, feature)))
    drawn = tokenviews.histogram(setting, feature)
    where, on, how, like = st.tabs(["Contexts", "Tokens", "Values", "Similar"])
    where.html(tokencards.contexts(card.contexts))
    on.html(tokencards.fires_on(card))
    with how:
        export.show(drawn)
    with like:
        found = tokens.similar(setting, feature)
        st.caption("Features whose directions point the same way (cosine). Click one to go there.")

        def go(number: int) -> None:
            tokenstate.choose_node("feature", found[number][0])

        pieces = [Piece(f"{tokenviews.name(setting, f)} · {cosine:.2f}") for f, cosine in found]
        strip("similar", pieces, go, "chips")
    return drawn
