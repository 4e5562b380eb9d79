"""The lower part of the page of function tokens: one section at a time, so that nobody pays for what isn't in view.

A section draws itself and gives the figures that can be exported. What runs many forwards stands behind a button.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from lens.backend.encoding import Encoded
from lens.backend.store import STORE
from lens.errors import LensError
from lens.figures.steering import GROUP_COLOURS, Paint, group_paint, value_paint
from lens.functiontokens.features import features_for
from lens.functiontokens.prompt import PromptReading
from ui import addresses, export, sidebar, state, tokencards, tokenresults, tokens, tokenstate, tokenviews
from ui.clicks import take_click
from ui.export import Exhibit
from ui.tokencards import visible
from ui.tokens import Setting
from ui.tokenstrip import Piece, strip
from ui.work import offered

VALUES = {"lift": "times chance", "rate": "share of its occurrences"}
SHARED = 12
"""Features of a picture that are offered as chips."""


def read(setting: Setting) -> tuple[Encoded, PromptReading] | None:
    """The reader's text with its reading; a message where it can't be read."""
    try:
        return tokens.reading(setting, tokenstate.text())
    except LensError as error:
        state.show_error(error)
        return None


def write_text() -> None:
    """The text area of this page."""
    if st.session_state.get("text_box") != tokenstate.text():  # an example was chosen, or the reader went back
        st.session_state["text_box"] = tokenstate.text()
    st.text_area(
        "Your text",
        key="text_box",
        height=80,
        on_change=lambda: tokenstate.choose_text(st.session_state["text_box"]),
        help="Read without a picture, in the model's chat template. Picture and prompt at the left belong to the section "
        "“On the image”.",
    )


def your_text(setting: Setting) -> list[Exhibit]:
    """What the tokens of the reader's text fire."""
    write_text()
    found = read(setting)
    if found is None:
        return []
    _encoded, reading = found
    spot = tokenstate.spot(reading)
    paint = addresses.segmented("Colour by", tokenstate.PAINTS, "paint", "group", tokenstate.PAINTS)
    chosen = _shown(setting, reading, spot)
    paints, key = _painted(setting, reading, paint, chosen)
    _draw_text(reading, paints, spot)
    st.html(key)
    token = reading.tokens[spot]
    left, right = st.columns([5, 4], gap="medium")
    with left:
        st.html(tokencards.token_line(token, reading.fires))
        glosses = [tokens.gloss(setting, fired.feature) for fired in token.top]
        st.html(tokencards.token_features(token, reading, glosses))
    with right:
        _chips(setting, [fired.feature for fired in token.top], chosen if paint == "feature" else None)
        st.html(tokencards.repetition(reading))
    st.markdown("**Features that function tokens fire again** · in the order in which they first fire")
    drawn = tokenviews.firings(setting, tokenstate.text(), reading, spot)
    export.show(drawn, on_select=_take_firing)
    return [drawn, *_losses(setting, reading)]


def _shown(setting: Setting, reading: PromptReading, spot: int) -> int | None:
    """The feature by which the text is coloured: the one chosen, else the strongest of the token in view."""
    held = tokenstate.shown(setting)
    top = reading.tokens[spot].top
    return held if held is not None else top[0].feature if top else None


def _painted(
    setting: Setting, reading: PromptReading, paint: str, feature: int | None
) -> tuple[list[Paint | None], str]:
    """The paint of each token, and the key to it."""
    if paint == "group":
        groups = [token.group for token in reading.tokens]
        return list(group_paint(groups)), tokencards.legend([name for name in GROUP_COLOURS if name in groups])
    if paint == "feature":
        if feature is None:
            return [None] * len(reading.tokens), '<p class="tl-how">No feature fires at this token.</p>'
        along = reading.along(feature).tolist()
        values = [value or None for value in along]
        named = f"feature {tokenviews.name(setting, feature)}, from"
    else:
        values = [getattr(token, paint) for token in reading.tokens]
        named = f"{paint} of the prediction of each token, nats, from"
    there = [value for value in values if value is not None]
    if not there:
        return [None] * len(values), '<p class="tl-how">It fires nowhere in this text.</p>'
    low = min(0.0, *there) if paint == "feature" else min(there)
    painted = value_paint(values, low, max(there))
    return [p if v is not None else None for p, v in zip(painted, values, strict=True)], tokencards.scale(
        named, low, max(there)
    )


