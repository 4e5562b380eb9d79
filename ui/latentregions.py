"""Section of the LatentLens page: the words of a region, pooled and voted for by its patches."""

from __future__ import annotations

import math

import streamlit as st

from lens.backend.encoding import visual_grid
from lens.backend.regions import region_text
from lens.figures.regions import Ballot, vote_bars
from lens.latentlens.index import Index
from lens.latentlens.region import Pooled, Vote, read_pooled, votes
from ui import cards, export, readings, state
from ui.export import Exhibit
from ui.readings import View
from ui.state import Reader

SHOWN = 12


def region(view: View) -> list[Exhibit]:
    """What a dragged box or lasso says as a whole, and patch by patch."""
    grid = visual_grid(view.reader.encoded.token_map)
    cells = state.region(grid.rows, grid.cols)
    if not cells:
        st.info(
            "No region is chosen. Switch on “Drag a region” above the picture and drag a box over it; for a free shape, "
            "choose the lasso at the picture's upper right."
        )
        return []
    head, clear = st.columns([5, 2], vertical_alignment="center")
    head.markdown(f"**Region of {counted(len(cells))}** · layer {view.layer} of {view.reader.trace.depth}")
    clear.button(
        "Clear the region", key="clear-region", icon=":material/close:", on_click=state.choose_region,
        args=((), grid.rows, grid.cols),
    )  # fmt: skip
    pooled = _pooled(view.reader, view.index, view.layer, cells, readings.content(view.reader, view.index))
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("Read as one token")
        columns = st.columns([3 if name == "latent" else 2 for name in pooled.neighbours], gap="medium")
        for column, (name, found) in zip(columns, pooled.neighbours.items(), strict=True):
            column.html(cards.lens_column(name, found))
    with right:
        st.markdown(f"What each patch is nearest to · {cards.TITLES[view.lens]}")
        exhibit = votes_exhibit(view, cells)
        export.show(exhibit)
    outside = "" if math.isnan(pooled.outside) else f", the other patches of {pooled.outside:.2f}"
    st.caption(
        f"Read as one token: the mean direction of its patches. They have a mean cosine of {pooled.coherence:.2f} with "
        f"it{outside}; where these are alike, the region is no unit of its own. A word whose ring lies as far out as its "
        "bar wins everywhere in this picture and says nothing about the region. Neighbouring patches resemble each other, "
        "so that ten equal votes are fewer than ten witnesses."
    )
    return [exhibit]


def votes_exhibit(view: View, cells: tuple[tuple[int, int], ...]) -> Exhibit:
    """The votes as bars."""
    whole = readings.whole_picture(view.reader, view.index, view.layer, view.lens)
    found = votes(whole, view.lens, cells)
    ballots = [Ballot(vote.word, len(vote.cells), vote.share, vote.elsewhere) for vote in found]
    grid = visual_grid(view.reader.encoded.token_map)
    facts = {
        **export.provenance(view.reader, view.index, view.layer, cards.TITLES[view.lens]),
        "region": region_text(cells, (grid.rows, grid.cols)),
    }
    title = f"Best words of a region of {counted(len(cells))}"
    return Exhibit("votes", title, vote_bars(ballots, longest=SHOWN), lambda: [_row(vote) for vote in found], facts)


def counted(patches: int) -> str:
    """How many patches, in words."""
    return f"{patches} patch{'es' * (patches != 1)}"


def _row(vote: Vote) -> dict[str, object]:
    return {
        "word": vote.word, "votes": len(vote.cells), "share": vote.share, "share elsewhere": vote.elsewhere,
        "mean score": vote.score, "patches": " ".join(f"{row},{col}" for row, col in vote.cells),
    }  # fmt: skip


@st.cache_resource(max_entries=64, show_spinner=False)
def _pooled(
    _reader: Reader, _index: Index | None, layer: int, cells: tuple[tuple[int, int], ...], key: tuple[str, str]
) -> Pooled:
    return read_pooled(
        _reader.loaded, _reader.trace, _index, layer, cells, readings.lenses(_index, _reader), readings.K
    )
