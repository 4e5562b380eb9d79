"""Dots stand at the shares they were given, over bars of chance; nothing needs torch."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from lens.compare.patchsummary import CONDITIONS, FACTORS, PatchBench, Rate
from lens.figures.patchbench import KINDS, LEAST, QUESTIONS, READERS, by_condition, by_factor, by_type

LAYERS = (0, 8)


def rate(
    condition: str, reader: str, layer: int | None, question: str, kind: str, share: float, **more: object
) -> Rate:
    fields = {"factor": "", "level": "", "top": 1 if reader == "answer" else 5, **more}
    numbers = {"items": 100, "share": share, "low": share - 0.05, "high": share + 0.05}
    chance = {"chance": 0.1, "chance_low": 0.05, "chance_high": 0.15}
    return Rate(condition, reader, layer, question, kind, **fields, **numbers, **chance)


def bench_of(height: float = 0.5) -> PatchBench:
    """Every reader at a share of its own."""
    shares = {name: height * (1 - 0.2 * number) for number, name in enumerate(READERS)}
    found = [
        rate(condition, reader, layer, question, kind, share)
        for condition in CONDITIONS
        for reader, share in shares.items()
        for layer in ((None,) if reader == "answer" else LAYERS)
        for question in QUESTIONS
        for kind in KINDS
    ]
    found += [
        rate("patch", reader, None if reader == "answer" else 8, question, "all", share, factor=factor, level=level)
        for reader, share in shares.items()
        for question in QUESTIONS
        for factor in FACTORS
        for level in ("one<b>", "two")
    ]
    return PatchBench("m", "f", None, 100, 10, 0, LAYERS, 384, 32, (12, 12), {}, tuple(found), ())


@pytest.mark.parametrize(("make", "columns"), [(by_type, len(KINDS)), (by_condition, len(CONDITIONS))])
def test_every_reader_has_its_dot_in_every_panel(make, columns: int):
    figure: go.Figure = make(bench_of())
    assert len(figure.data) == columns * len(QUESTIONS) * len(READERS)
    for trace in figure.data:
        reader = trace.legendgroup
        wanted = 1 if reader == "answer" else len(LAYERS)
        assert len(trace.y) == wanted and set(trace.y) == {0.5 * (1 - 0.2 * list(READERS).index(reader))}
        assert list(trace.error_y.array) == pytest.approx([0.05] * wanted)
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(legend) == sorted(name for name, _, _ in READERS.values())


def test_readers_of_one_layer_stand_beside_each_other():
    panel = [trace for trace in by_type(bench_of()).data if trace.xaxis == "x"]
    places = sorted(x for trace in panel for x in trace.x)
    assert len(places) == len(set(places)) == 7
    assert max(places) == 2, "the answer stands alone, after the last layer"


def test_chance_is_a_bar_behind_each_dot():
    figure = by_type(bench_of())
    dots = sum(len(trace.x) for trace in figure.data)
    bars = figure.layout.shapes
    assert len(bars) == dots and {(bar.y0, bar.y1) for bar in bars} == {(0.05, 0.15)}
    assert {bar.layer for bar in bars} == {"below"}


def test_panels_of_a_question_share_their_range_and_small_shares_look_small():
    figure = by_type(bench_of())
    ranges = {tuple(figure.layout[name].range) for name in figure.layout if name.startswith("yaxis")}
    assert len(ranges) == 1 and next(iter(ranges))[1] > 0.55
    low = by_type(bench_of(0.0))
    assert low.layout.yaxis.range[1] >= LEAST


def test_levels_of_a_factor_stand_along_x_and_are_escaped():
    figure = by_factor(bench_of(), 8)
    assert list(figure.layout.xaxis5.ticktext) == ["one&lt;b&gt;", "two"]
    assert len(figure.data) == len(FACTORS) * len(QUESTIONS) * len(READERS)
    assert len(by_factor(bench_of(), 0).data) == len(FACTORS) * len(QUESTIONS), "of layer 0 there are only the answers"


def test_the_same_result_gives_the_same_figure():
    assert by_condition(bench_of()).to_json() == by_condition(bench_of()).to_json()
