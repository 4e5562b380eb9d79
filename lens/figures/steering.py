"""Figures of the reader's prompt, of steering and of ablation, and how a text's tokens are coloured.

They draw the results of :mod:`lens.functiontokens` (whose types are imported for the type checker alone: nothing here needs
torch). Function tokens are blue and hatched, content tokens orange and plain, everywhere. Foreign text passes
:func:`lens.figures.theme.label`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from lens.backend.visible import visible
from lens.figures.canvas import Cell, clickable, colour_bar, outline, picture_figure, scale_of
from lens.figures.causal import Effect, effects
from lens.figures.theme import CATEGORIES, FAINT, INK, PAPER, colours, label, limits, new_figure

if TYPE_CHECKING:
    from lens.backend.bench import Change
    from lens.functiontokens.ablation import Ablation
    from lens.functiontokens.losses import GroupLosses
    from lens.functiontokens.search import LayerScan, MinimalK
    from lens.functiontokens.steering import Steering

GROUP_COLOURS = {"function": "#0072B2", "content": "#E69F00", "special": "#6e7781", "image": "#CC79A7"}
"""From Okabe & Ito's palette; their lightness differs, and each group has its mark besides."""
PATTERNS = ("/", "", "x", ".")
PANELS = ("answers with the trait", "gain (nats per token)")
LEAST = 0.01
"""A next token that has no such probability, before or after, is not worth a row."""
MARK = 10
"""Size of a mark in pixels; names keep away from the axis by as much, since a mark at 0 lies over it."""
LEGEND = {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"}


@dataclass(frozen=True)
class Paint:
    """How one token is painted: hex colours of its ground and its letters."""

    ground: str
    ink: str


def value_paint(values: Sequence[float | None], low: float | None = None, high: float | None = None) -> list[Paint]:
    """Tokens by a quantity in the common scale; those without a value stay white. Letters are readable on every ground.

    ``low``, ``high``: ends of the scale; by default the least and the greatest value.
    """
    found = np.array([np.nan if value is None else value for value in values], dtype=float)
    ends = limits(found)
    shades = colours(found, ends[0] if low is None else low, ends[1] if high is None else high)
    painted = []
    for value, (red, green, blue) in zip(found, shades.astype(int).tolist(), strict=True):
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 110
        ground = f"#{red:02x}{green:02x}{blue:02x}"
        painted.append(Paint(PAPER, INK) if np.isnan(value) else Paint(ground, INK if light else PAPER))
    return painted


def group_paint(groups: Sequence[str]) -> list[Paint]:
    """Tokens by their group; see :data:`GROUP_COLOURS`."""
    inks = {"function": PAPER, "content": INK, "special": PAPER, "image": INK}
    return [Paint(GROUP_COLOURS[group], inks[group]) for group in groups]


def group_losses(texts: Sequence[GroupLosses], *, width: int = 760, height: int = 380) -> go.Figure:
    """The loss of each kind of prediction (current → next) with its interval, a bar for each text; dotted lines at the
    texts' mean cross-entropies."""
    figure = new_figure(
        width, height, margin={"l": 64, "r": 16, "t": 44, "b": 56}, barmode="group", bargap=0.3, legend=LEGEND
    )
    kinds = [f"{pair.current} → {pair.next}" for pair in texts[0].pairs] if texts else []
    for number, text in enumerate(texts):
        colour = CATEGORIES[number % len(CATEGORIES)]
        above = [0.0 if p.loss is None or p.high is None else p.high - p.loss for p in text.pairs]
        below = [0.0 if p.loss is None or p.low is None else p.loss - p.low for p in text.pairs]
        figure.add_trace(
            go.Bar(
                x=list(range(len(kinds))), y=[pair.loss for pair in text.pairs], name=label(text.name),
                marker={"color": colour, "line": {"color": INK, "width": 0.5},
                        "pattern": {"shape": PATTERNS[number % 4], "fgcolor": PAPER, "bgcolor": colour, "size": 7}},
                error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": INK,
                         "thickness": 1.2, "width": 4},
                customdata=[[p.count, p.share, kind] for p, kind in zip(text.pairs, kinds, strict=True)],
                hovertemplate=f"{label(text.name)}<br>%{{customdata[2]}}: <b>%{{y:.3f}} nats</b><br>%{{customdata[0]:,}} "
                "predictions, %{customdata[1]:.1%} of all<extra></extra>",
            )
        )  # fmt: skip
        if text.loss is not None:
            figure.add_hline(y=text.loss, line={"color": colour, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(tickvals=list(range(len(kinds))), ticktext=kinds, showgrid=False, title="current → next token")
    figure.update_yaxes(title="cross-entropy (nats)", rangemode="tozero")
    return figure


def next_tokens(gains: Sequence[Change], losses: Sequence[Change], *, count: int = 8, width: int = 760) -> go.Figure:
    """Next tokens that gained and that lost most: probability before (ring) and after (filled), joined by a line.

    At most ``count`` of either. Those that stay below :data:`LEAST` are left out, and the axis says how many, unless none
    reaches it.
    """
    large = [[row for row in side if max(row.before, row.after) >= LEAST] for side in (gains, losses)]
    gained, lost = large if any(large) else (gains, losses)
    small = len(gains) + len(losses) - len(gained) - len(lost)
    rows = [*gained[:count], *reversed(lost[:count])]
    figure = new_figure(width, 112 + 24 * max(len(rows), 1), margin={"l": 16, "r": 16, "t": 40, "b": 64}, legend=LEGEND)
    places, names = list(range(len(rows))), _names([row.token for row in rows])
    for place, row in zip(places, rows, strict=True):
        colour = CATEGORIES[2] if row.after > row.before else CATEGORIES[1]
        ends = {"x0": row.before, "x1": row.after, "y0": place, "y1": place}
        figure.add_shape(type="line", line={"color": colour, "width": 3}, layer="below", **ends)
    looks = (("before", "circle-open", [row.before for row in rows]), ("after", "diamond", [row.after for row in rows]))
    for name, symbol, values in looks:
        figure.add_trace(
            go.Scatter(
                x=values, y=places, mode="markers", name=name, text=names, cliponaxis=False,
                marker={"symbol": symbol, "size": MARK, "color": INK, "line": {"width": 2, "color": INK}},
                hovertemplate=f"%{{text}}<br>{name} %{{x:.2%}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_yaxes(tickvals=places, ticktext=names, range=[len(rows) - 0.5, -0.5], showgrid=False, ticks="",
                        ticklabelstandoff=MARK)  # fmt: skip
    left_out = f"<br><sup>left out: {small} more that stay below {LEAST:.0%}</sup>" if small else ""
    figure.update_xaxes(title=f"probability as the next token{left_out}", tickformat=".0%", rangemode="tozero")
    return figure


def _names(tokens: Sequence[str]) -> list[str]:
    """Tokens as labels."""
    return [label(visible(token), 24) for token in tokens]


def steering_effect(result: Steering, *, width: int = 1160) -> go.Figure:
    """The push beside its controls of the same norm: how far it moves the next token, and what it does to the watched
    words and to the unchanged answer."""
    words = "watched words: change of log p (nats)"
    measures: dict[str, list[Effect]] = {
        "KL of the next token (nats)": [],
        words: [],
        "unchanged answer: change of log p (nats)": [],
    }
    first, second, third = measures.values()
    for control in result.controls:
        name = f"beside {control.kind}"
        first.append(Effect(name, result.treated.kl, control.kl.tolist()))
        change = result.watched_after - result.watched_before
        second.append(Effect(name, change, (control.watched - result.watched_before).tolist()))
        moved = result.treated.logprob - result.base.logprob
        third.append(Effect(name, moved, (control.logprob - result.base.logprob).tolist()))
    return effects(measures, width=width)


def layer_scan(scan: LayerScan, *, width: int = 1160, height: int = 340) -> go.Figure:
    """Success and gain of what is added, layer by layer, with the range of its random controls."""
    figure = _two_panels(width, height, "layer")
    panels = (
        ("success", scan.control_success, scan.base.success),
        ("gain", scan.control_gain, 0.0),
    )
    for number, (measure, controls, base) in enumerate(panels):
        on = _axes(number)
        _band(figure, scan.layers, controls, on, legend=number == 0)
        _line(
            figure,
            scan.layers,
            [getattr(one, measure) for one in scan.effects],
            on,
            "the trait's state" if scan.added == "state" else "the trait's difference",
            number,
        )
        _rule(figure, base, on)
        if scan.best is not None:
            figure.add_shape(type="line", x0=scan.best, x1=scan.best, y0=0, y1=1, xref=on["xaxis"],
                             yref=f"{on['yaxis']} domain",
                             line={"color": INK, "width": 1})  # fmt: skip
    figure.update_layout(yaxis={"tickformat": ".0%", "range": [-0.04, 1.04]})
    return figure


def minimal_k(search: MinimalK, *, width: int = 1160, height: int = 340) -> go.Figure:
    """Success and gain by the number of features, with the smallest that is enough, its feature alone, and controls."""
    figure = _two_panels(width, height, "features, the largest first")
    sizes = [one.k for one in search.tried]
    for number, (measure, base) in enumerate((("success", search.base.success), ("gain", 0.0))):
        on = _axes(number)
        if search.k is not None and measure == "gain" and search.control_gain.size:
            spread = go.Scatter(
                x=[search.k] * search.control_gain.size, y=search.control_gain.tolist(), mode="markers",
                name="random, same norm",
                marker={"size": 6, "color": "#6e7781"}, hovertemplate="random<br>%{y:.3f}<extra></extra>", **on,
            )  # fmt: skip
            figure.add_trace(spread)
        _line(figure, sizes, [getattr(one.effect, measure) for one in search.tried], on, "the first k features", number)
        if search.alone is not None and search.k is not None:
            figure.add_trace(
                go.Scatter(
                    x=[search.k], y=[getattr(search.alone, measure)], mode="markers", name=f"feature {search.feature} alone",
                    marker={"symbol": "diamond", "size": 13, "color": CATEGORIES[1], "line": {"color": INK, "width": 1}},
                    legendgroup="alone", showlegend=number == 0, hovertemplate="alone<br>%{y:.3f}<extra></extra>", **on,
                )
            )  # fmt: skip
        _rule(figure, base, on)
    figure.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=search.enough, y1=search.enough, yref="y",
                     line={"color": CATEGORIES[2], "width": 1.5, "dash": "dash"})  # fmt: skip
    figure.update_xaxes(type="log", tickvals=sizes)
    figure.update_layout(yaxis={"tickformat": ".0%", "range": [-0.04, 1.04]})
    return figure


def ablation(results: Sequence[Ablation], *, width: int = 760) -> go.Figure:
    """Change of loss elsewhere when function and when content tokens are ablated: a dot for every text (or draw of a
    single one), the mean with its interval over them."""
    rows = [(result, group) for result in results for group in ("function", "content")]
    figure = new_figure(
        width, 104 + 44 * max(len(rows), 1), margin={"l": 16, "r": 16, "t": 16, "b": 56}, showlegend=False
    )
    for place, (result, group) in enumerate(rows):
        values = [float(np.mean(getattr(text, group))) for text in result.texts]
        values = values if len(values) > 1 else list(getattr(result.texts[0], group))
        estimate = getattr(result, group)
        spread = place + 0.2 * np.resize([0.0, 1.0, -1.0, 0.5, -0.5], len(values))  # the height in a row means nothing
        figure.add_trace(
            go.Scatter(
                x=values, y=spread.tolist(), mode="markers",
                hovertemplate=f"one {result.unit}<br>%{{x:+.3f}} nats<extra></extra>",
                marker={"size": 5, "color": GROUP_COLOURS[group], "opacity": 0.55},
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[estimate.mean], y=[place], mode="markers",
                marker={"symbol": "diamond", "size": 13, "color": GROUP_COLOURS[group],
                        "line": {"color": INK, "width": 1.2}},
                error_x={"type": "data", "symmetric": False, "array": [estimate.high - estimate.mean],
                         "arrayminus": [estimate.mean - estimate.low], "color": INK, "thickness": 1.6, "width": 6},
                hovertemplate=f"{group} tokens<br><b>%{{x:+.3f}} nats</b><br>"
                f"{estimate.low:+.3f} to {estimate.high:+.3f}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"})
    names = [f"{label(result.name, 28)}: {group}" for result, group in rows]
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5], showgrid=False)
    figure.update_xaxes(title="change of the loss elsewhere (nats)")
    return figure


