"""The figure of an evaluation on labelled patches: a panel a lens, layers along x, the share named with its interval and its
controls."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from lens.compare.labelsummary import CONDITIONS, LabelEval, Rate
from lens.figures.theme import CATEGORIES, PAPER, label, new_figure

LENSES = {"latent": "LatentLens", "logit": "Logit lens", "embedding": "Embedding lens"}
LOOKS = {
    "labelled": (CATEGORIES[0], "circle", "solid"),
    "background": (CATEGORIES[4], "diamond", "dash"),
    "shuffled": (CATEGORIES[3], "square", "dot"),
    "random": (CATEGORIES[6], "x", "dashdot"),
}
"""Condition → colour, symbol, line. The evaluation's own curve is the solid one."""
LEAST = 0.04
"""Least height of the y axis: shares of next to nothing should look like it."""


def by_layer(found: LabelEval, top: int = 5, *, width: int = 1160, stacked: bool = False) -> go.Figure:
    """``top``: among so many words, 1 or 5. ``stacked``: panels below one another, for a narrow place."""
    count = len(found.lenses)
    height = 90 + 270 * (count if stacked else 1) + (0 if stacked else 40)
    figure = new_figure(
        width, height, margin={"l": 60, "r": 12, "t": 76, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )  # fmt: skip
    rates = found.of(top=top)
    ceiling = max([LEAST, *(rate.high for rate in rates if rate.high is not None)])
    for number, lens in enumerate(found.lenses):
        axis = "" if not number else str(number + 1)
        _axes(figure, axis, number, count, found.layers, 1.05 * ceiling, stacked)
        title = f"<b>{label(LENSES.get(lens, lens))}</b>"
        figure.add_annotation(
            text=title,
            x=0,
            xanchor="left",
            y=1,
            yanchor="bottom",
            xref=f"x{axis} domain",
            yref=f"y{axis} domain",
            showarrow=False,
        )
        for condition in reversed(CONDITIONS):
            own = [rate for rate in rates if rate.lens == lens and rate.condition == condition]
            _curve(figure, axis, own, condition, shown=not number)
    return figure


def _axes(
    figure: go.Figure, axis: str, number: int, count: int, layers: Sequence[int], ceiling: float, stacked: bool
) -> None:
    gap = 0.16 / count if stacked else 0.03
    place = [number / count + (gap if number else 0), (number + 1) / count - (gap if number < count - 1 else 0)]
    down = [1 - place[1], 1 - place[0]] if stacked else [0, 1]
    figure.update_layout({
        f"xaxis{axis}": {
            "domain": [0, 1] if stacked else place, "anchor": f"y{axis}", "tickvals": list(layers), "showgrid": False,
            "title": {"text": "layer of the visual tokens" if not stacked or number == count - 1 else ""},
            "range": [min(layers) - 1, max(layers) + 1],
        },
        f"yaxis{axis}": {
            "domain": down, "anchor": f"x{axis}", "tickformat": ".0%" if ceiling > 0.1 else ".1%", "range": [0, ceiling],
            "title": {"text": "share that names the label" if not number or stacked else ""}, "rangemode": "tozero",
        },
    })  # fmt: skip


def _curve(figure: go.Figure, axis: str, rates: Sequence[Rate], condition: str, shown: bool) -> None:
    """One condition of one lens: points with intervals, joined by layer; layers where there is nothing to count are gaps."""
    there = [rate for rate in rates if rate.share is not None]
    if not there:
        return
    colour, symbol, dash = LOOKS[condition]
    name = CONDITIONS[condition]
    figure.add_trace(
        go.Scatter(
            x=[rate.layer for rate in there], y=[rate.share for rate in there], xaxis=f"x{axis}", yaxis=f"y{axis}",
            mode="lines+markers", name=name, legendgroup=condition, showlegend=shown,
            line={"color": colour, "dash": dash, "width": 2 if condition == "labelled" else 1.3},
            marker={"color": colour, "symbol": symbol, "size": 8, "line": {"color": PAPER, "width": 0.5}},
            error_y={"type": "data", "symmetric": False, "thickness": 1.1, "width": 3, "color": colour,
                     "array": [max(0.0, (rate.high or 0) - (rate.share or 0)) for rate in there],
                     "arrayminus": [max(0.0, (rate.share or 0) - (rate.low or 0)) for rate in there]},
            customdata=[[f"{rate.share:.1%}", f"{rate.low:.1%} to {rate.high:.1%}"] for rate in there],
            hovertemplate=f"<b>{name}</b>, layer %{{x}}: %{{customdata[0]}}<br>95 %: %{{customdata[1]}}<extra></extra>",
        )
    )  # fmt: skip


def caption(found: LabelEval) -> str:
    """What the figure shows, in a sentence; plain text."""
    return (
        f"Share of {found.patches:,} labelled patches in {found.pictures:,} pictures ({found.labels}) whose words name "
        "the label, with 95 % intervals over pictures; background patches, other pictures' labels and random vectors beside."
    )


def provenance(found: LabelEval) -> dict[str, object]:
    """Where the figure comes from."""
    return {
        "model": found.model, "model fingerprint": found.fingerprint[:16], "index": found.index or "none",
        "labels": found.labels, "labels sha256": found.labels_digest, "prompt": found.prompt, "pictures": found.pictures,
        "shapes": found.shapes, "patches": found.patches, "background patches": found.background,
        "random vectors": found.vectors,
    }  # fmt: skip


def rows(found: LabelEval) -> list[dict[str, object]]:
    """The shares as a flat table."""
    return [
        {
            "lens": rate.lens, "layer": rate.layer, "top": rate.top, "condition": CONDITIONS[rate.condition],
            "share": rate.share, "low": rate.low, "high": rate.high,
        }
        for rate in found.rates
    ]  # fmt: skip
