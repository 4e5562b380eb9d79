"""Section of the LatentLens page: which text layers the visual tokens of each layer resemble."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from lens.embedlens.folder import PictureFolder
from lens.figures import alignment as figures
from lens.latentlens.alignment import SHUFFLED, Alignment, align, align_pictures
from lens.latentlens.index import Index
from lens.progress import Report
from ui import addresses, cards, export, readings
from ui.classes import pictures
from ui.export import Exhibit
from ui.folders import ask_folder
from ui.readings import View
from ui.work import offered

SETS = {"one": "This picture", "gallery": "The gallery", "folder": "A folder"}
MANY = 100
"""Pictures of a folder that are taken."""


def text_layers(view: View) -> list[Exhibit]:
    """Visual layer x text layer of the neighbours, for the picture or for a set of pictures."""
    if view.index is None:
        st.info("This matrix needs a text index; build one with `python -m lens index build`.")
        return []
    kind = addresses.segmented("Of", SETS, "aligned", "one", SETS)
    folder = ""
    if kind == "folder":
        folder = ask_folder("Folder of images on the computer that runs TokenLens", "aligned-folder")
        if not folder:
            return []
    index, content = view.index, (readings.content(view.reader, view.index), kind, folder)
    if kind == "one":
        cost = f"A search at each of {view.reader.trace.depth + 1} layers; no run of the model."
        found = offered("alignment", content, "Search every layer", _one(view, index), cost, at_once=True)
    else:
        cost = "Runs the model once on each picture, and searches at every layer: some 10 to 30 seconds a picture."
        found = offered("alignments", content, "Search every layer of each", _many(view, index, folder), cost)
    if found is None:
        return []
    drawn = exhibit(view, index, found)
    export.show(drawn)
    st.markdown(finding(found))
    many = f" Means over {len(found.names)} pictures; whiskers: the least and the greatest." * (len(found.names) > 1)
    st.caption(
        f"Left: of the {found.k} nearest contexts of each patch, the share that each stored text layer supplies; rows sum "
        f"to 1. Middle: the same for {SHUFFLED} states a layer in which every dimension was shuffled over the patches: what "
        "these find as well needs no alignment. Right: mean cosine of the nearest context, for patches and for shuffled "
        f"states.{many} Framed: the layer in view."
    )
    return [drawn]


def finding(found: Alignment) -> str:
    """What the control says of the matrix, in words and numbers."""
    if math.isnan(found.likeness):
        return "Matrix or control is the same everywhere, so that the two can't be compared."
    numbers = (
        f"correlation {found.likeness:.2f} over all cells; the same text layer comes first at {found.same_best} of "
        f"{len(found.visual_layers)} visual layers; mean cosine of the nearest context {found.similarity.mean():.2f} for "
        f"patches, {found.shuffled_similarity.mean():.2f} for shuffled states"
    )
    if found.explained:
        return (
            f"**The control looks almost like the pattern** ({numbers}). Most of the pattern follows from the values that "
            "each dimension takes at a layer, whichever patch has them: it is weak evidence that the patches resemble that "
            "depth of the text."
        )
    return (
        f"**The control differs from the pattern** ({numbers}). Where the two agree, there is no evidence of alignment."
    )


def exhibit(view: View, index: Index, found: Alignment) -> Exhibit:
    """The matrix with its control."""
    figure = figures.alignment(
        found.mean, found.control, found.similarity, found.shuffled_similarity, found.visual_layers, found.text_layers,
        selected_layer=view.layer,
    )  # fmt: skip

    def rows() -> list[dict[str, object]]:
        table: list[dict[str, object]] = []
        for v, visual in enumerate(found.visual_layers):
            for t, text in enumerate(found.text_layers):
                low, high = found.interval(visual, text)
                row = {"visual layer": visual, "text layer": text, "share": found.mean[v, t]}
                table.append({**row, "low": low, "high": high, "share shuffled": found.control[v, t]})
        return table

    facts = {
        **export.provenance(
            view.reader, index, "all", cards.TITLES["latent"],
            None if found.names == (view.reader.picture.name,) else found.names,
        ),
        "neighbours of each patch": found.k,
    }  # fmt: skip
    return Exhibit("alignment", "Visual layer and text layer of the neighbours", figure, rows, facts)


def _one(view: View, index: Index) -> Callable[[Report], Alignment]:
    return lambda report: align(view.reader.trace, index, name=view.reader.picture.name, report=report)


def _many(view: View, index: Index, folder: str) -> Callable[[Report], Alignment]:
    def work(report: Report) -> Alignment:
        many = PictureFolder(Path(folder).expanduser(), MANY) if folder else pictures(view.reader)
        prompt = view.reader.encoded.prompt
        return align_pictures(view.reader.loaded, many, prompt, index, count=len(many), report=report)

    return work