def feature_overlay(
    image: Image.Image,
    boxes: np.ndarray,
    values: np.ndarray,
    *,
    selected: Sequence[Cell] = (),
    width: int = 520,
    title: str = "",
) -> go.Figure:
    """The photo with one feature's values ``[rows, cols]`` over its patches; patches where it is silent stay bare.

    ``boxes``: float ``[rows, cols, 4]``, pixels of the image. Raises PatchOutsideGrid. The trace named "patches" carries
    [row, col] as customdata.
    """
    grid, silent = np.asarray(boxes, dtype=float), values == 0
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    cells = np.zeros((*values.shape, 4), dtype=np.uint8)
    cells[..., :3] = colours(values, low, high)
    cells[..., 3] = np.where(silent, 0, 190)
    figure = picture_figure(image, grid, cells, width, bar=True, title=label(title, 200) if title else "")
    colour_bar(figure, low, high or 1.0, "value")
    outline(figure, grid, selected)
    hover = [
        [
            f"row {row}, column {col}<br>" + ("silent" if silent[row, col] else f"{values[row, col]:.3g}")
            for col in range(values.shape[1])
        ]
        for row in range(values.shape[0])
    ]
    clickable(figure, grid, hover, scale_of(image, width, bar=True))
    return figure


def _two_panels(width: int, height: int, along: str) -> go.Figure:
    figure = new_figure(width, height, margin={"l": 64, "r": 16, "t": 44, "b": 56}, legend=LEGEND)
    for number, (name, ends) in enumerate(zip(PANELS, ([0, 0.46], [0.56, 1]), strict=True)):
        axis = "" if number == 0 else "2"
        figure.update_layout({
            f"xaxis{axis}": {"domain": ends, "anchor": f"y{axis}", "title": {"text": along}},
            f"yaxis{axis}": {"anchor": f"x{axis}", "title": {"text": name}},
        })  # fmt: skip
    return figure


