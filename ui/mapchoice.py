"""The controls of the SEG maps page: what is asked, what the patches are compared with, how it is scaled and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable

import streamlit as st

from lens.backend.maskfiles import mask_coco, mask_png, mask_runs
from lens.backend.visible import visible
from lens.export import file_name
from lens.segmaps.asking import PROMPT, TOKEN_RULES, Asked
from lens.segmaps.maps import SCALES, SIMILARITIES
from lens.segmaps.masks import LITTLE, QUANTILE
from lens.segmaps.points import READ_7B, PointRule
from ui import addresses, maps, mapstate, mapviews, state
from ui.maps import Question, Shown, Threshold
from ui.mapviews import PARTS, Looks
from ui.tokenstrip import Piece, strip

MASKS = {"head": "Mask head", "otsu": "Otsu", "quantile": "Highest share", "value": "Above"}
"""Where a mask comes from: the model's own decoder, or a threshold of the map."""


def ask(question: Question) -> None:
    """Which model has <SEG>; of one that has, what it is to segment, and why there is no map of <SEG> if there is none."""
    asked, name = question.asked, question.reader.spec.name
    if asked.seg is None:
        able = maps.with_seg()
        have = " and ".join(filter(None, [", ".join(able[:-1]), *able[-1:]])) or "none of this catalog yet"
        said, switch = st.columns([2, 1], vertical_alignment="center", gap="medium")
        said.caption(
            f"{name} has no <SEG> token (models that have one: {have}). Here a map starts from a token of the text, at "
            "first what the answer names, from a typed word or from a patch."
        )
        if ready := maps.with_seg_at_hand():
            thing = maps.word_at(asked, maps.default_token(asked))
            switch.button(
                f"Segment the {thing} with {ready[0]}", key="to-seg", on_click=_turn_to, args=(ready[0], thing),
                icon=":material/content_cut:", width="stretch",
            )  # fmt: skip
        return
    place, switch = st.columns([4, 5], vertical_alignment="bottom", gap="medium")
    st.session_state["thing"] = maps.segment_word(question)
    place.text_input("Segment the", key="thing", placeholder="cat", on_change=_take_thing, args=(asked.seg.prompt,))
    if not asked.segs or question.forced:
        st.session_state["forced_box"] = mapstate.forced()
        switch.toggle(
            f"Ask for the {'mask' if question.head else 'map'} anyway",
            key="forced_box",
            on_change=lambda: mapstate.force(st.session_state["forced_box"]),
            help=f"Puts “{asked.seg.answer}” into the model's mouth, so there is a {asked.seg.text} that it didn't say.",
        )
    worth = question.reader.spec.says_seg
    if not asked.segs:
        why = "Either it was not asked to segment something, or it finds that the picture doesn't show that."
        st.info(
            f"The model's answer, the second line below, holds no {asked.seg.text}, so there is no map of it. {worth or why}"
        )
        return
    put = f"“{asked.seg.answer}” was put into the model's mouth; its own answer stands in the sidebar. "
    if note := (put if question.forced else "") + worth:
        st.caption(note)


def _take_thing(prompt: str) -> None:
    if thing := st.session_state["thing"].strip():
        _ask_for(prompt, thing)


def _turn_to(model: str, thing: str) -> None:
    addresses.put(model=model)
    _ask_for(PROMPT, thing)


def _ask_for(prompt: str, thing: str) -> None:
    state.choose_prompt(prompt.replace("{}", thing))
    mapstate.follow_prompt()


def query(question: Question) -> tuple[str, str | None]:
    """What the patches are compared with: the kind of the query, and the state of the token that is read."""
    asked = question.asked
    first, second = st.columns([5, 4], vertical_alignment="bottom", gap="medium")
    st.session_state["kind_box"] = kind = mapstate.kind(asked)
    first.segmented_control(
        "Compare the patches with", mapstate.kinds(asked), key="kind_box", format_func=mapstate.KINDS.get, required=True,
        on_change=lambda: mapstate.choose_kind(st.session_state["kind_box"]),
    )  # fmt: skip
    rule = None
    if kind == "word":
        st.session_state["word_box"] = mapstate.word()
        second.text_input(
            "Word", key="word_box", placeholder="cat",
            on_change=lambda: mapstate.choose_word(st.session_state["word_box"]),
            help="Read by itself, behind “This is a picture of a” and without the picture: a short run of the text model.",
        )  # fmt: skip
    elif kind in ("seg", "token"):
        own = asked.seg.rule if kind == "seg" and asked.seg else "p"
        rule = addresses.segmented(
            "State that is read", TOKEN_RULES, f"{kind}_rule", own, place=second,
            help="p: the token's own state · p-1: the state before it, from which the model says the token. LISA and READ "
            "read p-1, Sa2VA and demo-seg p.",
        )  # fmt: skip
    _strip(question, kind)
    return kind, rule


def _strip(question: Question, kind: str) -> None:
    """Prompt and answer as tokens, each of which can become the query."""
    asked = question.asked
    spans = mapstate.spans(asked)
    positions = [position for span in spans.values() for position in span]
    on = {"seg": mapstate.seg_position(asked), "token": mapstate.token(asked, maps.default_token(asked))}.get(kind)
    own = maps.prompt_positions(question)
    known = asked.token_map
    pieces = [
        Piece(
            known.texts[at].replace("\n", "↵"), title=f"{visible(known.texts[at])}: {name}, position {at}", on=at == on,
            mark=at in asked.segs,
            fade=name == "prompt" and at not in own, ends=at == asked.start - 1,
        )
        for name, span in spans.items()
        for at in span
    ]  # fmt: skip
    strip("text-strip", pieces, lambda number: mapstate.choose_token(asked, positions[number]))
    if not asked.answer_ids:
        st.caption("The model's answer is empty: it ended at once.")


