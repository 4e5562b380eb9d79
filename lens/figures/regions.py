"""The figure of a region's votes: which words its patches are nearest to, beside how often these win elsewhere.

Foreign text passes :func:`lens.figures.theme.label`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from lens.figures.theme import CATEGORIES, INK, label, new_figure

RING = 11
"""Diameter of a ring in pixels; the words keep away from the axis by as much, since a ring at 0 lies over it."""


@dataclass(frozen=True)
class Ballot:
    """A word, how many of the region's patches it won, their share, and its share of all other patches (NaN: there are
    none)."""

    word: str
    votes: int
    share: float
    elsewhere: float


def vote_bars(ballots: Sequence[Ballot], *, longest: int = 12, width: int = 560, row_height: int = 26) -> go.Figure:
    """A bar a word for its share of the region, a ring for its share of the rest of the picture; the first ``longest``."""
    shown = list(ballots[:longest])
    figure = new_figure(
        width, 92 + row_height * max(len(shown), 1), margin={"l": 16, "r": 20, "t": 34, "b": 48}, bargap=0.3,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )  # fmt: skip
    places = list(range(len(shown)))
    names = [label(ballot.word, 24) for ballot in shown]
    figure.add_trace(
        go.Bar(
            x=[ballot.share for ballot in shown], y=places, orientation="h", name="of the region",
            marker={"color": CATEGORIES[0]}, customdata=[ballot.votes for ballot in shown], text=names, textposition="none",
            hovertemplate="<b>%{text}</b><br>%{customdata} patches, %{x:.0%} of the region<extra></extra>",
        )
    )  # fmt: skip
    others = [place for place in places if not math.isnan(shown[place].elsewhere)]
    if others:
        figure.add_trace(
            go.Scatter(
                x=[shown[place].elsewhere for place in others], y=others, mode="markers", name="of all other patches",
                marker={"symbol": "circle-open", "size": RING, "color": INK, "line": {"width": 2, "color": INK}},
                text=[names[place] for place in others],
                hovertemplate="<b>%{text}</b><br>%{x:.0%} of all other patches<extra></extra>", cliponaxis=False,
            )
        )  # fmt: skip
    figure.update_yaxes(tickvals=places, ticktext=names, range=[len(shown) - 0.5, -0.5], showgrid=False, ticks="",
                        ticklabelstandoff=RING)  # fmt: skip
    most = max((value for b in shown for value in (b.share, b.elsewhere) if not math.isnan(value)), default=1.0)
    figure.update_xaxes(title="share of patches with this best word", tickformat=".0%", range=[0, 1.08 * most])
    return figure
