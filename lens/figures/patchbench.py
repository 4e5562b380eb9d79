"""Figures of the patch-compression benchmark: how often each reader is right, dots with intervals over grey bars of chance.

A reader has a colour and a symbol of its own; a layer is a place along x, and the model's answer stands after the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from lens.compare.patchsummary import CONDITIONS, FACTORS, TOPS, PatchBench, Rate
from lens.figures.theme import CATEGORIES, FAINT, INK, PAPER, label, new_figure

READERS = {
    "embedding": ("Embedding probe", CATEGORIES[0], "circle"),
    "logit": ("Logit lens", CATEGORIES[1], "diamond"),
    "latent": ("LatentLens", CATEGORIES[2], "square"),
    "answer": ("Model's answer", CATEGORIES[6], "star"),
}
QUESTIONS = {"identity": "what it is", "colour": "its colour"}
KINDS = {"letter": "letters", "digit": "digits", "object": "objects", "all": "all items"}
APART = 0.22
"""Distance between readers at one place, of the distance between places."""
LEAST = 0.04
"""Least height of a y axis: shares of next to nothing should look like it."""
ANSWER = "answer"


def by_type(bench: PatchBench, condition: str = "patch", top: int = 5, *, width: int = 1160) -> go.Figure:
    """A column an item type, a row a question. ``condition``: one of :data:`CONDITIONS`; ``top``: of the words, 1 or 5."""
    columns = {
        title: [r for r in _rates(bench, top, condition=condition) if r.kind == kind] for kind, title in KINDS.items()
    }
    return _panels(columns, _places(bench), width)


def by_condition(bench: PatchBench, kind: str = "all", top: int = 5, *, width: int = 1160) -> go.Figure:
    """A column a condition (in one patch, over the whole picture, not drawn), a row a question."""
    columns = {title: list(_rates(bench, top, condition=name, kind=kind)) for name, title in CONDITIONS.items()}
    return _panels(columns, _places(bench), width)


def by_factor(bench: PatchBench, layer: int, *, width: int = 1160) -> go.Figure:
    """How the readings of one layer, among five words, depend on colour, background, offset and patch: a column a factor."""
    rates = [rate for rate in bench.rates if rate.factor and rate.layer in (layer, None)]
    columns = {factor: [rate for rate in rates if rate.factor == factor] for factor in FACTORS}
    return _panels(columns, None, width)


def _rates(bench: PatchBench, top: int, **wanted: object) -> tuple[Rate, ...]:
    """Rates over all levels; answers, which have no fifth word, whatever ``top`` is."""
    return tuple(rate for rate in bench.of(**wanted) if rate.top == (TOPS[0] if rate.reader == ANSWER else top))


def _places(bench: PatchBench) -> list[str]:
    return [*map(str, bench.layers), ANSWER]


def _place(rate: Rate) -> str:
    return rate.level or (ANSWER if rate.layer is None else str(rate.layer))


def _panels(columns: Mapping[str, Sequence[Rate]], places: list[str] | None, width: int) -> go.Figure:
    """A grid of panels: a column an entry, a row a question; without ``places`` those along x are the rates' own."""
    figure = new_figure(
        width, 640, margin={"l": 60, "r": 12, "t": 64, "b": 90 if places is None else 56},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )  # fmt: skip
    shown: set[str] = set()
    every = [rate for rates in columns.values() for rate in rates]
    tops = {q: max([LEAST, *(max(r.high, r.chance_high) for r in every if r.question == q)]) for q in QUESTIONS}
    for column, (title, rates) in enumerate(columns.items()):
        along = places or list(dict.fromkeys(_place(rate) for rate in rates))
        for row, (question, asked) in enumerate(QUESTIONS.items()):
            axis = "" if not column and not row else str(1 + row * len(columns) + column)
            title_y = f"share named: {asked}" if not column else ""
            _axes(figure, axis, (column, len(columns)), row, along, title_y, tops[question])
            own = [rate for rate in rates if rate.question == question]
            for reader in READERS:
                _dots(figure, axis, [rate for rate in own if rate.reader == reader], along, shown)
        where = (column + 0.5) / len(columns)
        figure.add_annotation(
            text=f"<b>{label(title)}</b>", x=where, y=1.0, yshift=22, xref="paper", yref="paper", showarrow=False
        )
    return figure


def _axes(
    figure: go.Figure, axis: str, column: tuple[int, int], row: int, along: Sequence[str], title: str, top: float
) -> None:
    number, count = column
    gap = 0.035 if count > 1 else 0.0
    across = [number / count + (gap if number else 0), (number + 1) / count - (0.005 if number < count - 1 else 0)]
    bottom = row == len(QUESTIONS) - 1
    figure.update_layout({
        f"xaxis{axis}": {
            "domain": across, "anchor": f"y{axis}", "tickvals": list(range(len(along))), "showgrid": False,
            "ticktext": [label(name) for name in along], "showticklabels": bottom, "range": [-0.6, len(along) - 0.4],
            "title": {"text": "layer" if bottom and ANSWER in along else ""}, "tickangle": 0 if ANSWER in along else -45,
        },
        f"yaxis{axis}": {
            "domain": [0, 0.46] if bottom else [0.54, 1], "anchor": f"x{axis}", "tickformat": ".0%",
            "title": {"text": title}, "range": [-0.03 * top, 1.05 * top],
        },
    })  # fmt: skip


def _dots(figure: go.Figure, axis: str, rates: Sequence[Rate], along: Sequence[str], shown: set[str]) -> None:
    """One reader in one panel: bars of chance, and dots before them."""
    if not rates:
        return
    reader = rates[0].reader
    name, colour, symbol = READERS[reader]
    # Three lenses share a layer and the answer has a place of its own; at a level of a factor there are four.
    middle = 1.5 if rates[0].level else 3.0 if reader == ANSWER else 1.0
    at = [along.index(_place(rate)) + APART * (list(READERS).index(reader) - middle) for rate in rates]
    for place, rate in zip(at, rates, strict=True):
        band = {
            "x0": place - 0.09,
            "x1": place + 0.09,
            "y0": rate.chance_low,
            "y1": max(rate.chance_high, rate.chance_low),
        }
        figure.add_shape(type="rect", xref=f"x{axis}", yref=f"y{axis}", fillcolor=FAINT, layer="below",
                         line={"color": "#8c959f", "width": 1}, **band)  # fmt: skip
    said = "%{customdata[0]} of items, chance %{customdata[1]}<br>%{customdata[2]}<extra></extra>"
    figure.add_trace(
        go.Scatter(
            x=at, y=[rate.share for rate in rates], xaxis=f"x{axis}", yaxis=f"y{axis}", mode="markers", name=name,
            legendgroup=reader, showlegend=reader not in shown,
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"color": PAPER, "width": 0.5}},
            error_y={"type": "data", "symmetric": False, "thickness": 1.3, "width": 3, "color": INK,
                     "array": [max(0.0, rate.high - rate.share) for rate in rates],
                     "arrayminus": [max(0.0, rate.share - rate.low) for rate in rates]},
            customdata=[[f"{r.share:.1%}", f"{r.chance:.1%}", f"{label(_place(r))}, {r.items:,} items"] for r in rates],
            hovertemplate=f"<b>{name}</b>: {said}",
        )
    )  # fmt: skip
    shown.add(reader)
