"""The lower part of the EmbedLens page: one section at a time, so that nobody pays for what isn't in view.

A section draws itself and gives the figures that can be exported. What costs forwards stands behind a button.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from lens.embedlens.agreement import MARKS, RANKINGS, sets
from lens.embedlens.causal import SUBLAYERS
from lens.embedlens.classes import CLASSES, TokenClasses
from lens.embedlens.layers import QUANTITIES
from lens.embedlens.plane import picture_plane
from ui import addresses, classcards, classcontrols, classes, classverdict, classviews, export, state
from ui.classcontrols import View
from ui.clicks import take_click
from ui.export import Exhibit
from ui.folders import ask_folder
from ui.work import finished, offered, runs

TESTS = {
    "prune": "Prune a class",
    "many": "Prune in many pictures",
    "skip": "Skip sublayers",
    "inject": "Enter late",
    "norm": "Change the norm",
}
RULES = {**MARKS, **RANKINGS}
PLACES = {"anywhere": "anywhere", "near": "near the treated patches"}


def through_layers(view: View) -> list[Exhibit]:
    """Class maps and curves over all layers."""
    reader, anchors, rule, _found = view
    content = (classes.key(reader, anchors), rule.top, rule.min_cosine)
    found = offered(
        "layers", content, "Follow the classes through the layers", classes.layers_work(reader, anchors, rule),
        "Compares every layer with the vocabulary and runs the model once for its attention.",
    )  # fmt: skip
    if found is None:
        return []
    shown = st.segmented_control(
        "Every patch at every layer", ["class", *found.quantities], default="class", key="multiple", required=True,
        format_func=lambda name: {"class": "Class", **QUANTITIES}[name],
    )  # fmt: skip
    if shown == "class":
        maps = classviews.class_maps(reader, anchors, rule, found.classes)
        export.show(maps)
        standing = [at for at, one in found.classes.items() if at and one.fractions["alive"] < 1]
        st.caption(
            "Below each map: sink · dead · alive. Anchors are words of the input embeddings, where layer 0 lives; "
            + (
                "deeper, a token may move away from them."
                if standing
                else "from layer 1 on, no token here is near one."
            )
        )
    else:
        maps = classviews.value_multiples(reader, anchors, rule, found, shown)
        export.show(maps)
    st.markdown(f"**How the tokens of each class fare** · classes as at layer {rule.layer}, means with 95 % intervals")
    curves = classviews.curves(reader, anchors, rule, classes.curves(reader, anchors, rule, found))
    export.show(curves)
    if "attention" not in found.quantities:
        st.caption("This model gives no attention weights, so that curve is left out.")
    return [maps, curves]


def across_pictures(view: View) -> list[Exhibit]:
    """Fractions and similarity over the gallery."""
    reader, anchors, rule, found = view
    result = offered(
        "pictures", (classes.key(reader, anchors), rule), "Compare with the gallery's pictures",
        classes.pictures_work(reader, anchors, rule), "Runs the model on each picture of the gallery, up to this layer.",
    )  # fmt: skip
    if result is None:
        return []
    fractions, cross = result
    left, right = st.columns(2, gap="medium")
    with left:
        bars = classviews.fractions(reader, anchors, rule, fractions, cross.names, found)
        st.markdown("**Class fractions** · bars: 95 % bootstrap interval over pictures")
        export.show(bars)
    with right:
        name = st.segmented_control("Tokens of class", CLASSES, default="dead", key="cross-class", required=True)
        alike = classviews.cross(reader, anchors, rule, cross, name)
        export.show(alike)
        st.caption("Mean cosine between pictures; on the diagonal within a picture. Blank: no such tokens.")
    st.caption(
        f"Over a folder of your own: `python -m lens embedlens fractions {reader.spec.name} IMAGES_FOLDER`. "
        f"{fractions.images} pictures are few, so the intervals are wide."
    )
    return [bars, alike]


def token_map(view: View) -> list[Exhibit]:
    """The tokens as points, coloured by class."""
    reader, anchors, rule, found = view
    whole = offered(
        "map", (classes.key(reader, anchors), rule), "Add the gallery's pictures, and UMAP",
        classes.map_work(reader, anchors, rule), "Runs the model on each picture of the gallery; UMAP takes up to a minute.",
    )  # fmt: skip
    shown = whole or picture_plane(reader.trace, found)
    methods = list(reversed(shown.planes))
    method = methods[0]
    if len(methods) > 1:
        method = st.segmented_control("Map", methods, default="UMAP", key="map-method", required=True)
    drawn = classviews.token_map(reader, anchors, rule, shown, method, state.patch(found.rows, found.cols))
    export.show(drawn, on_select=take_click("map"))
    st.caption(
        "Each point is a visual token, by the direction of its state. Click one to choose its patch. "
        + ("Small and faint: tokens of the gallery's pictures. " if whole else "")
        + ("UMAP keeps neighbourhoods; distances between groups mean nothing." if method == "UMAP" else "")
    )
    return [drawn]


def causal_tests(view: View) -> list[Exhibit]:
    """What the tokens do to the answer."""
    reader, anchors, rule, _found = view
    name = addresses.segmented("Test", TESTS, "causal", "prune", TESTS)
    if name == "norm":
        found = offered(
            "norm", classes.key(reader, anchors), "Run at seven norms", classes.norm_work(reader),
            "Multiplies all visual tokens by 0.01 to 10: seven answers.",
        )  # fmt: skip
        if found is None:
            return []
        figure = classviews.norm_sweep(reader, found)
        export.show(figure)
        st.html(classcards.sweep(found))
        return [figure]
    if name == "many":
        return _prune_many(view)
    results = {"prune": _prune, "skip": _skip, "inject": _inject}[name](view)
    if not results:
        return []
    figure = classviews.effect(reader, anchors, rule, f"causal-{name}", results)
    export.show(figure)
    st.html(classcards.answers(results))
    if name != "inject":
        st.caption(
            "A class matters if its diamond lies outside the band of 20 random sets of as many visual tokens (grey: their "
            "middle 95 %). p: share of the sets, this one counted, that move the answer at least as much. One picture "
            "proves nothing."
        )
    return [figure]


def _say_empty(found: TokenClasses) -> None:
    """Treating an empty class changes nothing, and the page says so instead of running it."""
    empty = [name for name in CLASSES if name not in classverdict.kinds(found)]
    if empty:
        st.caption(f"No token here is {' or '.join(empty)}: treating an empty class changes nothing, so it isn't run.")


def _prune(view: View) -> dict:
    reader, anchors, rule, found = view
    _say_empty(found)
    where = st.segmented_control(
        "Controls are drawn", list(PLACES), default="anywhere", key="controls", format_func=PLACES.get, required=True
    )
    if where == "anywhere":
        tried = finished(classverdict.NAME, classverdict.content(view))
        if tried is None:
            st.caption("The button above the picture runs this test: its verdict opens the page.")
        return tried or {}
    kinds = classverdict.kinds(found)
    return offered(
        "prune-near", (classes.key(reader, anchors), rule), "Prune each class",
        classes.prune_work(reader, found, kinds, spatial=True), classverdict.cost(reader, kinds),
    ) or {}  # fmt: skip


def _prune_many(view: View) -> list[Exhibit]:
    """The pruning test over the gallery or a folder."""
    reader, anchors, rule, _found = view
    first, second = st.columns([2, 5], gap="medium", vertical_alignment="bottom")
    kinds = [name for name in CLASSES if name == "alive" or anchors.of(name)]
    kind = first.selectbox("Tokens of class (at layer 0)", kinds, key="many-class")
    folder = ask_folder(
        "Folder of images on the computer that runs TokenLens (empty: the gallery)", "many-folder", second
    )
    found = offered(
        "many", (classes.key(reader, anchors), rule.top, rule.min_cosine, kind, folder), "Prune in each picture",
        classes.many_work(reader, anchors, rule, kind, folder),
        f"For each picture some {runs(21, reader.trace)}; of a folder at most {classes.MANY} pictures are taken.",
    )  # fmt: skip
    if found is None:
        return []
    figure = classviews.many(reader, anchors, rule, found)
    export.show(figure)
    st.markdown(classcards.many(found))
    st.caption("Diamond: the class taken away. Grey: mean of 20 random sets of as many tokens of the same picture.")
    return [figure]


def _skip(view: View) -> dict:
    reader, anchors, rule, found = view
    depth = reader.trace.depth
    first, second, third = st.columns([2, 4, 3], gap="medium", vertical_alignment="bottom")
    kind = first.selectbox("Tokens of class", classverdict.kinds(found), key="skip-class")
    low, high = second.slider("Blocks", 1, depth, (1, depth), key="skip-blocks")
    parts = third.pills("Sublayers", SUBLAYERS, default=SUBLAYERS, selection_mode="multi", key="skip-parts")
    if not parts:
        st.caption("Choose attention, MLP or both.")
        return {}
    content = (classes.key(reader, anchors), rule, kind, low, high, tuple(parts))
    work = classes.skip_work(reader, found, kind, range(low, high + 1), parts)
    cost = f"The treated run and 20 random sets: some {runs(21, reader.trace)}."
    return offered("skip", content, "Skip them", work, cost) or {}


def _inject(view: View) -> dict:
    reader, anchors, _rule, _found = view
    layer = st.slider(
        "The visual tokens enter before block (from 0)", 0, reader.trace.depth, reader.trace.depth // 4, key="inject-layer",
        help="0: the unchanged run · the last: a run without the picture",
    )  # fmt: skip
    content = (classes.key(reader, anchors), layer)
    cost = f"Some {runs(2, reader.trace)}."
    return offered("inject", content, "Run", classes.inject_work(reader, layer), cost) or {}


def other_rules(view: View) -> list[Exhibit]:
    """Agreement with other rules, and what each would keep."""
    reader, anchors, rule, found = view
    rules = offered(
        "rules", (reader.key, rule.layer), "Compare with other rules", classes.rules_work(reader, rule.layer),
        "Runs the model twice, keeping what the other rules read.",
    )  # fmt: skip
    if rules is None:
        return []
    budget = addresses.slider("Budget: share of visual tokens kept", 0.05, 0.95, 0.5, 0.05, key="budget")
    chosen = sets(rules, found.labels, found.margin, budget)
    matrix = classviews.agreement_matrix(reader, anchors, rule, chosen, budget)
    export.show(matrix)
    st.caption("1: the same patches · 0: as chance has it · −1: exactly the others.")
    unparted = classviews.unparted(chosen)
    if unparted:
        st.caption(f"Left out, since they hold none or all of this picture's patches: {', '.join(unparted)}.")
    for name, reason in rules.missing.items():
        st.caption(f"**{RULES[name]}**: {reason}")
    st.markdown("**Implicit alignment (IMA)** · cosine between the mean visual and the mean text state")
    aligned = classviews.alignment(reader, rule, rules)
    export.show(aligned)
    kept = classviews.keep_sets(reader, anchors, rule, chosen, budget)
    st.markdown("**What each ranking would keep**")
    export.show(kept)
    return [matrix, aligned, kept]


SECTIONS: dict[str, tuple[str, Callable[[View], list[Exhibit]]]] = {
    "layers": ("Through the layers", through_layers),
    "pictures": ("Across pictures", across_pictures),
    "map": ("Map", token_map),
    "causal": ("Causal tests", causal_tests),
    "rules": ("Other rules", other_rules),
    "anchors": ("Anchors", classcontrols.anchors),
    "controls": ("Controls", classcontrols.controls),
    "bench": ("One object in one patch", classcontrols.patch_bench),
}