def _draw_text(reading: PromptReading, paints: list[Paint | None], spot: int) -> None:
    pieces = [
        Piece(
            text=token.text if token.text.strip() and token.text.isprintable() else visible(token.text),
            title=f"{token.position}: {visible(token.text)}, {token.group}",
            ground=paint.ground if paint else "",
            ink=paint.ink if paint else "",
            on=token.position == spot,
            fade=token.group == "special",
            ends="\n" in token.text,
        )
        for token, paint in zip(reading.tokens, paints, strict=True)
    ]
    strip("tokens", pieces, tokenstate.choose_spot)


def _chips(setting: Setting, features: list[int], chosen: int | None) -> None:
    """Features to colour the text by, and to walk to."""
    if not features:
        return
    st.caption("Click a feature to colour the text by it.")

    def take(number: int) -> None:
        tokenstate.show_feature(features[number])

    strip("chips", [Piece(tokenviews.name(setting, f), on=f == chosen) for f in features], take, "chips")
    if setting.graph is not None and chosen is not None:
        st.button(
            f"Walk to feature {chosen} in the graph", key="walk-there", on_click=tokenstate.choose_node,
            args=("feature", chosen), icon=":material/hub:",
        )  # fmt: skip


def _take_firing() -> None:
    points = st.session_state["firings"]["selection"]["points"]
    if points and points[0].get("customdata"):
        position, feature = points[0]["customdata"]
        tokenstate.choose_spot(int(position))
        tokenstate.show_feature(int(feature))


def _losses(setting: Setting, reading: PromptReading) -> list[Exhibit]:
    st.markdown("**What it costs to predict, by group of the current and the next token**")
    found = [reading.losses]
    if setting.graph is not None:
        corpus = offered(
            "losses", setting.key, "Beside the corpus", tokens.losses_work(setting),
            f"Reads {tokens.LOSS_TOKENS:,} tokens of the corpus.",
        )  # fmt: skip
        found += [corpus] if corpus else []
    drawn = tokenviews.losses(setting, tokenstate.text(), found)
    export.show(drawn)
    st.caption(
        "Bars: 95 % bootstrap interval, over tokens of your text"
        + (", over sentences of the corpus. " if len(found) > 1 else ". ")
        + "Dotted: mean of all predictions. The paper finds function → content the costliest."
    )
    return [drawn]


