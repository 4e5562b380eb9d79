"""EmbedLens: which visual tokens are sink, dead or alive, by the model's own anchors, and what they do to the answer."""

from __future__ import annotations

from ui import navigation

navigation.enter()

import streamlit as st

from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import RULES
from ui import addresses, answers, classcards, classes, classverdict, classviews, export, sidebar, state
from ui.classes import MOVABLE, Rule
from ui.classsections import SECTIONS
from ui.clicks import take_click
from ui.sections import one_section
from ui.state import Reader
from ui.work import explorer, slot

HELP = """**What you see.** At layer 0 each visual token is the connector's output. Its nearest words in the vocabulary
(cosine with the input embeddings) are looked at: a token near an *anchor* is **sink** or **dead**, any other is **alive**.
Sink anchors are words whose tokens are nearly the same in every picture; dead anchors are words, or pieces of words, that
many alike tokens of every picture are nearest to. A token that is both counts as sink. At a deeper layer, you see which
tokens still stand at the anchors.

**How far to trust it.** Anchors are found per model, from a set of pictures and by thresholds: see *Anchors and hubs*. There
is always a nearest word; the margin says by how much an anchor wins. A class is a name for where a token lies. Whether it
matters for the answer is what the *causal tests* measure; the paragraph that opens the page gives their verdict: the
tokens *matter* if pruning them costs the answer more than pruning each of 20 random sets of as many, and *carry little* if
it costs less than each."""


@explorer
@addresses.attended
def explore(reader: Reader, stored: Anchors) -> None:
    """All that follows a click or a slider."""
    rule, anchors = choose(reader, stored)
    addresses.write()
    st.html(f'<p class="tl-how">{classcards.summary(anchors)}</p>')
    found = classes.token_classes(reader, anchors, rule)
    with slot("verdict"):
        classverdict.opening((reader, anchors, rule, found))
    patch = state.patch(found.rows, found.cols)
    steps = classes.path(reader, anchors, patch, rule)
    picture = classviews.overlay(reader, anchors, rule, found, patch)
    left, right = st.columns(2, gap="medium")
    with left:
        export.show(picture, on_select=take_click("classes"))
        both = f" {found.overlap} tokens are both sink and dead; they count as sink." if found.overlap else ""
        st.caption(f"Click a patch. Pale and striped: outside the encoder's view.{both}")
    with right:
        st.markdown(f"**Patch {patch[0]}, {patch[1]}** · layer {rule.layer} of {reader.trace.depth}")
        step = steps[rule.layer]
        st.html(classcards.class_line(step, anchors) + classcards.words(step, anchors))
        exhibits = [picture]
        if anchors.found:
            st.markdown("**Every token: norm and nearness to an anchor**")
            exhibits.append(classviews.scatter(reader, anchors, rule, found, patch))
            export.show(exhibits[-1], on_select=take_click("scatter"))
    st.markdown(f"**Patch {patch[0]}, {patch[1]} through the layers**")
    path = classviews.path(reader, anchors, rule, patch, steps)
    export.show(path)
    exhibits.append(path)
    exhibits += one_section("section", "layers", SECTIONS, (reader, anchors, rule, found))
    export.draw(exhibits)


def choose(reader: Reader, stored: Anchors) -> tuple[Rule, Anchors]:
    """Layer, rule and thresholds."""
    depth = reader.trace.depth
    slider, words, least, more = st.columns([5, 3, 3, 2], vertical_alignment="bottom", gap="medium")
    rule = Rule(
        addresses.slider(
            "Layer of the visual tokens",
            0,
            depth,
            0,
            key="layer",
            place=slider,
            help=f"0: the connector's output, where the classes are defined · i: the output of block i · {depth}: after the "
            "final norm",
        ),
        addresses.segmented(
            "An anchor counts among the",
            RULES,
            "top",
            3,
            {1: "best word", 3: "best three"},
            words,
            help="Best three is the published rule; best word is stricter.",
        ),
        addresses.slider("… with a cosine of at least", 0.0, 1.0, 0.0, 0.05, key="cosine", place=least),
    )
    with more.popover("Anchors", icon=":material/tune:"):
        return rule, classes.moved(stored, move(stored))


def move(stored: Anchors) -> dict[str, float]:
    """Sliders for the thresholds by which anchors were found."""
    if not stored.candidates:
        st.caption("These anchors were published as ids without statistics, so there is no threshold to move.")
        return {}
    st.caption(f"What counts as an anchor, among {len(stored.candidates)} words found in {stored.images:,} images.")
    return {
        name: addresses.slider(title[0].upper() + title[1:], low, high, stored.thresholds[name], step, key=name)
        for name, (title, low, high, step) in MOVABLE.items()
    }


st.markdown("### EmbedLens")
st.caption("Which visual tokens look empty, and are they?")
the_reader = sidebar.open_reader(sidebar.draw())
the_anchors = classes.anchors_of(the_reader)
if the_anchors is not None:
    explore(the_reader, the_anchors)
with st.expander("How to read this", icon=":material/help:"):
    st.markdown(HELP)
answers.draw(the_reader)
