"""Figures of token statistics and of the graph of tokens and features.

They draw the results of :mod:`lens.functiontokens` (whose types are imported for the type checker alone: nothing here needs
torch). Function tokens are blue circles, content tokens orange diamonds, features grey squares, chance is grey. Whatever
answers to a click is a scatter marker with ``customdata`` ["token", id] or ["feature", number]. Foreign text passes
:func:`lens.figures.theme.label`. Long curves and large clouds are thinned, always to the same points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lens.backend.visible import visible
from lens.figures.steering import GROUP_COLOURS, LEGEND
from lens.figures.theme import FAINT, INK, PAPER, SCALE, label, new_figure

if TYPE_CHECKING:
    from lens.functiontokens import coverage as reach
    from lens.functiontokens.counts import TokenCounts
    from lens.functiontokens.featurecards import FeatureCard
    from lens.functiontokens.matrix import TokenMatrix
    from lens.functiontokens.neighbourhood import Neighbourhood

CHANCE = "#6e7781"
SYMBOLS = {"function": "circle", "content": "diamond"}
DIVERGING = "PuOr_r"
"""Orange above, purple below chance: told apart by every kind of colour vision (ColorBrewer)."""
POINTS = 240
"""Points of a thinned curve."""
FIRST, CLOUD = 300, 900
"""Tokens of a cloud drawn one by one, and how many of the rarer ones besides."""


def counts(found: TokenCounts, function: np.ndarray, *, width: int = 1160, height: int = 340) -> go.Figure:
    """Three panels over the rank: occurrences (Zipf), cumulative share with the function tokens' part, document coverage.

    ``function``: bool by rank.
    """
    figure = new_figure(width, height, margin={"l": 66, "r": 16, "t": 40, "b": 52}, legend=LEGEND)
    ranks = _thinned(len(found))
    panels: tuple[tuple[str, np.ndarray, dict[str, Any], str], ...] = (
        ("occurrences", found.counts, {"type": "log"}, "%{y:,}"),
        ("cumulative share", found.cumulative(), {"range": [0, 1.02], "tickformat": ".0%"}, "%{y:.1%}"),
        ("share of documents", found.document_share(), {"rangemode": "tozero", "tickformat": ".0%"}, "%{y:.1%}"),
    )
    for number, (name, values, axis, form) in enumerate(panels):
        suffix = "" if number == 0 else str(number + 1)
        gap = 0.075
        domain = [number / 3 + (gap if number else 0), (number + 1) / 3 - (0.02 if number < 2 else 0)]
        figure.update_layout({
            f"xaxis{suffix}": {"type": "log", "title": "rank of the token", "domain": domain, "anchor": f"y{suffix}",
                               "dtick": 1, "exponentformat": "none"},
            f"yaxis{suffix}": {"title": name, "anchor": f"x{suffix}", **axis},
        })  # fmt: skip
        on = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        for group in ("content", "function"):
            chosen = ranks[function[ranks] == (group == "function")]
            tokens = _tokens(found.ids[chosen], [found.texts[r] for r in chosen])
            figure.add_trace(
                go.Scatter(
                    x=(chosen + 1).tolist(), y=values[chosen].tolist(), mode="markers", marker=_marker(group, 6), **tokens,
                    name=f"{group} tokens", legendgroup=group, showlegend=number == 0, **on,
                    hovertemplate=f"<b>%{{text}}</b> (rank %{{x:,}})<br>{name} {form}<extra>{group}</extra>",
                )
            )  # fmt: skip
    reached = float(found.counts[function].sum() / found.total)
    line = {"color": GROUP_COLOURS["function"], "width": 1.5, "dash": "dash"}
    figure.add_shape(type="line", xref="x2 domain", yref="y2", x0=0, x1=1, y0=reached, y1=reached, line=line)
    figure.add_annotation(
        xref="x2 domain", yref="y2", x=0.02, y=reached, xanchor="left", yanchor="bottom", showarrow=False,
        text=f"{int(function.sum())} function tokens: {reached:.1%}", font={"color": GROUP_COLOURS["function"]},
    )  # fmt: skip
    return figure


def coverage(found: reach.Coverage, *, width: int = 560, height: int = 380) -> go.Figure:
    """The share of active features that the k most frequent tokens reach, over the band of the shuffled labels."""
    figure = new_figure(width, height, margin={"l": 60, "r": 16, "t": 44, "b": 52}, legend=LEGEND)
    places = _thinned(len(found.share))
    at = (places + 1).tolist()
    if found.low is not None and found.high is not None and found.mean is not None:
        low, high = found.low[places], found.high[places]
        figure.add_trace(
            go.Scatter(x=[*at, *at[::-1]], y=[*low.tolist(), *high[::-1].tolist()], fill="toself", mode="lines",
                       fillcolor="rgba(110,119,129,0.30)", line={"width": 0}, name="shuffled labels", hoverinfo="skip")
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(x=at, y=found.mean[places].tolist(), mode="lines", showlegend=False,
                       line={"color": CHANCE, "width": 1.5, "dash": "dash"},
                       hovertemplate="shuffled labels<br>first %{x}: %{y:.1%}<extra></extra>")
        )  # fmt: skip
        band = [f"<br>shuffled labels {a:.1%} to {b:.1%}" for a, b in zip(low, high, strict=True)]
    else:
        band = [f"<br>no null was drawn for edges of {found.n} firings"] * len(places)
    for group in ("content", "function"):
        chosen = [i for i, place in enumerate(places) if found.function[place] == (group == "function")]
        kept = places[chosen]
        tokens = _tokens(found.ids[kept], [found.texts[r] for r in kept])
        tokens["text"] = [f"<b>{text}</b>" for text in tokens["text"]]
        figure.add_trace(
            go.Scatter(
                x=(kept + 1).tolist(), y=found.share[kept].tolist(), mode="markers", marker=_marker(group, 6), **tokens,
                name=f"up to a {group} token", hovertext=[band[i] for i in chosen],
                hovertemplate="first %{x}, up to %{text}: <b>%{y:.1%}</b>%{hovertext}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(type="log", title="most frequent tokens", dtick=1, exponentformat="none")
    figure.update_yaxes(title=f"of {found.active:,} active features", tickformat=".0%", range=[0, 1.03])
    return figure


def rarefaction(found: reach.Rarefaction, *, width: int = 560, height: int = 380) -> go.Figure:
    """Features reached by equally many occurrences of each group, and of random positions."""
    figure = new_figure(width, height, margin={"l": 60, "r": 16, "t": 44, "b": 52}, legend=LEGEND)
    curves: tuple[tuple[str, np.ndarray, str, str], ...] = (
        ("shuffled labels", found.shuffled, CHANCE, "dash"),
        ("content tokens", found.content, GROUP_COLOURS["content"], "solid"),
        ("function tokens", found.function, GROUP_COLOURS["function"], "solid"),
    )
    for name, values, colour, dash in curves:
        symbol = SYMBOLS.get(name.split()[0])
        figure.add_trace(
            go.Scatter(
                x=found.sample.tolist(), y=values.tolist(), name=name, mode="lines+markers" if symbol else "lines",
                line={"color": colour, "width": 2, "dash": dash}, marker={"symbol": symbol, "size": 6},
                hovertemplate=f"{name}<br>%{{x:,}} occurrences: <b>%{{y:.1%}}</b><extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(type="log", title="occurrences drawn from the group", dtick=1, exponentformat="none")
    figure.update_yaxes(title="of the active features", tickformat=".0%", range=[0, 1.03])
    return figure


def degrees(found: reach.Degrees, *, width: int = 560, height: int = 400) -> go.Figure:
    """Degree against frequency on logarithmic axes, with the degree that the null expects. Tokens of degree 0 have no place
    on them."""
    figure = new_figure(width, height, margin={"l": 66, "r": 16, "t": 44, "b": 52}, legend=LEGEND)
    drawn = np.flatnonzero(found.degree)
    drawn = drawn[np.argsort(-found.occurrences[drawn], kind="stable")]
    if len(drawn) > FIRST + CLOUD:
        rest = np.linspace(FIRST, len(drawn) - 1, CLOUD).round().astype(int)
        drawn = np.concatenate([drawn[:FIRST], drawn[rest]])
    for group in ("content", "function"):
        chosen = drawn[found.function[drawn] == (group == "function")]
        tokens = _tokens(found.ids[chosen], [found.texts[i] for i in chosen])
        figure.add_trace(
            go.Scatter(
                x=found.occurrences[chosen].tolist(), y=found.degree[chosen].tolist(), mode="markers", **tokens,
                marker=_marker(group, 6 if group == "content" else 8), name=f"{group} tokens",
                hovertext=[f"{weight:,}" for weight in found.weight[chosen]],
                hovertemplate="<b>%{text}</b><br>%{x:,} occurrences, %{y:,} features<br>%{hovertext} firings (weighted "
                f"degree)<extra>{group}</extra>",
            )
        )  # fmt: skip
    some = found.expected >= 0.3
    figure.add_trace(
        go.Scatter(
            x=found.at[some].tolist(), y=found.expected[some].tolist(), mode="lines", name="shuffled labels",
            line={"color": CHANCE, "width": 2, "dash": "dash"},
            hovertemplate="shuffled labels<br>%{x:,} occurrences: %{y:,.0f} features<extra></extra>",
        )
    )  # fmt: skip
    of = f" of {int((found.degree > 0).sum()):,}" if len(drawn) < (found.degree > 0).sum() else ""
    figure.update_xaxes(type="log", title=f"occurrences ({len(drawn):,}{of} tokens)", dtick=1, exponentformat="none")
    figure.update_yaxes(type="log", title=f"degree (edges of {found.n} or more)", dtick=1, exponentformat="none")
    return figure


CELL, LEFT, TOP = 15, 130, 56


def matrix(found: TokenMatrix, *, width: int = 1160) -> go.Figure:
    """Tokens x features as a heat map; the squares along its edges are what a click finds."""
    rows, cols = found.values.shape
    height = TOP + 24 + CELL * max(rows, 4)
    figure = new_figure(
        width, height, margin={"l": LEFT, "r": 90, "t": TOP, "b": 24, "autoexpand": False}, dragmode=False
    )
    names = [_shown(text, 16) for text in found.texts]
    lifts = found.value == "lift"
    most = float(np.abs(found.values).max()) if found.values.size else 1.0
    scale = (
        {"colorscale": DIVERGING, "zmid": 0, "zmin": -most, "zmax": most} if lifts else {"colorscale": SCALE, "zmin": 0}
    )
    title = "log2 of times chance (shrunk)" if lifts else "share of occurrences"
    pairs = [[[names[r], int(found.features[c]), int(found.firings[r, c])] for c in range(cols)] for r in range(rows)]
    figure.add_trace(
        go.Heatmap(
            z=np.round(found.values, 4).tolist(), customdata=pairs, **scale, xgap=0.5, ygap=0.5,
            colorbar={"title": {"text": title, "side": "right"}, "thickness": 14, "outlinewidth": 0},
            hovertemplate="<b>%{customdata[0]}</b> · feature %{customdata[1]}<br>%{customdata[2]:,} firings<br>"
            f"{title} %{{z:.3g}}<extra></extra>",
        )
    )  # fmt: skip
    edge = {"mode": "markers", "showlegend": False}
    square = {"symbol": "square", "size": 9, "line": {"color": PAPER, "width": 1}}
    tokens = [["token", int(i)] for i in found.ids]
    figure.add_trace(go.Scatter(
        x=[-1.4] * rows, y=list(range(rows)), customdata=tokens, text=names, marker={**square, "color": INK}, name="tokens",
        hovertemplate="<b>%{text}</b>: go to this token<extra></extra>", **edge,
    ))  # fmt: skip
    features = [["feature", int(i)] for i in found.features]
    figure.add_trace(go.Scatter(
        x=list(range(cols)), y=[-1.4] * cols, customdata=features, marker={**square, "color": CHANCE}, name="features",
        hovertemplate="feature %{customdata[1]}: go there<extra></extra>", **edge,
    ))  # fmt: skip
    bare = {"showgrid": False, "showline": False, "ticks": ""}
    figure.update_yaxes(tickvals=list(range(rows)), ticktext=names, range=[rows - 0.5, -2.2], tickfont={"size": 11},
                        automargin=False, **bare)  # fmt: skip
    figure.update_xaxes(showticklabels=False, range=[-2.2, cols - 0.5], side="top", **bare,
                        title={"text": f"{cols} features that tell these tokens apart", "standoff": 4})  # fmt: skip
    return figure


ROW = 24


def neighbourhood(
    found: Neighbourhood, function: np.ndarray, *, names: Mapping[int, str] | None = None, width: int = 640
) -> go.Figure:
    """Tokens at the left, features at the right, the centre ringed; the thicker a line, the larger the share of the token's
    occurrences on which the feature fires.

    ``function``: bool by token of ``found``. ``names``: words for features, unescaped.
    """
    height = ROW * max(len(found.ids), len(found.features), 6) + 60
    figure = new_figure(width, height, margin={"l": 8, "r": 8, "t": 30, "b": 8}, showlegend=False, dragmode=False)
    own = found.ids[found.edge_token] == found.centre[1]
    if found.centre[0] == "feature":
        own = found.features[found.edge_feature] == found.centre[1]
    thick = np.digitize(found.rate, (0.05, 0.25, 0.6))
    for mine in (False, True):
        for size in range(4):
            _edges(figure, found, np.flatnonzero((own == mine) & (thick == size)), mine, 0.6 + 0.9 * size)
    _edge_hover(figure, found, np.flatnonzero(own))
    for group in ("content", "function"):
        chosen = np.flatnonzero(function == (group == "function"))
        tokens = _tokens(found.ids[chosen], [found.texts[i] for i in chosen], 22)
        ring = [found.centre == ("token", int(i)) for i in found.ids[chosen]]
        _nodes(
            figure, 0.0, found.token_at[chosen], ring, {**tokens, "marker": _marker(group, 12)}, "middle left", group
        )
    names = names or {}
    shown = [label(f"{f} · {names[int(f)]}" if int(f) in names else str(f), 30) for f in found.features]
    ring = [found.centre == ("feature", int(f)) for f in found.features]
    square = {"symbol": "square", "size": 11, "color": CHANCE}
    data = {"customdata": [["feature", int(f)] for f in found.features], "text": shown, "marker": square}
    _nodes(figure, 1.0, found.feature_at, ring, data, "middle right", "feature")
    for x, text in ((0.0, "tokens"), (1.0, "features")):
        figure.add_annotation(x=x, y=1, yref="paper", yanchor="bottom", text=f"<b>{text}</b>", showarrow=False)
    figure.update_xaxes(visible=False, range=[-0.55, 1.95])  # features have the longer names
    figure.update_yaxes(visible=False, range=[1.04, -0.04])
    return figure


def _edges(figure: go.Figure, found: Neighbourhood, chosen: np.ndarray, own: bool, width: float) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for i in chosen:
        x += [0.0, 1.0, None]
        y += [float(found.token_at[found.edge_token[i]]), float(found.feature_at[found.edge_feature[i]]), None]
    line = {"color": "#57606a" if own else FAINT, "width": width}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, opacity=0.9 if own else 0.7, hoverinfo="skip"))


def _edge_hover(figure: go.Figure, found: Neighbourhood, chosen: np.ndarray) -> None:
    """Unseen points on the centre's own edges, near their far ends, that say what an edge is."""
    far = 0.8 if found.centre[0] == "token" else 0.2
    ends = found.token_at[found.edge_token[chosen]], found.feature_at[found.edge_feature[chosen]]
    texts = [
        f"<b>{_shown(found.texts[found.edge_token[i]], 40)}</b> · feature {found.features[found.edge_feature[i]]}<br>"
        f"{found.firings[i]:,} firings, on {found.rate[i]:.1%} of the token's occurrences<br>{found.lift[i]:.3g} times "
        "chance"
        for i in chosen
    ]
    figure.add_trace(
        go.Scatter(x=[far] * len(chosen), y=((1 - far) * ends[0] + far * ends[1]).tolist(), mode="markers", text=texts,
                   marker={"size": 8, "opacity": 0, "color": INK}, hovertemplate="%{text}<extra></extra>")
    )  # fmt: skip


