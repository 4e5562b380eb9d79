"""How every figure looks, and how foreign text gets into one.

A figure on the page is the figure in the paper: white paper with dark text in either theme of the app (show it with
``st.plotly_chart(figure, theme=None)``), and nothing depends on who imported what before: Streamlit replaces Plotly's
default template when it is imported, so each figure names its template. The same input gives the same JSON.

Colours: Viridis for quantities (readable in grey and by the colour-blind), Okabe & Ito (2008) for categories.
"""

from __future__ import annotations

import html
import unicodedata

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sequential

FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
INK, FAINT, PAPER = "#1f2328", "#d0d7de", "#ffffff"
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe & Ito's palette, the well separated ones first."""
SCALE = "Viridis"

_AXIS = {
    "showline": True,
    "linecolor": INK,
    "linewidth": 1,
    "ticks": "outside",
    "ticklen": 4,
    "gridcolor": "#eaeef2",
    "zeroline": False,
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": list(CATEGORIES),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": INK, "font": {"family": FONT, "size": 13, "color": INK}},
        "hovermode": "closest",
        "legend": {"bgcolor": "rgba(255,255,255,0.8)"},
    }
)


def new_figure(width: int, height: int, **layout: object) -> go.Figure:
    """An empty figure of ``width`` x ``height`` pixels in the common look."""
    return go.Figure(layout={"template": TEMPLATE, "width": width, "height": height, **layout})


def label(text: str, longest: int = 60) -> str:
    """Foreign text for a label or hover box: one line, no markup of its own, at most ``longest`` characters.

    Plotly reads a subset of HTML in text, so ``<`` and ``&`` are escaped; line breaks and tabs are made visible;
    control and direction-changing characters, which could garble the rest of the line, are replaced.
    """
    shown = text.strip(" ").replace("\n", "↵").replace("\t", "⇥") or "␣"
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in shown)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return html.escape(shown, quote=False)


def colours(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``[...]`` values → ``[..., 3]`` uint8 of the common scale, as Plotly interpolates it; NaN gives its low end."""
    stops = np.array([[int(hexed[i : i + 2], 16) for i in (1, 3, 5)] for hexed in sequential.Viridis], dtype=float)
    place = np.nan_to_num(np.clip((values - low) / ((high - low) or 1.0), 0, 1)) * (len(stops) - 1)
    channels = [np.interp(place, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def limits(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest finite value; (0, 1) if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