def _axes(number: int) -> dict[str, str]:
    return {"xaxis": "x" if number == 0 else "x2", "yaxis": "y" if number == 0 else "y2"}


def _line(
    figure: go.Figure, x: Sequence[float], y: Sequence[float], on: dict[str, str], name: str, number: int
) -> None:
    figure.add_trace(
        go.Scatter(
            x=list(x), y=list(y), mode="lines+markers", name=name, legendgroup=name, showlegend=number == 0,
            line={"color": CATEGORIES[0], "width": 2}, marker={"size": 8}, hovertemplate="%{x}: %{y:.3f}<extra></extra>",
            **on,
        )
    )  # fmt: skip


def _band(figure: go.Figure, x: Sequence[float], controls: np.ndarray, on: dict[str, str], *, legend: bool) -> None:
    """From the least to the greatest control at each place."""
    if not controls.size:
        return
    ends = [*controls.max(1).tolist(), *controls.min(1).tolist()[::-1]]
    figure.add_trace(
        go.Scatter(
            x=[*x, *reversed(list(x))], y=ends, fill="toself", fillcolor=FAINT, opacity=0.7, mode="lines",
            line={"color": "#8c959f", "width": 1}, name="random vectors of the same norm", legendgroup="random",
            showlegend=legend, hoverinfo="skip", **on,
        )
    )  # fmt: skip


def _rule(figure: go.Figure, value: float, on: dict[str, str]) -> None:
    """The unchanged model."""
    figure.add_shape(type="line", x0=0, x1=1, xref=f"{on['xaxis']} domain", y0=value, y1=value, yref=on["yaxis"],
                     line={"color": INK, "width": 1, "dash": "dot"})  # fmt: skip