def reading(asked: Asked) -> tuple[int, str, str]:
    """Layer, similarity and scale. <SEG> is trained at the last layer and by the plain product; states of other tokens are
    compared where they share most, half way, without what all patches share."""
    depth = asked.trace.depth
    layer, similarity = (depth, "dot") if asked.seg else (depth // 2, "centred")
    slider, first, second = st.columns(3, vertical_alignment="bottom", gap="medium")
    return (
        addresses.slider(
            "Layer of query and patches", 0, depth, layer, key="layer", place=slider,
            help=f"0: embeddings and the connector's output · i: the output of block i · {depth}: after the final norm",
        ),
        addresses.segmented(
            "Similarity", SIMILARITIES, "similarity", similarity, place=first,
            help="dot: the plain product, as LISA and READ score · cosine: lengths taken out · centred: cosine after the "
            "mean patch was taken from both",
        ),
        addresses.segmented("Scale", SCALES, "scale", "min-max", place=second),
    )  # fmt: skip


def looks(has_head: bool) -> Looks:
    """What is drawn over the picture: at first the mask too, where the model has a head that makes one."""
    usual = ["smooth", "points", *(["mask"] if has_head else [])]
    parts = addresses.pills("Drawn over the picture", PARTS, "parts", usual, PARTS)
    left, right = st.columns(2, gap="medium")
    opacity = addresses.slider("Opacity", 0.0, 1.0, 0.6, 0.05, key="opacity", place=left)
    lines = addresses.slider("Contour lines", 1, 9, 4, key="lines", place=right, disabled="contours" not in parts)
    return Looks(opacity, tuple(parts), lines)


def points(rows: int) -> PointRule:
    """Which cells of a map of so many rows become points."""
    usual = READ_7B
    one, other = st.columns(2, gap="medium")
    low, high = addresses.slider(
        "Negative up to, positive from", 0.0, 1.0, (usual.negative, usual.positive), 0.05, key="bounds", place=one,
        help="Of the min-max map: cells from the upper bound are positive points, cells up to the lower one negative, those "
        "between neutral. READ takes 0.8 and 0.2, and the first 30 points: positive, then negative, then neutral.",
    )  # fmt: skip
    count = addresses.slider("Points, at most", 1, 100, usual.count, key="count", place=other)
    coarser = addresses.segmented(
        "Map made coarser for points by", (1, 2, 3, 4), "coarser", min(4, max(1, round(rows / 12))),
        help="READ makes its 24 x 24 patches 12 x 12.",
    )  # fmt: skip
    return PointRule(count, high, low, coarser)


def threshold(has_head: bool) -> Threshold:
    """Where the mask comes from."""
    names = [name for name in MASKS if name != "head" or has_head]
    rule = addresses.segmented(
        "Mask", names, "mask_rule", names[0], MASKS,
        help="Otsu: the threshold that parts the map best in two · Highest share: so much of the map · Above: a "
        "similarity of the min-max map" + (" · Mask head: the model's own decoder" if has_head else ""),
    )  # fmt: skip
    if rule == "quantile":
        share = addresses.slider("Share of the map", 0.01, 0.99, 1 - QUANTILE, 0.01, key="share")
        return rule, 1 - share
    if rule == "value":
        return rule, addresses.slider("Similarity above", 0.0, 1.0, 0.5, 0.01, key="above")
    return rule, None


def downloads(shown: Shown) -> None:
    """The mask in view as a file, in forms that TokenLens reads again."""
    st.caption(f"The mask takes {shown.share:.1%} of the picture ({shown.raster.note}).")
    if shown.threshold[0] == "head" and shown.share < LITTLE:
        found = "next to nothing" if shown.raster.cells.any() else "nothing"
        highest = f"{shown.raster.values.max():.2f}".replace("-", "−")
        st.info(
            f"The mask head finds {found} here: its highest logit is {highest}, and only what exceeds "
            f"{shown.raster.threshold:g} is inside. {shown.reader.spec.masks_well} Otsu's threshold on the map itself gives "
            f"{shown.reading.raster.share:.1%} of the picture (choose “Otsu” above)."
        )
    name, stem = shown.reader.picture.name, file_name(shown.reader.spec.name, mapviews.query_name(shown.found), "mask")
    makers: dict[str, tuple[str, str, Callable[[], bytes | str]]] = {
        "PNG": ("png", "image/png", lambda: mask_png(shown.raster.mask)),
        "COCO": ("coco.json", "application/json", lambda: json.dumps(mask_coco(shown.raster.mask, name, shown.word))),
        "RLE": ("rle.json", "application/json", lambda: json.dumps(mask_runs(shown.raster.mask))),
    }
    columns = st.columns([3, 2, 2, 2], vertical_alignment="center")
    columns[0].markdown("Save the mask")
    for column, (kind, (ending, mime, make)) in zip(columns[1:], makers.items(), strict=True):
        column.download_button(
            kind, make, f"{stem}.{ending}", mime, key=f"save-mask-{kind}", on_click="ignore", width="stretch"
        )
