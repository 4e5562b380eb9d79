"""Section of the SEG maps page: does the model need the patches that the map points at?"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import numpy as np
import streamlit as st

from lens.backend.encoding import visual_grid
from lens.figures.causal import Effect, effects
from lens.figures.multiples import keep_sets
from lens.progress import Report
from lens.segmaps.ablation import PatchAblation, ablate
from lens.statistics import p_fraction, p_value
from ui import export, mapviews
from ui.classcards import table
from ui.export import Exhibit
from ui.maps import Shown
from ui.work import offered

CONTROLS = 20


def dropped_patches(shown: Shown) -> list[Exhibit]:
    """Drop the patches that the map is highest at, beside as many others, as often as there are controls."""
    patches = visual_grid(shown.asked.token_map).positions.size
    count = st.slider(
        "Patches that are dropped, the most similar first", 1, patches // 2, max(1, patches // 10), key="dropped"
    )
    if not shown.asked.answer_ids:
        st.info("The model answers nothing here, so there is no answer that could change; ask something else.")
        return []
    found = offered(
        "ablation", (shown.key, shown.layer, count), "Drop them", _work(shown, count),
        f"Takes them out of the sequence, and {CONTROLS} random sets of as many others: about {CONTROLS + 4} runs.",
    )  # fmt: skip
    if found is None:
        return []
    left, right = st.columns([2, 5], gap="medium")
    with left:
        where = _where(shown, found)
        export.show(where)
    with right:
        st.html(_table(shown, found))
    figure = _effects(shown, found)
    export.show(figure)
    st.caption(
        f"Diamond: without the {count} most similar patches. Grey: {CONTROLS} random sets of {count} others, and the middle "
        "95 % of them. The answer is held fixed: what changes is how likely the model finds it. A map can be right about "
        "where something is without the model needing just these patches, since others tell of it too. One picture proves "
        "nothing."
    )
    return [where, figure]


def _work(shown: Shown, count: int) -> Callable[[Report], PatchAblation]:
    values = shown.found.at(shown.layer)
    return lambda report: ablate(shown.reader.loaded, shown.asked, values, count, controls=CONTROLS, report=report)


def _segs(shown: Shown) -> list[str]:
    """Each <SEG> of the answer by name."""
    text = shown.asked.seg.text if shown.asked.seg else ""
    return [text if len(shown.asked.segs) == 1 else f"{text} {number + 1}" for number in range(len(shown.asked.segs))]


def _table(shown: Shown, found: PatchAblation) -> str:
    answer = f"“{escape(shown.asked.answer)}”" + (" (put into its mouth)" if shown.question.forced else "")
    rows = [
        ("all patches", answer, f"{found.answer_before:.2f}", *_chances(found.seg_before)),
        ("without the most similar", f"“{escape(found.said)}”", f"{found.answer:.2f}", *_chances(found.seg)),
        (
            f"without others, mean of {CONTROLS}", "", f"{found.answer_controls.mean():.2f}",
            *_chances(found.seg_controls.mean(axis=0)),
        ),
    ]  # fmt: skip
    head = (
        "",
        "answer",
        "log-probability of the first (nats)",
        *(f"probability of {escape(name)}" for name in _segs(shown)),
    )
    falls = {"the answer": found.p} | {
        escape(name): p_value(before - after, before - others, two_sided=False)
        for name, before, after, others in zip(
            _segs(shown), found.seg_before, found.seg, found.seg_controls.T, strict=True
        )
    }
    shares = ", ".join(f"{name} {p_fraction(p, len(found.answer_controls))}" for name, p in falls.items())
    note = f"p, the share of random sets, this one counted, that lower the log-probability at least as much: {shares}."
    return table(head, rows) + f'<p class="tl-how">{note}</p>'


def _chances(logprobs: np.ndarray) -> list[str]:
    return [f"{math.exp(value):.2%}" for value in logprobs]


def _effects(shown: Shown, found: PatchAblation) -> Exhibit:
    name = f"without {len(found.cells)} patches"
    measures = {
        "change of the answer's log-probability (nats)": [
            Effect(name, found.answer - found.answer_before, (found.answer_controls - found.answer_before).tolist())
        ]
    }
    for number, seg in enumerate(_segs(shown)):
        before, after = found.seg_before[number], found.seg_controls[:, number]
        measures[f"change of the log-probability of {seg} (nats)"] = [
            Effect(name, float(found.seg[number] - before), (after - before).tolist())
        ]
    rows: list[dict[str, object]] = [
        {"run": run, "answer": float(answer), **{seg: float(one) for seg, one in zip(_segs(shown), segs, strict=True)}}
        for run, answer, segs in (
            ("all patches", found.answer_before, found.seg_before),
            ("most similar dropped", found.answer, found.seg),
            *(("others dropped", *pair) for pair in zip(found.answer_controls, found.seg_controls, strict=True)),
        )
    ]
    title = f"Log-probabilities without the {len(found.cells)} most similar patches"
    return Exhibit("ablation", title, effects(measures, width=mapviews.ACROSS), lambda: rows, _facts(shown, found))


def _where(shown: Shown, found: PatchAblation) -> Exhibit:
    kept = np.ones(shown.found.boxes.shape[:2], dtype=bool)
    kept[tuple(zip(*found.cells, strict=True))] = False
    figure = keep_sets(
        shown.reader.picture.image, shown.found.boxes, {"without the most similar": kept}, width=340, side=310
    )
    rows: list[dict[str, object]] = [{"rank": i, "row": row, "col": col} for i, (row, col) in enumerate(found.cells, 1)]
    return Exhibit("dropped-patches", "The dropped patches", figure, lambda: rows, _facts(shown, found))


def _facts(shown: Shown, found: PatchAblation) -> dict[str, object]:
    """Provenance with what was dropped."""
    count = len(found.cells)
    return {
        **mapviews.facts(shown),
        "dropped": f"the {count} most similar patches",
        "controls": f"{len(found.answer_controls)} random sets of {count} others",
    }
