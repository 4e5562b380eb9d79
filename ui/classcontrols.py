"""Sections of the EmbedLens page that say how far its classes can be trusted: anchors, controls, a benchmark."""

from __future__ import annotations

import streamlit as st

from lens.compare.patchsummary import CONDITIONS, TOPS, PatchBench, bench_for
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import TokenClasses
from lens.errors import LensError
from lens.figures import patchbench as figures
from ui import classcards, classes, classviews, export, state
from ui.classes import Rule
from ui.export import Exhibit
from ui.state import Reader
from ui.work import offered, runs

View = tuple[Reader, Anchors, Rule, TokenClasses]


def anchors(view: View) -> list[Exhibit]:
    """What the anchors are, and how the fractions answer the thresholds."""
    reader, found, rule, _classes = view
    st.text(found.note)
    st.html(classcards.anchors_table(found))
    st.markdown("**How this picture's class fractions answer each threshold** · dotted: the value in use")
    answering = classviews.thresholds(reader, found, rule)
    export.show(answering)
    return [answering]


def controls(view: View) -> list[Exhibit]:
    """Anchors where there is no content, classes where the picture is moved, and the probe where the word is known."""
    reader, found, rule, _classes = view
    if not found.found:
        st.caption("There is no anchor to control for.")
        return []
    first = classes.token_classes(reader, found, Rule(0, rule.top, rule.min_cosine))
    result = offered(
        "controls", (classes.key(reader, found), rule.top, rule.min_cosine), "Run the controls",
        classes.controls_work(reader, found, rule),
        "Random vectors, noise and blank images, shifted and cropped windows of this picture, and a text: some "
        f"{runs(16, reader.trace)}.",
    )  # fmt: skip
    if result is None:
        return []
    st.markdown("**Hubs** · how often an anchor is the best word where there is no content")
    hubs = classviews.hubness(reader, found, rule, result.hubness, first)
    export.show(hubs)
    st.caption(
        "An anchor that wins as often for random vectors as for pictures is a hub of the vocabulary and says little of the "
        f"picture. If all entries won equally, each would win {result.hubness.chance:.4%}."
    )
    st.markdown("**Moved windows** · does a class go with what a patch shows, or with where it lies?")
    st.html(classcards.persistence(result.persistence))
    st.markdown("**Text tokens** · where the word is known: how often the probe finds it")
    text = classviews.text_control(reader, rule, result.text)
    export.show(text)
    st.caption(
        f"The {result.text.tokens} tokens of an everyday sentence. At layer 0 each is its own embedding, so the probe "
        "must find it; deeper, this is the most that it can be expected to find of a visual token."
    )
    return [hubs, text]


def patch_bench(view: View) -> list[Exhibit]:
    """The patch-compression benchmark of this model."""
    reader = view[0]
    try:
        bench = bench_for(reader.loaded.fingerprint)
    except LensError as error:
        state.show_error(error)
        return []
    if bench is None:
        st.info(
            "One object, letter or digit is drawn into exactly one patch, thousands of times, and each lens and the model "
            f"are asked what it is. Run `python -m lens embedlens patch-bench {reader.spec.name}` and reload."
        )
        return []
    left, right = st.columns(2, gap="medium")
    condition = left.segmented_control(
        "Drawn", list(CONDITIONS), default="patch", key="bench-condition", format_func=CONDITIONS.get, required=True
    )
    top = right.segmented_control("Among the best", TOPS, default=TOPS[-1], key="bench-top", required=True)
    figure = figures.by_type(bench, condition, top)
    rates = bench.of(condition=condition, top=top)
    rows: list[dict[str, object]] = [dict(vars(rate)) for rate in rates]
    title = f"Items {CONDITIONS[condition]}: named among the best {top}"
    drawn = Exhibit(f"bench_{condition}_top-{top}", title, figure, lambda: rows, bench_facts(bench, condition, top))
    export.show(drawn)
    st.caption(
        f"{bench.items:,} items ({bench.asked:,} for the model's answers), each {bench.patch} x {bench.patch} pixels. Dots: "
        "share named, with 95 % intervals; grey: the same words against shuffled labels (same type, same background)."
    )
    return [drawn]


def bench_facts(bench: PatchBench, condition: str, top: int) -> dict[str, object]:
    """Where a figure of the benchmark comes from: no picture or prompt of the reader's takes part."""
    return {
        **export.of_model(bench.model, bench.fingerprint),
        "benchmark": f"one object in one patch: {bench.items:,} synthetic items ({bench.asked:,} for the model's answers), "
        f"seed {bench.seed}",
        "pictures": f"{bench.canvas} x {bench.canvas} pixels, {bench.grid[0]} x {bench.grid[1]} patches of {bench.patch} x "
        f"{bench.patch}",
        "drawn": CONDITIONS[condition],
        "named among the best": top,
        "layers": ", ".join(map(str, bench.layers)),
        "index": bench.index or "none",
        **{f"question of {name}": prompt for name, prompt in bench.questions.items()},
        **export.made(),
    }
