"""The alignment matrix: visual layer x text layer of the neighbours, beside what shuffled states find."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from lens.figures.theme import CATEGORIES, INK, PAPER, SCALE, new_figure

DOMAINS = ((0.0, 0.3), (0.33, 0.63), (0.75, 1.0))
TITLES = ("Neighbours of the patches", "Control: shuffled states", "Cosine of the nearest context")


def alignment(
    shares: np.ndarray,
    control: np.ndarray,
    similarity: np.ndarray,
    control_similarity: np.ndarray,
    visual_layers: Sequence[int],
    text_layers: Sequence[int],
    *,
    selected_layer: int | None = None,
    width: int = 1160,
) -> go.Figure:
    """Two matrices of one scale and, in the same rows, the mean cosine of the best neighbour with that of the control.

    ``shares``, ``control``: [visual, text], rows that sum to 1. ``similarity``, ``control_similarity``: [images, visual].
    """
    places = list(range(len(visual_layers)))
    figure = new_figure(width, 150 + max(17 * len(places), 160), margin={"l": 64, "r": 16, "t": 62, "b": 56})
    most = float(max(shares.max(initial=0), control.max(initial=0))) or 1.0
    bar = {"title": {"text": "share of the neighbours", "side": "right"}, "tickformat": ".0%", "thickness": 12,
           "outlinewidth": 0, "x": DOMAINS[1][1] + 0.005, "xanchor": "left"}  # fmt: skip
    for number, values in enumerate((shares, control)):
        axis = "" if number == 0 else "2"
        figure.add_trace(
            go.Heatmap(
                z=np.round(values, 4).tolist(), x=list(range(len(text_layers))), y=places, zmin=0, zmax=most,
                colorscale=SCALE, xgap=1, ygap=1, showscale=number == 1, colorbar=bar if number else None,
                customdata=[[[v, t] for t in text_layers] for v in visual_layers], xaxis=f"x{axis}", yaxis=f"y{axis}",
                hovertemplate="visual layer %{customdata[0]}<br>text layer %{customdata[1]}<br>%{z:.1%}<extra></extra>",
            )
        )  # fmt: skip
    _curve(figure, similarity, places, visual_layers, "patches", CATEGORIES[0], "solid")
    _curve(figure, control_similarity, places, visual_layers, "shuffled states", "#6e7781", "dot")
    step = 1 if len(places) <= 16 else 2
    rows = {"tickvals": places[::step], "ticktext": [str(v) for v in visual_layers[::step]], "showgrid": False,
            "range": [len(places) - 0.5, -0.5]}  # fmt: skip
    columns = {"tickvals": list(range(len(text_layers))), "ticktext": [str(t) for t in text_layers], "showgrid": False}
    figure.update_layout(
        xaxis={**columns, "domain": DOMAINS[0], "title": "text layer", "anchor": "y"},
        xaxis2={**columns, "domain": DOMAINS[1], "title": "text layer", "anchor": "y2"},
        xaxis3={"domain": DOMAINS[2], "title": "mean over the patches", "anchor": "y3"},
        yaxis={**rows, "title": "visual layer", "anchor": "x"},
        yaxis2={**rows, "showticklabels": False, "anchor": "x2"},
        yaxis3={**rows, "anchor": "x3"},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yref": "container", "yanchor": "top"},
        annotations=[_heading(text, domain) for text, domain in zip(TITLES, DOMAINS, strict=True)],
    )
    if selected_layer is not None and selected_layer in visual_layers:
        at = list(visual_layers).index(selected_layer)
        for axis in ("", "2", "3"):
            _frame(figure, axis, at)
    return figure


def _frame(figure: go.Figure, axis: str, at: int) -> None:
    """Around a row, white on black, so that it shows on dark cells and on light ones."""
    for colour, thick in ((INK, 5), (PAPER, 2)):
        figure.add_shape(
            type="rect", xref=f"x{axis} domain", yref=f"y{axis}", x0=0, x1=1, y0=at - 0.5, y1=at + 0.5,
            line={"color": colour, "width": thick}, fillcolor="rgba(0,0,0,0)",
        )  # fmt: skip


def _heading(text: str, domain: tuple[float, float]) -> dict[str, object]:
    return {"text": f"<b>{text}</b>", "x": domain[0], "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper",
            "yanchor": "bottom", "showarrow": False, "yshift": 4}  # fmt: skip


def _curve(
    figure: go.Figure, values: np.ndarray, places: list[int], layers: Sequence[int], name: str, colour: str, dash: str
) -> None:
    """Mean over pictures; with several, whiskers from the least to the greatest."""
    mean = values.mean(0)
    spread = None
    if len(values) > 1:
        spread = {"type": "data", "symmetric": False, "array": (values.max(0) - mean).tolist(), "thickness": 1,
                  "arrayminus": (mean - values.min(0)).tolist(), "width": 0, "color": colour}  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=np.round(mean, 5).tolist(), y=places, mode="lines+markers", name=name, error_x=spread,
            line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5}, xaxis="x3", yaxis="y3",
            customdata=list(layers), hovertemplate=f"{name}<br>visual layer %{{customdata}}<br>%{{x:.3f}}<extra></extra>",
        )
    )  # fmt: skip
