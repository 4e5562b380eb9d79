"""SEG maps: what a <SEG> token, a word or a patch is similar to in the picture; as a map, as points and as a mask."""

from __future__ import annotations

from ui import navigation

navigation.enter()

from dataclasses import replace

import streamlit as st

from lens.backend.encoding import visual_grid
from lens.backend.selfcheck import PATCHES
from lens.errors import LensError
from ui import (
    addresses,
    answers,
    export,
    mapchoice,
    maps,
    mapspecific,
    mapstate,
    mapviews,
    setup,
    sidebar,
    state,
)
from ui.export import Exhibit
from ui.maps import Question, Shown
from ui.mapsections import SECTIONS
from ui.mapviews import Looks
from ui.sections import one_section
from ui.work import explorer, slot

HELP = """**What you see.** One state of the model, the *query*, is compared with the state of every visual token at the same
layer: bright patches are the most similar. Models with a <SEG> token are trained so that the similarity of that token with
the patches outlines what they were asked for ([READ](https://arxiv.org/abs/2412.17741)); for any other token it is what
the language model happens to keep alike. *Points* are READ's prompts for a segmenter, a *mask* is what lies above a
threshold.

**How far to trust it.** Every map has a brightest patch, and min-max stretches noise as well as signal. The line under the
map compares it with the maps of control words, which take the word's place in the text: where one of them is nearly the
same (r of .9 or more over the patches), the map isn't about the word; below .5 it is, as far as these words tell. The scale
*difference* shows the map's z-scores minus the mean of theirs. Look at the controls and baselines below too; score it
against a mask. What the encoder's crop left out is hatched: no map can say anything there."""


SCORED = "how well each layer's map finds your mask"
PEAKS = "how far the highest patch lies above the mean, in standard deviations; above each point, which patch"


@explorer
@addresses.attended
def explore(question: Question) -> None:
    """All that follows a click or a slider. No block of the model runs in here, but for a typed word."""
    kind, rule = mapchoice.query(question)
    layer, similarity, scale = mapchoice.reading(question.asked)
    grid = visual_grid(question.asked.token_map)
    left, right = st.columns([6, 5], gap="medium")
    with right:
        has_head = maps.head_reads(question, kind)
        looks = mapchoice.looks(has_head)
        points = mapchoice.points(grid.rows)
        threshold = mapchoice.threshold(has_head)
    addresses.write()
    if kind == "word" and not mapstate.word():
        left.info("Type the name of a thing, such as cat.")
        return
    place = left.container()
    try:
        query = maps.the_query(question, kind, rule)
        found = maps.the_map(question, query, similarity)
        with left, slot("specific"):
            told = mapspecific.told(question, query, found, layer, asked_for=scale == "difference")
        found, scale = mapspecific.in_scale(found, scale, told)
        wanted = mapstate.mask(question.reader)
        reading = maps.read(question, found, layer, scale=scale, rule=points, threshold=threshold, wanted=wanted)
    except LensError as error:
        with place:
            state.show_error(error)
        return
    reading = replace(reading, specific=told.specific if told else None)
    shown = Shown(question, query, reading, points, threshold, maps.asked_word(question, query))
    with place:
        exhibits = draw_map(shown, looks, state.patch(grid.rows, grid.cols))
    with right:
        mapchoice.downloads(shown)
    st.markdown("**Through the layers** · " + (SCORED if wanted else PEAKS))
    exhibits.append(mapviews.curve(shown))
    export.show(exhibits[-1])
    exhibits += one_section("more", "layers", SECTIONS, shown)
    export.draw(exhibits)


def draw_map(shown: Shown, looks: Looks, patch: tuple[int, int]) -> list[Exhibit]:
    """The map over the picture, and where the answer has several <SEG> a small one of each."""
    picture = mapviews.overlay(shown, looks, patch)
    export.show(picture, on_select=take_patch)
    st.caption("Click a token above, or a patch here, to compare with it. Hatched: outside the encoder's view.")
    if shown.found.kind != "seg" or len(shown.asked.segs) == 1:
        return [picture]
    each = mapviews.each_seg(shown, maps.seg_maps(shown))
    st.markdown("**One map for each <SEG>** · click one in the answer to see it large")
    export.show(each)
    return [picture, each]


def take_patch() -> None:
    """A click on the map makes that patch the query; an emptied selection changes nothing."""
    points = st.session_state["segmap"]["selection"]["points"]
    if points and points[0].get("customdata"):
        row, col = points[0]["customdata"]
        mapstate.choose_patch(int(row), int(col))


st.markdown("### SEG maps")
st.caption("What is a token similar to in the picture?")
the_spec = sidebar.draw(maps.usual_model(), maps.usual_prompt)
the_loaded = setup.ready_model(the_spec)
if st.session_state["prompt_box"] != state.prompt(maps.usual_prompt(the_spec)):
    st.rerun()  # the model, just loaded, is asked in words of its own
setup.require(the_loaded, "What shows visual tokens in the picture", PATCHES)
try:
    with st.spinner("Asking the model, then running it once with its answer, keeping every layer"):
        the_question = maps.open_question(the_spec, the_loaded)
except LensError as error:
    state.show_error(error)
    st.stop()
mapchoice.ask(the_question)
explore(the_question)
with st.expander("How to read this", icon=":material/help:"):
    st.markdown(HELP)
answers.draw(the_question.reader)
