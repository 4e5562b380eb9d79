"""The features that the tokens of one text fire: which, where first, and which again at function tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from lens.backend.visible import visible
from lens.figures.steering import GROUP_COLOURS, LEGEND
from lens.figures.theme import FAINT, INK, PAPER, label, limits, new_figure

ROW, ABOVE, BELOW = 20, 44, 90
"""Pixels of a feature's row, and of the margins for legend and token names."""
KINDS = {"first": "fires for the first time", "function": "again, at a function token", "content": "again, elsewhere"}


@dataclass(frozen=True)
class Firing:
    """One feature at one token; ``kind`` is a key of :data:`KINDS`."""

    token: int
    feature: int
    value: float
    kind: str


def firings(
    tokens: Sequence[str],
    groups: Sequence[str],
    features: Mapping[int, str],
    found: Sequence[Firing],
    *,
    selected: int | None = None,
    width: int = 1160,
) -> go.Figure:
    """A row a feature, a column a token; the size of a mark grows with the magnitude of the value. A ring: the first firing;
    a filled diamond: again at a function token; a filled disc: again elsewhere.

    ``features``: by number, its name. ``groups``: of the tokens. The marks carry [token, feature] as customdata.
    """
    rows = {feature: place for place, feature in enumerate(features)}
    figure = new_figure(
        width,
        ABOVE + BELOW + ROW * max(len(rows), 1),
        margin={"l": 16, "r": 16, "t": ABOVE, "b": 16},
        legend={**LEGEND, "itemsizing": "constant"},
    )
    most = limits(_magnitudes(found))[1] or 1.0
    looks = {
        "first": {"symbol": "circle-open", "color": INK, "line": {"width": 2}},
        "function": {"symbol": "diamond", "color": GROUP_COLOURS["function"], "line": {"width": 0.5, "color": PAPER}},
        "content": {"symbol": "circle", "color": GROUP_COLOURS["content"], "line": {"width": 0.5, "color": PAPER}},
    }
    for kind, name in KINDS.items():
        own = [one for one in found if one.kind == kind]
        figure.add_trace(
            go.Scatter(
                x=[one.token for one in own], y=[rows[one.feature] for one in own], mode="markers", name=name,
                marker={"size": [6 + 9 * (abs(one.value) / most) ** 0.5 for one in own], "opacity": 1, **looks[kind]},
                customdata=[[one.token, one.feature] for one in own],
                text=[f"{label(visible(tokens[one.token]))} ({groups[one.token]})<br>{features[one.feature]}<br>"
                      f"value {one.value:.3g}" for one in own],
                hovertemplate="%{text}<extra></extra>", selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}},
            )
        )  # fmt: skip
    if selected is not None:
        frame = {"x0": selected - 0.5, "x1": selected + 0.5, "y0": 0, "y1": 1, "yref": "y domain"}
        figure.add_shape(type="rect", fillcolor=FAINT, opacity=0.5, line={"width": 0}, layer="below", **frame)
    figure.update_xaxes(
        tickvals=list(range(len(tokens))), ticktext=[label(visible(token), 14) for token in tokens],
        tickangle=-90, showgrid=False, range=[-0.7, len(tokens) - 0.3], tickfont={"size": 11},
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(rows.values()), ticktext=[label(name, 44) for name in features.values()],
        range=[len(rows) - 0.4, -0.6], tickfont={"size": 11},
    )  # fmt: skip
    return figure


def _magnitudes(found: Sequence[Firing]):
    import numpy as np

    return np.array([abs(one.value) for one in found], dtype=float)