def token_statistics(setting: Setting) -> list[Exhibit]:
    """Frequencies, and degree against frequency."""
    if setting.graph is None:
        return _needs_graph(setting)
    drawn = tokenviews.counts(setting)
    export.show(drawn, on_select=tokenstate.take_node("counts"))
    found = setting.graph.counts
    st.caption(
        f"{found.total:,} tokens of {len(found):,} kinds in {found.documents:,} sentences of {found.corpus}. Zipf slope "
        f"{found.zipf():.2f}. Another corpus: `python -m lens functiontokens stats CORPUS --model {setting.spec.name}`."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**Degree by frequency** · line: what shuffled labels give")
        degrees = tokenviews.degrees(setting)
        export.show(degrees, on_select=tokenstate.take_node("degrees"))
    with right:
        st.html(tokencards.top_tokens(found, found.is_function(setting.function_ids)))
    return [drawn, degrees]


def token_matrix(setting: Setting) -> list[Exhibit]:
    """Function tokens by features."""
    if setting.graph is None:
        return _needs_graph(setting)
    value = st.segmented_control(
        "Colour", list(VALUES), default="lift", key="matrix-value", format_func=VALUES.get, required=True
    )
    drawn = tokenviews.matrix(setting, value)
    export.show(drawn, on_select=tokenstate.take_node("matrix"))
    st.caption(
        "The most frequent function tokens by the features that tell them apart most, both ordered by likeness. Times "
        "chance: log₂ of how many times as often as with shuffled labels, drawn to 0 where both are few. Click a "
        "square at the edge to walk there, above."
    )
    return [drawn]


def on_the_image(setting: Setting) -> list[Exhibit]:
    """Features that patches share with words."""
    if setting.loaded.processor is None:
        st.info("This model takes no pictures, so it has no visual tokens; choose a vision-language model at the left.")
        return []
    reader = sidebar.open_reader(setting.spec)
    typed = st.text_input(
        "Compare the patches with the words of", key="contrast", placeholder="the model's own answer; or type a caption"
    )
    text = typed.strip() or None
    found = offered(
        "visual", (setting.key, reader.key, text), "Compare the picture with the words",
        tokens.visual_work(setting, reader, text), "One forward over the picture, and 20 controls without a forward.",
    )  # fmt: skip
    if found is None:
        return []
    if text is None:
        st.text(f"The model's own answer: {STORE.answer(reader.loaded, reader.encoded).text}")
    st.html(tokenresults.shared(found))
    rows, cols = found.positions.shape
    patch = state.patch(rows, cols)
    here = [feature for feature, _value in found.top(*patch)]
    most = [one.feature for one in found.features[:SHARED]]
    held = st.session_state.get("patch_feature")
    feature = held if held in here or held in most else (here or most or [None])[0]
    if feature is None:
        st.caption("No feature fires at any patch.")
        return []
    left, right = st.columns(2, gap="medium")
    with left:
        drawn = tokenviews.overlay(reader, setting, found, feature, patch)
        export.show(drawn, on_select=take_click("feature-patches"))
        st.caption("Click a patch to see what it fires.")
    with right:
        for title, key, numbers in (
            (f"Patch {patch[0]}, {patch[1]} fires", "patch-chips", here),
            ("Shared with words, on most patches", "shared-chips", most),
        ):
            st.markdown(f"**{title}**")
            _pick(setting, key, numbers, feature)
        st.html(tokenresults.visual_feature(found, feature))
        st.html(tokencards.said(tokens.words(setting, feature)))
    return [drawn]


def _pick(setting: Setting, key: str, numbers: list[int], chosen: int) -> None:
    def take(number: int) -> None:
        st.session_state["patch_feature"] = numbers[number]

    strip(key, [Piece(tokenviews.name(setting, f), on=f == chosen) for f in numbers], take, "chips")


def quality(setting: Setting) -> list[Exhibit]:
    """The autoencoders' quality cards."""
    specs = [spec for spec in features_for(setting.loaded) if spec.kind == "sae"]
    cards = {spec.title: found for spec in specs if (found := tokens.quality(spec))}
    if setting.basis.kind == "neurons":
        st.caption(
            f"{setting.basis.title} are in view: they are the model's own, so nothing is rebuilt and nothing lost; but a "
            f"neuron answers to many things. {setting.features.fires}"
        )
    if not cards:
        st.info(
            "There is no autoencoder with a quality card for this model. Train one with `python -m "
            "lens.functiontokens.train_sae --help`, or put one in the SAELens format into the `features` folder of the "
            "cache folder."
        )
        return []
    st.html(tokenresults.qualities(cards))
    return []


def _needs_graph(setting: Setting) -> list[Exhibit]:
    st.info("This needs a graph of these features over a corpus; see the command above.")
    return []


SECTIONS: dict[str, tuple[str, Callable[[Setting], list[Exhibit]]]] = {
    "text": ("Your text", your_text),
    "matrix": ("Matrix", token_matrix),
    "statistics": ("Token statistics", token_statistics),
    "image": ("On the image", on_the_image),
    "quality": ("How good are these features", quality),
}
"""In the order of the page, but for those of :mod:`ui.tokensteering`."""
