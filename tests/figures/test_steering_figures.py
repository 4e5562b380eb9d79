"""The figures show the numbers they were given, escape foreign text and are the same each time."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace as Given

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from lens.errors import PatchOutsideGrid
from lens.figures.steering import (
    GROUP_COLOURS,
    ablation,
    feature_overlay,
    group_losses,
    group_paint,
    layer_scan,
    minimal_k,
    next_tokens,
    steering_effect,
    value_paint,
)

EVIL = "<b>bold</b>\n"


def losses(name: str, missing: bool = False) -> Given:
    kinds = (("function", "content"), ("content", "content"), ("function", "function"), ("content", "function"))
    pairs = [
        Given(current=a, next=b, count=10, share=0.25, loss=float(4 - n), low=3.5 - n, high=4.75 - n)
        for n, (a, b) in enumerate(kinds)
    ]
    if missing:
        pairs[2] = Given(current="function", next="function", count=0, share=0.0, loss=None, low=None, high=None)
    return Given(name=name, pairs=tuple(pairs), loss=2.5)


def effect(success: float, gain: float) -> Given:
    return Given(success=success, gain=gain)


SCAN = Given(
    added="difference",
    layers=(1, 5, 9),
    effects=(effect(0, 0.1), effect(1, 0.6), effect(0.5, 0.3)),
    control_success=np.array([[0, 0], [0, 0.5], [0, 0]]),
    control_gain=np.array([[0, 0.1], [-0.2, 0.2], [0, 0]]),
    base=effect(0.0, 0.0),
    best=5,
)
SEARCH = Given(
    tried=tuple(Given(k=k, effect=effect(float(k > 3), k / 10)) for k in (2, 3, 4, 8, 32)),
    k=4,
    feature=77,
    alone=effect(0.5, 0.2),
    base=effect(0.0, 0.0),
    enough=0.5,
    control_gain=np.array([0.0, 0.05, -0.1]),
)
STEERING = Given(
    treated=Given(kl=2.0, logprob=-9.0),
    base=Given(kl=0.0, logprob=-3.0),
    watched_before=-8.0,
    watched_after=-1.0,
    controls=tuple(
        Given(kind=kind, kl=np.array([0.1, 0.2]), logprob=np.array([-4.0, -5.0]), watched=np.array([-8.5, -7.5]))
        for kind in ("random directions", "other features")
    ),
)


def results(texts: int) -> Given:
    one = Given(function=(0.2, 0.3), content=(0.1, 0.0))
    estimates = {name: Given(mean=0.2, low=0.1, high=0.4) for name in ("function", "content")}
    return Given(name=EVIL, unit="text" if texts > 1 else "draw", texts=(one,) * texts, **estimates)


BOXES = np.array([[(100 * c, 100 * r, 100 * c + 100, 100 * r + 100) for c in range(4)] for r in range(3)], float)
VALUES = np.array([[0, 0, 0, 0], [0, 1.0, 2.0, 0], [0, 0, 0, 4.0]])
IMAGE = Image.new("RGB", (400, 300), (128, 128, 128))
CHANGES = [Given(id=1, token=EVIL, before=0.1, after=0.6), Given(id=2, token=" b", before=0.0, after=0.2)]
LOST = [Given(id=3, token=" c", before=0.5, after=0.1)]

FIGURES = {
    "losses": lambda: group_losses([losses("the prompt"), losses(EVIL, missing=True)]),
    "tokens": lambda: next_tokens(CHANGES, LOST),
    "effect": lambda: steering_effect(STEERING),
    "scan": lambda: layer_scan(SCAN),
    "k": lambda: minimal_k(SEARCH),
    "ablation": lambda: ablation([results(5), results(1)]),
    "overlay": lambda: feature_overlay(IMAGE, BOXES, VALUES, selected=[(1, 1)], title=EVIL),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_deterministic_and_hold_no_markup_of_others(name: str):
    first, again = (FIGURES[name]().to_json() for _ in range(2))
    assert first == again and json.loads(first)
    assert "<b>bold" not in first
    assert "&lt;b&gt;bold" in first or name in ("effect", "scan", "k")


def test_losses_have_their_intervals_and_leave_gaps():
    figure = FIGURES["losses"]()
    full, gap = figure.data
    assert list(full.y) == [4, 3, 2, 1] and list(gap.y) == [4, 3, None, 1]
    assert list(full.error_y.array) == [0.75] * 4 and list(full.error_y.arrayminus) == [0.5] * 4
    assert [shape.y0 for shape in figure.layout.shapes] == [2.5, 2.5]
    assert full.marker.pattern.shape != gap.marker.pattern.shape
    assert figure.layout.xaxis.ticktext[0] == "function → content"
    assert isinstance(group_losses([]), go.Figure)


def test_gains_stand_above_losses():
    figure = FIGURES["tokens"]()
    before, after = figure.data
    assert list(before.x) == [0.1, 0.0, 0.5] and list(after.x) == [0.6, 0.2, 0.1]
    gain, _second, loss = figure.layout.shapes
    assert gain.line.color == _second.line.color != loss.line.color
    assert len(next_tokens(CHANGES * 9, LOST * 9, count=3).data[0].x) == 6
    assert next_tokens([], []).layout.height > 0


def test_next_tokens_that_stay_near_nothing_are_counted_and_not_drawn():
    small = [Given(id=7, token=" d", before=0.0001, after=0.009), Given(id=8, token=" e", before=0.0, after=0.002)]
    figure = next_tokens([*CHANGES, *small], [*LOST, small[0]])
    assert len(figure.layout.yaxis.ticktext) == 3 and "3 more that stay below 1%" in figure.layout.xaxis.title.text
    assert "left out" not in next_tokens(CHANGES, LOST).layout.xaxis.title.text
    flat = next_tokens(small, [])
    assert len(flat.layout.yaxis.ticktext) == 2 and "left out" not in flat.layout.xaxis.title.text, (
        "nothing else is there"
    )


def test_tokens_show_their_blanks():
    tokens = (" A", "A", " an")
    figure = next_tokens([Given(id=i, token=token, before=0.1, after=0.2) for i, token in enumerate(tokens)], [])
    assert list(figure.layout.yaxis.ticktext) == ["␣A", "A", "␣an"]
    assert figure.layout.yaxis.ticklabelstandoff >= figure.data[0].marker.size / 2, "a mark at 0 covers no token"


def test_a_push_stands_beside_its_controls():
    figure = FIGURES["effect"]()
    treated = [trace for trace in figure.data if trace.name == "treated"]
    assert [trace.x[0] for trace in treated] == [2.0, 2.0, 7.0, 7.0, -6.0, -6.0]
    controls = [list(trace.x) for trace in figure.data if trace.name != "treated"]
    assert controls[2] == [-0.5, 0.5] and controls[4] == [-1.0, -2.0]
    assert list(figure.layout.yaxis.ticktext) == ["beside random directions", "beside other features"]


def test_scan_and_search_draw_both_measures():
    scan, search = FIGURES["scan"](), FIGURES["k"]()
    lines = [trace for trace in scan.data if trace.mode == "lines+markers"]
    assert [list(line.y) for line in lines] == [[0, 1, 0.5], [0.1, 0.6, 0.3]]
    assert {line.name for line in lines} == {"the trait's difference"}
    bands = [trace for trace in scan.data if trace.fill == "toself"]
    assert list(bands[1].y) == [0.1, 0.2, 0.0, 0.0, -0.2, 0.0]
    assert [shape.x0 for shape in scan.layout.shapes if shape.x0 == shape.x1] == [5, 5]
    curve = next(trace for trace in search.data if trace.mode == "lines+markers")
    assert list(curve.x) == [2, 3, 4, 8, 32] and list(curve.y) == [0, 0, 1, 1, 1]
    alone = [trace for trace in search.data if trace.name == "feature 77 alone"]
    assert [trace.y[0] for trace in alone] == [0.5, 0.2] and search.layout.xaxis.type == "log"
    none = Given(**{**vars(SEARCH), "k": None, "feature": None, "alone": None, "control_gain": np.zeros(0)})
    assert len(minimal_k(none).data) == 2


def test_ablation_shows_texts_or_the_draws_of_one():
    figure = FIGURES["ablation"]()
    dots = figure.data[::2]
    assert [len(trace.x) for trace in dots] == [5, 5, 2, 2]
    assert dots[0].x[0] == pytest.approx(0.25) and list(dots[2].x) == [0.2, 0.3]
    mean = figure.data[1]
    assert mean.x[0] == 0.2 and mean.error_x.array[0] == pytest.approx(0.2)
    assert mean.marker.color == GROUP_COLOURS["function"]


def test_silent_patches_stay_bare():
    figure = FIGURES["overlay"]()
    source = figure.layout.images[0].source
    photo = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).convert("RGB")
    grey, painted = photo.getpixel((50, 50)), photo.getpixel((350, 250))
    assert max(abs(c - 128) for c in grey) < 4 < max(abs(c - 128) for c in painted)
    patches = next(trace for trace in figure.data if trace.name == "patches")
    assert patches.text[0].endswith("silent") and patches.text[-1].endswith("4")
    feature_overlay(IMAGE, BOXES, np.zeros((3, 4)))
    with pytest.raises(PatchOutsideGrid):
        feature_overlay(IMAGE, BOXES, VALUES, selected=[(9, 9)])


def test_tokens_are_readable_on_their_ground():
    def contrast(a: str, b: str) -> float:
        shades = sorted(luminance(colour) for colour in (a, b))
        return (shades[1] + 0.05) / (shades[0] + 0.05)

    painted = value_paint([None, *np.linspace(0, 9, 40).tolist()])
    assert painted[0].ground == "#ffffff" and len({paint.ground for paint in painted}) > 30
    for paint in [*painted, *group_paint(["function", "content", "special", "image"])]:
        assert contrast(paint.ground, paint.ink) > 3.9
    assert value_paint([5.0], 0, 10)[0] == value_paint([0.0, 5.0, 10.0])[1]
    assert len({paint.ground for paint in group_paint(list(GROUP_COLOURS))}) == 4


def luminance(colour: str) -> float:
    """Relative luminance of a hex colour (WCAG)."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
