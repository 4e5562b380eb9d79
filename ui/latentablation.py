"""Section of the LatentLens page: what the model says without the chosen patches, beside as many others."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from lens.backend.controlled import CausalResult
from lens.backend.encoding import visual_grid
from lens.backend.store import STORE
from lens.figures.latentlens import patch_picture
from lens.figures.steering import next_tokens
from lens.latentlens.ablation import WAYS, EachAlone, ablate, each_alone
from lens.progress import Report
from ui import addresses, causalviews, classcards, export, state
from ui.clicks import take_click
from ui.export import Exhibit
from ui.latentregions import counted
from ui.readings import View
from ui.work import offered, runs

NAMES = {"drop": "Drop", "mean": "Mean", "zero": "Zero"}
BESIDE = {"anywhere": "20 random sets", "near": "20 sets nearby", "none": "Nothing"}
CONTROLS = 20
EACH = {"logprob": "The answer's likelihood", "kl": "The next token"}


def ablation(view: View) -> list[Exhibit]:
    """The chosen patches taken away; every patch by itself."""
    grid = visual_grid(view.reader.encoded.token_map)
    cells = state.region(grid.rows, grid.cols) or (view.patch,)
    one, held = len(cells) == 1, view.reader.trace
    what = f"patch {cells[0][0]}, {cells[0][1]}" if one else f"the region of {counted(len(cells))}"
    way, layer, near, controls = choose(view)
    st.markdown(f"**Without {what}**" + " · drag a region over the picture for more than one" * one)
    beside = f", and {controls} random sets of as many others" * (controls > 0)
    found = offered(
        "without", (view.reader.key, cells, way, layer, near, controls),
        "Ablate this patch" if one else f"Ablate these {counted(len(cells))}",
        _work(view, cells, way, layer, near, controls),
        f"The answer without {'it' if one else 'them'}{beside}: some {runs(controls + 3, held)}.",
    )  # fmt: skip
    exhibits = [] if found is None else outcome(view, found)
    st.markdown("**Which single patch matters?**")
    alone = offered(
        "each", (view.reader.key, way, layer), "Ablate each patch alone", _each(view, way, layer),
        f"One run for each patch: {runs(grid.rows * grid.cols, held)}.",
    )  # fmt: skip
    return exhibits if alone is None else [*exhibits, *single(view, alone, way, layer)]


def choose(view: View) -> tuple[str, int, bool, int]:
    """How, at which layer, and what it is compared with."""
    depth = view.reader.trace.depth
    first, second, third = st.columns([4, 6, 5], vertical_alignment="bottom", gap="medium")
    way = addresses.segmented(
        "Ablate by", WAYS, "way", "drop", NAMES, first,
        help="Drop: no other token sees the patch. Mean: its state becomes the mean of all visual tokens of this picture. "
        "Zero: its state becomes zero, which no real patch has.",
    )  # fmt: skip
    beside = addresses.segmented(
        "Compared with", BESIDE, "ablated-beside", "anywhere", BESIDE, second,
        help="Random sets hold as many other patches, drawn with a fixed seed.",
    )  # fmt: skip
    layer = 0
    if way != "drop":  # a dropped patch is gone from every layer
        layer = third.slider(
            "… its state at layer", 0, depth - 1, 0, key="ablated-layer", help="0: as it enters the language model"
        )
    return way, layer, beside == "near", 0 if beside == "none" else CONTROLS


def outcome(view: View, found: CausalResult) -> list[Exhibit]:
    """Answer, likelihood and next token before and after."""
    results = {"ablated": found}
    st.html(classcards.answers(results))
    title = "The answer without the patches"
    exhibits = [causalviews.effect("without", title, {found.treatment: found}, facts(view, found.treatment))]
    export.show(exhibits[0])
    if found.controls is not None:
        st.caption(
            f"Diamond: without the chosen patches. Grey: {len(found.controls.kl)} random sets of as many others, and the "
            "middle 95 % of them; p: share of the sets that do at least as much. What a patch's neighbour says and whether "
            "the model needs the patch are two questions. One picture proves nothing."
        )
    if found.gains or found.losses:
        st.markdown("**The next token after the prompt**")
        exhibits.append(next_exhibit(view, found))
        export.show(exhibits[1])
    return exhibits


def next_exhibit(view: View, found: CausalResult) -> Exhibit:
    """Next tokens that gained and lost most."""
    rows = [
        {"token": one.token, "id": one.id, "before": one.before, "after": one.after}
        for one in (*found.gains, *found.losses)
    ]
    figure = next_tokens(found.gains, found.losses)
    title = "Next tokens before and after the ablation"
    return Exhibit("without-next", title, figure, lambda: rows, facts(view, found.treatment))


def single(view: View, found: EachAlone, way: str, layer: int) -> list[Exhibit]:
    """How much each patch alone moves the answer, over the picture."""
    measure = st.segmented_control(
        "What it moves", list(EACH), default="logprob", key="each-measure", format_func=EACH.get, required=True
    )
    values = -found.logprob if measure == "logprob" else found.kl
    unit = "loss of log-probability (nats)" if measure == "logprob" else "KL divergence (nats)"
    grid = visual_grid(view.reader.encoded.token_map)
    figure = patch_picture(
        view.reader.picture.image, grid.boxes, values=values, value_name=unit, selected=[view.patch], width=560
    )
    rows = [
        {"row": row, "col": col, "change of log-probability": float(change), "kl": float(found.kl[row, col])}
        for row, changes in enumerate(found.logprob)
        for col, change in enumerate(changes)
    ]
    treatment = f"each patch alone: {way}" + ("" if way == "drop" else f" at layer {layer}")
    drawn = Exhibit(
        "each-alone", "What each patch alone does to the answer", figure, lambda: rows, facts(view, treatment)
    )
    left, right = st.columns(2, gap="medium")
    with left:
        export.show(drawn, on_select=take_click("each-alone"))
    with right:
        st.markdown(f"With all patches the model's answer has a log-probability of {found.base.logprob:.2f} nats.")
        st.caption(
            "Bright: without this patch alone the answer is less likely, or the next token another. Click a patch to choose "
            "it. Patches that tell the same stand in for each other, so that none of them may matter alone."
        )
    return [drawn]


def facts(view: View, treatment: str) -> dict[str, object]:
    """Where these figures come from; no index takes part."""
    return {**export.provenance(view.reader, None, "all", "ablation"), "treatment": treatment}


def _work(
    view: View, cells: tuple[tuple[int, int], ...], way: str, layer: int, near: bool, controls: int
) -> Callable[[Report], CausalResult]:
    reader = view.reader

    def work(report: Report) -> CausalResult:
        answer = STORE.answer(reader.loaded, reader.encoded)
        return ablate(
            reader.loaded, reader.encoded, reader.trace, cells, way, layer, controls=controls, spatial=near, answer=answer,
            report=report,
        )  # fmt: skip

    return work


def _each(view: View, way: str, layer: int) -> Callable[[Report], EachAlone]:
    reader = view.reader

    def work(report: Report) -> EachAlone:
        answer = STORE.answer(reader.loaded, reader.encoded)
        return each_alone(reader.loaded, reader.encoded, reader.trace, way, layer, answer=answer, report=report)

    return work
