"""LatentLens: click a patch, read which words its visual token is nearest to, at every layer, by three lenses."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens.figures.latentlens import layer_profile, patch_picture, word_grid
from lens.latentlens.index import Index
from lens.latentlens.reading import Reading, default_layer, score
from ui import cards, export, readings, sidebar, state
from ui.state import Reader

OVERLAYS = {"similarity": "Heat map", "words": "Words", "none": "Picture"}


@st.fragment
def explore(reader: Reader, index: Index | None) -> None:
    """All that follows a click or a slider. No block of the model runs in here."""
    layer, lens, overlay = choose(reader, index)
    found = {name: readings.whole_picture(reader, index, layer, name) for name in readings.lenses(index)}
    grid = reader.encoded.token_map.grids[0]
    row, col = state.patch(grid.rows, grid.cols)
    left, right = st.columns([5, 6], gap="large")
    with left:
        draw_picture(reader, found[lens], overlay, (row, col))
    with right:
        st.markdown(f"**Patch {row}, {col}** (row, column), layer {layer} of {reader.trace.depth}")
        columns = st.columns(len(found))
        for column, (name, reading) in zip(columns, found.items(), strict=True):
            patch = reading.patches[row * grid.cols + col]
            column.html(cards.lens_column(name, patch.neighbours[name]))
    through_layers(reader, index, (row, col), layer)
    export.draw(reader, index, found)


def choose(reader: Reader, index: Index | None) -> tuple[int, str, str]:
    """Layer, the lens that is drawn over the picture, and how."""
    depth = reader.trace.depth
    slider, lens, overlay = st.columns([5, 4, 3], vertical_alignment="bottom", gap="large")
    names = readings.lenses(index)
    return (
        slider.slider(
            "Layer of the visual tokens",
            0,
            depth,
            default_layer(depth),
            key="layer",
            bind="query-params",
            help=f"0: the connector's output · i: the output of block i · {depth}: after the final norm",
        ),
        lens.segmented_control(
            "Over the picture", names, format_func=cards.TITLES.get, default=names[0], key="lens", bind="query-params",
            required=True,
        ),
        overlay.segmented_control(
            "Shown as", list(OVERLAYS), format_func=OVERLAYS.get, default="similarity", key="overlay",
            bind="query-params", required=True,
        ),
    )


def draw_picture(reader: Reader, reading: Reading, overlay: str, selected: tuple[int, int]) -> None:
    """The picture with its patch grid; a click chooses a patch."""


st.markdown("### LatentLens")
the_reader = sidebar.open_reader(sidebar.draw())
explore(the_reader, readings.choose_index(the_reader))
sidebar.draw_answer(the_reader)
