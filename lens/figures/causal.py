"""Figures of what was measured against something: causal tests beside their controls, agreement and similarity matrices,
items against chance.

Foreign text passes :func:`lens.figures.theme.label`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from lens.figures.theme import CATEGORIES, FAINT, INK, PAPER, SCALE, label, new_figure

CHARACTER, LINE = 9, 20
"""Pixels: the mean width of a letter of an axis' title, and its lines' distance."""


@dataclass(frozen=True)
class Effect:
    """One treatment and its controls on one measure.

    Attributes:
        name: the treatment, e.g. "without 14 sinks".
        treated: its value.
        controls: the same measure for each matched control; may be empty.
    """

    name: str
    treated: float
    controls: Sequence[float] = ()


def effects(
    measures: Mapping[str, Sequence[Effect]], *, unchanged: float = 0.0, width: int = 1160, row_height: int = 52
) -> go.Figure:
    """A panel a measure, a row a treatment: the treated run as a diamond, its controls as dots over their middle 95 %.

    ``unchanged`` is the value of a run that nothing was done to, drawn as a line. Every panel has the same treatments.
    """
    names = [effect.name for effect in next(iter(measures.values()), ())]
    across = len(measures) or 1
    titles = [textwrap.wrap(measure, max(12, round(0.75 * width / across / CHARACTER))) for measure in measures]
    texts = ["<br>".join(map(label, title)) for title in titles]
    deep = LINE * (max(map(len, titles), default=1) - 1)
    figure = new_figure(
        width, 104 + deep + row_height * max(len(names), 1),
        margin={"l": 16, "r": 16, "t": 36, "b": 56 + deep}, legend={"orientation": "h", "y": 1, "yref": "container",
        "yanchor": "top", "x": 0},
    )  # fmt: skip
    for number, rows in enumerate(measures.values()):
        axis = "" if number == 0 else str(number + 1)
        ends = [number / across + (0.02 if number else 0), (number + 1) / across - (0.02 if number < across - 1 else 0)]
        figure.update_layout({
            f"xaxis{axis}": {"domain": ends, "anchor": f"y{axis}", "title": {"text": texts[number]}},
            f"yaxis{axis}": {
                "anchor": f"x{axis}", "range": [len(names) - 0.5, -0.5], "tickvals": list(range(len(names))),
                "ticktext": [label(name) for name in names], "showticklabels": number == 0, "showgrid": False,
            },
        })  # fmt: skip
        figure.add_shape(
            type="line", xref=f"x{axis}", yref=f"y{axis} domain", x0=unchanged, x1=unchanged, y0=0, y1=1,
            line={"color": INK, "width": 1, "dash": "dot"}, layer="below",
        )  # fmt: skip
        for place, effect in enumerate(rows):
            _effect(figure, effect, place, axis, legend=number == 0 and place == 0)
    return figure


def _effect(figure: go.Figure, effect: Effect, place: int, axis: str, *, legend: bool) -> None:
    on = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    controls = np.asarray(effect.controls, dtype=float)
    if controls.size:
        low, high = np.quantile(controls, (0.025, 0.975))
        band = {"x0": low, "x1": high, "y0": place - 0.27, "y1": place + 0.27}
        figure.add_shape(type="rect", xref=on["xaxis"], yref=on["yaxis"], fillcolor=FAINT, opacity=0.6, layer="below",
                         line={"width": 0}, **band)  # fmt: skip
        # A fixed zigzag keeps equal values apart; the height within a row means nothing.
        spread = place + 0.18 * np.resize([0.0, 1.0, -1.0, 0.5, -0.5], controls.size)
        figure.add_trace(
            go.Scatter(
                x=controls.tolist(), y=spread.tolist(), mode="markers", name="controls of equal size", showlegend=legend,
                marker={"symbol": "circle", "size": 6, "color": "#6e7781", "line": {"color": PAPER, "width": 0.5}},
                hovertemplate="a control<br>%{x:.4g}<extra></extra>", legendgroup="controls", **on,
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[float(effect.treated)], y=[place], mode="markers", name="treated", showlegend=legend,
            marker={"symbol": "diamond", "size": 14, "color": CATEGORIES[1], "line": {"color": INK, "width": 1}},
            hovertemplate=f"<b>{label(effect.name)}</b><br>%{{x:.4g}}<extra></extra>", legendgroup="treated", **on,
        )
    )  # fmt: skip


def matrix(
    values: np.ndarray,
    names: Sequence[str],
    *,
    value_name: str,
    value_range: tuple[float, float] | None = None,
    width: int = 560,
    printed: int = 12,
) -> go.Figure:
    """A square of how alike each two are, ``[n, n]``, NaN left blank; numbers stand in the cells up to ``printed`` names."""
    size = len(names)
    shown = [label(name, 26) for name in names]
    low, high = value_range or (float(np.nanmin(values)), float(np.nanmax(values)))
    signed = low < 0 < high
    figure = new_figure(width, round(0.82 * width) + 40, margin={"l": 16, "r": 16, "t": 12, "b": 16})
    figure.add_trace(
        go.Heatmap(
            z=[[None if np.isnan(value) else float(value) for value in row] for row in values],
            zmin=-max(-low, high) if signed else low, zmax=max(-low, high) if signed else high,
            colorscale="RdBu" if signed else SCALE, xgap=1, ygap=1,
            colorbar={"title": {"text": label(value_name), "side": "right"}, "thickness": 14, "outlinewidth": 0},
            customdata=[[f"{a} and {b}" for b in shown] for a in shown],
            hovertemplate=f"%{{customdata}}<br>{label(value_name)} %{{z:.3f}}<extra></extra>",
            texttemplate="%{z:.2f}" if size <= printed else None, textfont={"size": 11},
        )
    )  # fmt: skip
    ticks = {"tickvals": list(range(size)), "ticktext": shown, "showgrid": False, "ticks": "", "showline": False}
    figure.update_xaxes(**ticks, tickangle=-40)
    figure.update_yaxes(**ticks, range=[size - 0.5, -0.5])
    return figure


@dataclass(frozen=True)
class Rate:
    """A share of one group under one condition, its interval (equal bounds: none), and what chance gives if it gives any."""

    group: str
    condition: str
    share: float
    low: float
    high: float
    chance: float | None = None


def _bar(number: int) -> dict[str, object]:
    """Colour and hatch of the condition of that number."""
    colour = CATEGORIES[number % len(CATEGORIES)]
    pattern = {"shape": ("", "/", "x", ".", "-")[number % 5], "fgcolor": PAPER, "bgcolor": colour, "size": 6}
    return {"color": colour, "line": {"color": INK, "width": 0.5}, "pattern": pattern}


def shares(rates: Sequence[Rate], *, value_name: str, width: int = 1160, height: int = 380) -> go.Figure:
    """Grouped bars with intervals, a hatch and colour for each condition; a dotted line at chance across each group."""
    groups = list(dict.fromkeys(rate.group for rate in rates))
    conditions = list(dict.fromkeys(rate.condition for rate in rates))
    figure = new_figure(width, height, margin={"l": 64, "r": 16, "t": 40, "b": 64}, barmode="group", bargap=0.25)
    for number, condition in enumerate(conditions):
        own = {rate.group: rate for rate in rates if rate.condition == condition}
        found = [own.get(group) for group in groups]
        figure.add_trace(
            go.Bar(
                x=list(range(len(groups))), y=[rate.share if rate else None for rate in found], name=label(condition),
                marker=_bar(number),
                error_y={"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": INK,
                         "visible": any(rate and rate.low < rate.high for rate in found),
                         "array": [rate.high - rate.share if rate else 0 for rate in found],
                         "arrayminus": [rate.share - rate.low if rate else 0 for rate in found]},
                hovertemplate=f"{label(condition)}<br>%{{y:.1%}}<extra></extra>",
            )
        )  # fmt: skip
    for place, group in enumerate(groups):
        chance = next(rate.chance for rate in rates if rate.group == group)
        if chance is None:
            continue
        ends = {"x0": place - 0.42, "x1": place + 0.42, "y0": chance, "y1": chance}
        figure.add_shape(type="line", line={"color": INK, "width": 2, "dash": "dot"}, **ends)
    figure.update_xaxes(tickvals=list(range(len(groups))), ticktext=[label(group) for group in groups], showgrid=False)
    figure.update_yaxes(title={"text": label(value_name)}, tickformat=".0%", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"})
    return figure