def _nodes(
    figure: go.Figure, x: float, at: np.ndarray, ring: Sequence[bool], data: dict[str, Any], side: str, kind: str
) -> None:
    marker = {**data["marker"], "line": {"color": INK, "width": [3 if centre else 0.5 for centre in ring]}}
    same = {"marker": {"opacity": 1}}  # a selection must not fade the other nodes
    figure.add_trace(
        go.Scatter(
            x=[x] * len(at), y=at.tolist(), mode="markers+text", textposition=side, textfont={"size": 12}, name=kind,
            texttemplate="\u2002%{text}\u2002",
            **{**data, "marker": marker}, selected=same, unselected=same, cliponaxis=False,
            hovertemplate="<b>%{text}</b>: go there<extra>" + kind + "</extra>",
        )
    )  # fmt: skip


def histogram(card: FeatureCard, *, width: int = 560, height: int = 260) -> go.Figure:
    """How often a feature has a value of each magnitude; the bins double in four steps."""
    figure = new_figure(width, height, margin={"l": 60, "r": 16, "t": 16, "b": 48})
    counted = [*map(int, card.histogram), 0] if len(card.histogram) else []
    edges = [float(edge) for edge in card.bins]
    texts = [f"{low:.3g} to {high:.3g}: <b>{n:,}</b>" for low, high, n in zip(edges, edges[1:], counted, strict=False)]
    figure.add_trace(
        go.Scatter(x=edges, y=counted, mode="lines", line={"shape": "hv", "color": INK, "width": 1.5}, fill="tozeroy",
                   fillcolor="rgba(110,119,129,0.35)", text=[*texts, ""], hovertemplate="%{text}<extra></extra>")
    )  # fmt: skip
    figure.update_xaxes(type="log", title="magnitude of the value")
    figure.update_yaxes(title="firings", rangemode="tozero")
    return figure


def _tokens(ids: np.ndarray, texts: Sequence[str], longest: int = 40) -> dict[str, Any]:
    """What makes markers answer for tokens."""
    return {"customdata": [["token", int(i)] for i in ids], "text": [_shown(text, longest) for text in texts]}


def _shown(text: str, longest: int) -> str:
    """A token for a label; marks alone stand in quotes, so that they are seen."""
    shown = label(visible(text), longest)
    return shown if any(c.isalnum() for c in text) else f"“{shown}”"


def _marker(group: str, size: int) -> dict[str, Any]:
    line = {"color": INK if group == "function" else "#8a5f00", "width": 0.5}
    return {"symbol": SYMBOLS[group], "color": GROUP_COLOURS[group], "size": size, "line": line}


def _thinned(size: int) -> np.ndarray:
    """Places 0 to size - 1 for a logarithmic axis: all of the first, then ever fewer."""
    if size <= POINTS:
        return np.arange(size)
    return np.unique(np.concatenate([np.arange(60), np.geomspace(60, size - 1, POINTS - 60).round().astype(int)]))
