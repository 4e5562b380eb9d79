"""Section of the LatentLens page: the visual tokens among their text neighbours, as a map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import streamlit as st

from lens.backend.encoding import visual_grid
from lens.figures.tokenplane import Dots, token_plane
from lens.latentlens.index import Index
from lens.latentlens.plane import Plane, Points, flat, folded, gather
from lens.progress import Report
from ui import addresses, cards, export, readings
from ui.clicks import take_click
from ui.export import Exhibit
from ui.readings import View
from ui.state import Reader
from ui.work import offered

SCOPES = {"layer": "The layer in view", "all": "The stored layers together"}
COLOURS = {"word": "Best word", "layer": "Layer", "position": "Place in the picture"}
METHODS = ("PCA", "UMAP")
HOW = "Circles: visual tokens; click one to choose its patch (ringed). Diamonds: their nearest contexts in the text index. "
CENTRED = "Each cloud had its own mean taken off. "
APART = "Visual and text states often form two clouds: nearest among all texts need not be near. "
UMAP = "UMAP keeps neighbourhoods; distances between groups mean nothing. "
FEW, ONE = 3, 1
"""Neighbours of each token that are drawn: of one layer, of many."""


def token_map(view: View) -> list[Exhibit]:
    """PCA at once; UMAP when the reader chooses it."""
    if view.index is None:
        st.info("This map needs a text index; build one with `python -m lens index build`.")
        return []
    scope, colour, centred, method = choose()
    layers = (view.layer,) if scope == "layer" else tuple(sorted({0, *view.index.layers}))
    content = readings.content(view.reader, view.index)
    shown = _flat(view.reader, view.index, layers, centred, content)
    if method == "UMAP":
        folds = offered("plane", (content, layers, centred), "UMAP", _folded(shown.points), "", at_once=True)
        if folds is None:
            return []
        shown = folds
    drawn = exhibit(view, view.index, shown, method, colour, layers)
    export.show(drawn, on_select=take_click("plane"))
    st.caption(f"{HOW}{CENTRED if centred else APART}{UMAP if method == 'UMAP' else ''}")
    return [drawn]


def choose() -> tuple[str, str, bool, str]:
    """Which tokens, by what they are coloured, whether the two clouds are laid upon each other, and the projection."""
    first, second, third, fourth = st.columns([10, 10, 5, 6], vertical_alignment="bottom", gap="medium")
    scope = addresses.segmented("Visual tokens of", SCOPES, "plane-of", "layer", SCOPES, first)
    colour = addresses.segmented("Coloured by", COLOURS, "plane-colour", "word", COLOURS, second)
    method = addresses.segmented(
        "Projection", METHODS, "plane-method", "PCA", place=third,
        help="PCA keeps as much of the variance as two axes can hold. UMAP keeps who is near whom; it takes some seconds, "
        "and the first time up to a minute.",
    )  # fmt: skip
    centred = addresses.toggle(
        "Centre each cloud", "plane-centred", place=fourth,
        help="Takes the mean of the visual tokens off them and that of the texts off these, which hides how far apart the "
        "two are and shows whether their inner order agrees.",
    )  # fmt: skip
    return scope, colour, centred, method


def exhibit(view: View, index: Index, shown: Plane, method: str, colour: str, layers: tuple[int, ...]) -> Exhibit:
    """The map with what its points are."""
    points, plane = shown.points, shown.planes[method]
    grid = visual_grid(view.reader.encoded.token_map)
    visual = points.visual
    patches, texts = _dots(points, plane[visual], True), _dots(points, plane[~visual], False)
    axes = tuple(f"principal axis {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shown.explained))
    figure = token_plane(
        patches, texts, (grid.rows, grid.cols), colour=colour, depth=view.reader.trace.depth, selected=view.patch,
        axes=(axes[0], axes[1]) if method == "PCA" else ("", ""),
    )  # fmt: skip

    def rows() -> list[dict[str, object]]:
        table: list[dict[str, object]] = []
        for dots, kind in ((patches, "patch"), (texts, "text")):
            for i, word in enumerate(dots.words):
                row, col = dots.cells[i] if dots.cells else (None, None)
                entry = {"kind": kind, "row": row, "col": col, "layer": int(dots.layers[i]), "word": word}
                x, y = dots.plane[i].tolist()
                table.append({**entry, "x": x, "y": y, "sentence": "" if dots.cells else dots.notes[i]})
        return table

    shown_layers = ", ".join(map(str, layers))
    facts = {**export.provenance(view.reader, index, shown_layers, cards.TITLES["latent"]), "method": method}
    return Exhibit("plane", f"Visual tokens among their text neighbours, by {method}", figure, rows, facts)


def _dots(points: Points, plane: np.ndarray, visual: bool) -> Dots:
    count = len(points.cells)
    if visual:
        notes = [f"row {row}, column {col}" for row, col in points.cells]
        return Dots(plane, points.words[:count], points.layer[:count].tolist(), notes, points.cells)
    notes = [one.sentence for one in points.contexts]
    return Dots(plane, points.words[count:], points.layer[count:].tolist(), notes)


def _folded(points: Points) -> Callable[[Report], Plane]:
    return lambda report: folded(points, report)


@st.cache_resource(max_entries=16, show_spinner="Gathering the neighbours")
def _flat(_reader: Reader, _index: Index, layers: tuple[int, ...], centred: bool, content: tuple[str, str]) -> Plane:
    neighbours = FEW if len(layers) == 1 else ONE
    return flat(gather(_reader.trace, _index, layers, neighbours, centred=centred))
