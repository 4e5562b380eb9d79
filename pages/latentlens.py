"""LatentLens: click a patch, read which words its visual token is nearest to, at every layer, by three lenses."""

from __future__ import annotations

from ui import navigation

navigation.enter()

from collections.abc import Sequence

import numpy as np
import streamlit as st

from lens.backend.encoding import visual_grid
from lens.figures.canvas import REGION, Cell, outline
from lens.figures.latentlens import patch_picture, word_grid
from lens.latentlens.index import Index
from lens.latentlens.reading import Reading, default_layer, rows_of, score
from ui import addresses, answers, cards, export, readings, sidebar, state
from ui.clicks import said, take_selection, taken
from ui.export import Exhibit
from ui.neighboursections import SECTIONS
from ui.readings import UNITS, View
from ui.sections import one_section
from ui.state import Reader
from ui.work import explorer

# What the picture takes for a selection, with or without dragging; Streamlit takes no click while a drag draws a box.
MODES = {False: ("points",), True: ("box", "lasso")}

OVERLAYS = {"similarity": "Heat map", "words": "Words", "none": "Picture"}
HELP = """**What you see.** Each square is one visual token: the part of the picture it covers. Its hidden state at the
chosen layer is compared with words in three ways. *LatentLens* looks for the nearest states of words **in sentences**, at
several depths of the same language model; the faint end of a sentence is what the model had not read yet at that word.
*Logit lens* and *embedding lens* compare with the vocabulary, without context.

**How far to trust it.** There is always a nearest neighbour. One word on every patch, or a high similarity on plain
background, is a hub rather than a finding. Similarities come from {recall}. What the encoder's crop left out is hatched."""


@explorer
@addresses.attended
def explore(reader: Reader, index: Index | None) -> None:
    """All that follows a click or a slider. No block of the model runs in here."""
    layer, lens, overlay = choose(reader, index)
    addresses.write()
    grid = visual_grid(reader.encoded.token_map)
    row, col = state.patch(grid.rows, grid.cols)
    whole = readings.whole_picture(reader, index, layer, lens)
    region = state.region(grid.rows, grid.cols)
    picture = picture_exhibit(reader, index, whole, lens, overlay, (row, col), region)
    nearest = readings.one_patch(reader, index, layer, (row, col)).neighbours
    left, right = st.columns(2, gap="medium")
    with left:
        drags = st.toggle(
            "Drag a region", key="drag", help="While this is on, dragging draws a box (or a lasso, see the figure's upper "
            "right) and clicks choose no patch."
        )  # fmt: skip
        if drags:
            picture.figure.update_layout(dragmode="select")
        size = (reader.picture.width, reader.picture.height)
        export.show(picture, take_selection("picture", grid.boxes, size), MODES[drags])
        if said():
            st.info(said())
        st.caption(("Drag over patches." if drags else "Click a patch.") + " Hatched: outside the encoder's view.")
    with right:
        st.markdown(f"**Patch {row}, {col}** · layer {layer} of {reader.trace.depth}")
        # The latent lens shows sentences and gets more room.
        columns = st.columns([3 if name == "latent" else 2 for name in nearest], gap="medium")
        for column, (name, found) in zip(columns, nearest.items(), strict=True):
            column.html(cards.lens_column(name, found))
    exhibits = one_section("part", "layers", SECTIONS, View(reader, index, layer, lens, (row, col)))
    export.draw([picture, *exhibits])


def choose(reader: Reader, index: Index | None) -> tuple[int, str, str]:
    """Layer, the lens that is drawn over the picture, and how."""
    depth, names = reader.trace.depth, readings.lenses(index, reader)
    slider, lens, overlay = st.columns([5, 5, 4], vertical_alignment="bottom", gap="medium")
    return (
        addresses.slider(
            "Layer of the visual tokens",
            0,
            depth,
            default_layer(depth),
            key="layer",
            place=slider,
            help=f"0: the connector's output · i: the output of block i · {depth}: after the final norm",
        ),
        addresses.segmented("Over the picture", names, "lens", names[0], cards.TITLES, lens),
        addresses.segmented("Shown as", OVERLAYS, "overlay", "similarity", OVERLAYS, overlay),
    )


def picture_exhibit(
    reader: Reader,
    index: Index | None,
    reading: Reading,
    lens: str,
    overlay: str,
    selected: Cell,
    region: Sequence[Cell] = (),
) -> Exhibit:
    """The picture with its patch grid, a heat map of the best score or the best words; a drag over it chooses a region."""
    shape = (reading.rows, reading.cols)
    best = [patch.neighbours[lens][0] for patch in reading.patches]
    words = np.array([entry.shown for entry in best], dtype=object).reshape(shape).tolist()
    values = np.array([score(entry) for entry in best]).reshape(shape)
    image, boxes = reader.picture.image, visual_grid(reader.encoded.token_map).boxes
    facts = export.provenance(reader, index, reading.layer, cards.TITLES[lens])
    common = {"selected": [selected], "value_name": UNITS[lens], "title": export.headline(facts, index), "width": 540}
    if overlay == "words":
        figure = word_grid(image, boxes, words, **common)
    else:
        figure = patch_picture(image, boxes, values=values if overlay == "similarity" else None, words=words, **common)
    outline(figure, boxes, region, colour=REGION)
    figure.update_layout(selectionrevision=str((taken(), selected, *region)))
    title = f"{cards.TITLES[lens]} at layer {reading.layer}: each visual token's nearest words"
    return Exhibit("picture", title, figure, lambda: rows_of(reading), facts)


st.markdown("### LatentLens")
st.caption("Which words is a visual token nearest to?")
the_reader = sidebar.open_reader(sidebar.draw())
the_index = readings.choose_index(the_reader)
explore(the_reader, the_index)
with st.expander("How to read this", icon=":material/help:"):
    st.markdown(HELP.format(recall=readings.recall(the_index)))
answers.draw(the_reader)
