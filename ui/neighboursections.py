"""The lower part of the LatentLens page: one section at a time, so that nobody pays for what isn't in view.

A section draws itself from a :class:`ui.readings.View` and gives the figures that can be exported. What runs many forwards
stands behind a button (:mod:`ui.work`).
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from lens.figures.latentlens import Profile, layer_profile
from lens.latentlens.reading import SCORES, score
from ui import cards, export, latentablation, latentalignment, latentplane, latentregions, readings
from ui.export import Exhibit
from ui.readings import UNITS, View


def through_layers(view: View) -> list[Exhibit]:
    """One patch's best word at every layer."""
    st.markdown(f"**Patch {view.patch[0]}, {view.patch[1]} through the layers**")
    drawn = layers_exhibit(view)
    export.show(drawn)
    return [drawn]


def layers_exhibit(view: View) -> Exhibit:
    """One patch's best word at every layer, a row a lens."""
    patch = view.patch
    best = readings.through_layers(view.reader, view.index, patch).best
    facts = {
        **export.provenance(view.reader, view.index, "all", "all"),
        "patch (row, column)": f"{patch[0]}, {patch[1]}",
    }
    profiles = [
        Profile(
            cards.TITLES[lens],
            tuple(range(len(entries))),
            tuple(score(entry) for entry in entries),
            tuple(entry.shown for entry in entries),
            UNITS[lens],
        )
        for lens, entries in best.items()
    ]
    rows = [
        {"lens": lens, "layer": at, "word": entry.word, "token": entry.token, SCORES[lens]: score(entry)}
        for lens, entries in best.items()
        for at, entry in enumerate(entries)
    ]
    title = f"Patch {patch[0]}, {patch[1]}: the nearest word at every layer"
    return Exhibit("layers", title, layer_profile(profiles, selected_layer=view.layer, width=1160), lambda: rows, facts)


SECTIONS: dict[str, tuple[str, Callable[[View], list[Exhibit]]]] = {
    "layers": ("Through the layers", through_layers),
    "region": ("Region", latentregions.region),
    "alignment": ("Text layers", latentalignment.text_layers),
    "plane": ("Map", latentplane.token_map),
    "without": ("Does it matter?", latentablation.ablation),
}
"""In the order of the page."""
