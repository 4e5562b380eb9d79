"""The figures below the LatentLens picture: alignment of layers, map of tokens and texts, votes of a region."""

from __future__ import annotations

import json

import numpy as np
import plotly.graph_objects as go
import pytest

from lens.figures.alignment import alignment
from lens.figures.regions import RING, Ballot, vote_bars
from lens.figures.theme import INK, PAPER, SCALE
from lens.figures.tokenplane import MOST, OTHERS, PATCHES, TEXTS, Dots, token_plane

EVIL = "<b>bold</b>\n"
SHARES = np.array([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]])
CURVE = np.array([[0.1, 0.4, 0.2]])
CELLS = [(row, col) for row in range(2) for col in range(3)]
WORDS = ["Cat", "cat", EVIL, "dog", "dog", "dog"]


def matrix(layer: int | None = None) -> go.Figure:
    return alignment(SHARES, SHARES[::-1], CURVE, CURVE / 2, (0, 4, 8), (1, 16), selected_layer=layer)


def dots(words: list[str], layer: int, cells: list[tuple[int, int]] | None = None) -> Dots:
    plane = np.arange(2.0 * len(words)).reshape(-1, 2)
    return Dots(plane, words, [layer] * len(words), [EVIL] * len(words), cells)


def plane(colour: str = "word", words: list[str] = WORDS) -> go.Figure:
    return token_plane(
        dots(words, 4, CELLS), dots(["cat", "cow"], 16), (2, 3), colour=colour, depth=30, selected=(1, 0)
    )


def listed(figure: go.Figure) -> list[str]:
    """The entries of the legend, in its order."""
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    return [str(trace.name) for trace in sorted(shown, key=lambda trace: trace.legendrank or 1000)]


def test_panels_say_what_they_are_and_share_one_scale():
    figure = matrix()
    titles = [note.text for note in figure.layout.annotations]
    assert ["patches" in titles[0], "ontrol" in titles[1], "osine" in titles[2]] == [True] * 3
    one, control = figure.data[:2]
    assert (one.zmin, one.zmax) == (control.zmin, control.zmax) == (0, 1)
    assert [list(row) for row in control.z] == SHARES[::-1].tolist()
    widths = [figure.layout[axis].domain[1] - figure.layout[axis].domain[0] for axis in ("xaxis", "xaxis2")]
    assert widths[0] == pytest.approx(widths[1]), "cells of equal size, to be compared by eye"
    assert not figure.layout.shapes


def test_the_frame_of_the_chosen_layer_shows_on_dark_and_on_light_cells():
    shapes = matrix(4).layout.shapes
    assert {(shape.y0, shape.y1) for shape in shapes} == {(0.5, 1.5)} and len(shapes) == 6
    for under, over in zip(shapes[::2], shapes[1::2], strict=True):
        assert (under.line.color, over.line.color) == (INK, PAPER)
        assert under.line.width > over.line.width and under.xref == over.xref


def test_the_legend_names_the_most_frequent_words_and_how_many_there_are_of_each():
    assert listed(plane()) == ["dog (3)", "cat (2)", "&lt;b&gt;bold&lt;/b&gt;↵ (1)", TEXTS]
    many = plane(words=[f"word {i}" for i in range(6)])
    assert len(listed(many)) == MOST + 2 and listed(many)[-2:] == [OTHERS, TEXTS]
    groups = {(trace.legendgroup, trace.marker.symbol, trace.marker.color) for trace in plane().data}
    colour = {symbol: shade for group, symbol, shade in groups if group == "cat (2)"}
    assert colour["circle"] == colour["diamond"], "a text has the colour of its word, and goes out with it"


@pytest.mark.parametrize("colour", ["layer", "position"])
def test_a_legend_shows_symbols_in_no_colour_of_the_scale(colour: str):
    figure = plane(colour)
    assert listed(figure) == [PATCHES, TEXTS]
    keys = [trace for trace in figure.data if trace.showlegend is not False]
    assert all(list(key.x) == [None] and isinstance(key.marker.color, str) for key in keys)
    assert [key.marker.symbol for key in keys] == ["circle", "diamond"]


def test_layers_have_one_scale_for_patches_and_texts_and_one_bar():
    coloured = [trace.marker for trace in plane("layer").data if trace.marker.cmax is not None]
    assert [list(marker.color) for marker in coloured] == [[16] * 2, [4] * 6]
    assert {(marker.cmin, marker.cmax) for marker in coloured} == {(0, 30)}
    assert [bool(marker.showscale) for marker in coloured] == [False, True]
    scale = go.Figure(go.Scatter(marker={"colorscale": SCALE})).data[0].marker.colorscale
    assert all(marker.colorscale == scale for marker in coloured)


def test_a_point_answers_to_a_click_with_its_patch_and_the_chosen_one_is_ringed():
    figure = plane()
    clickable = [tuple(cell) for trace in figure.data if trace.customdata is not None for cell in trace.customdata]
    assert sorted(clickable) == CELLS
    (ring,) = [trace for trace in figure.data if trace.name == "chosen patch"]
    assert (ring.x[0], ring.y[0]) == (6, 7) and ring.hoverinfo == "skip"


def test_votes_have_a_bar_and_a_ring_that_leaves_the_words_readable():
    figure = vote_bars([Ballot("cat", 3, 0.75, 0.0), Ballot(EVIL, 1, 0.25, 0.5)])
    bars, rings = figure.data
    assert list(bars.x) == [0.75, 0.25] and list(rings.x) == [0.0, 0.5]
    assert figure.layout.yaxis.ticklabelstandoff >= rings.marker.size / 2 + 2 and rings.marker.size == RING
    alone = vote_bars([Ballot("cat", 1, 1.0, float("nan"))])
    assert len(alone.data) == 1, "of the whole picture there are no other patches"


DRAWN = {
    "alignment": lambda: matrix(4),
    "votes": lambda: vote_bars([Ballot(EVIL, 1, 1.0, 0.5)]),
    **{colour: lambda colour=colour: plane(colour) for colour in ("word", "layer", "position")},
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_deterministic_and_hold_no_markup_of_others(name: str):
    first, again = (DRAWN[name]().to_json() for _ in range(2))
    assert first == again and json.loads(first)
    assert "<b>bold" not in first


def test_a_colouring_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="'taste'"):
        plane("taste")
