"""The sections of the page of function tokens that change a run: steering, and ablation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens.backend.encoding import Encoded
from lens.errors import LensError
from lens.functiontokens import steering
from lens.functiontokens.ablation import Means
from lens.functiontokens.prompt import PromptReading
from lens.functiontokens.search import Added
from ui import addresses, export, state, tokenresults, tokens, tokenstate, tokenviews
from ui.export import Exhibit
from ui.tokencards import visible
from ui.tokens import Setting, Sought
from ui.tokensections import read, write_text
from ui.tokenstrip import Piece, strip
from ui.work import offered

TESTS = {"push": "Push features", "scan": "Layer scan", "smallest": "Smallest number of features"}
MEANS: dict[Means, str] = {"own": "its own group", "all": "all tokens"}
HOW = {"add": "add", "out": "take out"}
PLAIN = "What is the capital of France?\nWho wrote Hamlet?\nName a large animal."
MOST_PROMPTS = 8
ADDED: dict[Added, str] = {
    "state": "its state, as in the paper",
    "difference": "what sets it apart from the prompts below",
}
EXAMPLES: tuple[tuple[str, str, str], ...] = (
    ("Russia (the paper's)", tokens.DEFAULT_TEXT, "Russia, Russian, Moscow"),
    ("A list", "Give a numbered list of three fruits.", "1."),
    ("Python", "Write a Python function that adds two numbers.", "python, def"),
)
"""Name, text that asks for a trait, and words that show it."""
STRENGTHS = {"sae": (-3.0, 3.0, 1.0, 0.25), "neurons": (-20.0, 20.0, 5.0, 1.0)}
"""Least, greatest, usual and step of the strength of a push: single neurons write much less than latents."""


def steer_text(setting: Setting) -> list[Exhibit]:
    """Add features at a token of the reader's text."""
    write_text()
    found = read(setting)
    if found is None:
        return []
    try:
        steering.check_steerable(setting.features)
    except LensError as error:
        state.show_error(error)
        return []
    test = addresses.segmented("What to do", TESTS, "steer", "push", TESTS)
    return _push(setting, *found) if test == "push" else _search(setting, found[0], test)


def _push(setting: Setting, encoded: Encoded, reading: PromptReading) -> list[Exhibit]:
    left, middle, right = st.columns([4, 3, 3], gap="medium", vertical_alignment="bottom")
    try:
        last = steering.last_function_token(encoded.token_map, setting.function_ids.tolist())
    except LensError:
        last = len(reading.tokens) - 1

    def named(position: int) -> str:
        token = reading.tokens[position]
        return f"{position}: {visible(token.text)} ({'last function token' if position == last else token.group})"

    position = middle.selectbox("At token", range(len(reading.tokens)), index=last, key="steer-at", format_func=named)
    chosen = _features(setting, reading, left, position)
    how = right.segmented_control("How", list(HOW), default="add", key="steer-how", format_func=HOW.get, required=True)
    if not chosen:
        st.caption("Choose at least one feature, or type its number.")
        return []
    try:
        pushes = _pushes(setting, encoded, reading, chosen, position, how)
    except LensError as error:
        state.show_error(error)
        return []
    work = tokens.steer_work(setting, encoded, pushes, position)
    cost = "Two answers, and 20 random directions and 20 other features of the same norm: about 45 runs."
    found = offered("steer", (setting.key, encoded.key, tuple(pushes), position), "Steer", work, cost)
    if found is None:
        return []
    st.html(tokenresults.answers(found))
    exhibits = [tokenviews.next_tokens(setting, tokenstate.text(), found)]
    one, other = st.columns(2, gap="medium")
    with one:
        st.markdown("**Next token, before and after**")
        export.show(exhibits[0])
    if found.controls:
        with other:
            st.markdown("**Would any push of this size do that?**")
            st.html(tokenresults.controls(found))
        exhibits.append(tokenviews.effect(setting, tokenstate.text(), found))
        export.show(exhibits[1])
        st.caption("Diamond: the chosen features. Dots: controls of exactly the same norm at the same token.")
    return exhibits


def _features(setting: Setting, reading: PromptReading, place: DeltaGenerator, position: int) -> list[int]:
    """The features to push: of the token, those re-activated in the text, or any number that is typed."""
    offered_ones = [fired.feature for fired in reading.tokens[position].top]
    offered_ones += [one.feature for one in reading.reactivated[:12]]
    options = list(dict.fromkeys(offered_ones))
    picked = place.multiselect(
        "Features", options, default=options[:1], key=f"steer-features-{setting.features.name}", accept_new_options=True,
        format_func=lambda f: tokenviews.name(setting, f) if isinstance(f, int) else str(f),
        placeholder="choose, or type a number",
    )  # fmt: skip
    found = []
    for one in picked:
        text = str(one).split(" ")[0]
        if text.isdecimal() and len(text) < 10 and int(text) < setting.features.size:
            found.append(int(text))
        else:
            place.caption(f"There is no feature of that number; the last one is {setting.features.size - 1:,}.")
    return list(dict.fromkeys(found))


def _pushes(
    setting: Setting, encoded: Encoded, reading: PromptReading, chosen: Sequence[int], position: int, how: str
) -> tuple[tuple[int, float], ...]:
    if how == "out":
        st.caption("α is minus the value that each has at this token, which takes it out.")
        return steering.suppressing(setting.loaded, encoded, setting.features, chosen, position)
    strength = st.slider(
        "α, in times the feature's largest value" + (" in the corpus" if setting.graph is not None else " in your text"),
        *STRENGTHS[setting.features.kind], key=f"steer-strength-{setting.features.kind}",
    )  # fmt: skip
    return tuple((feature, _rounded(strength * _largest(setting, reading, feature))) for feature in chosen)


def _largest(setting: Setting, reading: PromptReading, feature: int) -> float:
    """The scale of a feature; of one that never fires, that of the others."""
    if setting.graph is not None and setting.graph.largest[feature] > 0:
        return float(setting.graph.largest[feature])
    own = abs(reading.values[reading.ids == feature])
    return float(own.max() if own.size else abs(reading.values).max(initial=1.0))


def _rounded(value: float) -> float:
    """To three digits."""
    return round(value, 2 - math.floor(math.log10(abs(value)))) if value else 0.0


def _search(setting: Setting, encoded: Encoded, test: str) -> list[Exhibit]:
    st.caption(
        "The paper's way to find the features of a trait that your text asks for: what the residual stream holds at its "
        "last function token is added to prompts that ask for something else. An answer shows the trait if it holds one "
        "of the words. Texts to try:"
    )
    strip("examples", [Piece(name, on=text == tokenstate.text()) for name, text, _words in EXAMPLES], _example, "chips")
    sought = _sought()
    content = (setting.key, encoded.key, sought)
    if test == "scan":
        work = tokens.scan_work(setting, encoded, sought)
        answers = 24 * len(sought.plain)
        cost = f"Eight layers, each with two random vectors as controls: {answers} answers, a minute or more."
        scan = offered("scan", content, "Scan the layers", work, cost)
        if scan is None:
            return []
        drawn = tokenviews.scan(setting, tokenstate.text(), scan)
        export.show(drawn)
        st.html(tokenresults.scan(scan))
        return [drawn]
    work = tokens.smallest_work(setting, encoded, sought)
    cost = f"At layer {setting.features.layer}. A search by halves: about ten answers for each prompt."
    found = offered("smallest", content, "Search", work, cost)
    if found is None:
        return []
    st.html(tokenresults.smallest(found, lambda feature: tokens.gloss(setting, feature)))
    if not found.tried:
        return []
    drawn = tokenviews.smallest(setting, tokenstate.text(), found)
    export.show(drawn)
    return [drawn]


def _sought() -> Sought:
    """The controls of a search."""
    left, right = st.columns(2, gap="medium")
    added = left.segmented_control(
        "Add", list(ADDED), default="state", key="trait-added", format_func=ADDED.get, required=True,
        help="Most of a state is the same after any prompt. The difference from the mean of the prompts below leaves that "
        "out (contrastive activation addition).",
    )  # fmt: skip
    alpha = left.slider("α, how many times", 0.5, 8.0, 2.0, 0.5, key="trait-alpha")
    st.session_state.setdefault("trait-words", EXAMPLES[0][2])  # no default besides: an example chosen sets it, too
    words = left.text_input("Words that show the trait, between commas", key="trait-words")
    plain = right.text_area("Prompts without the trait, one a line", PLAIN, key="plain", height=150)
    prompts = [line.strip() for line in plain.splitlines() if line.strip()][:MOST_PROMPTS]
    listed = [one.strip() for one in words.split(",") if one.strip()]
    return Sought(tuple(prompts), tuple(listed), added, alpha)


def _example(number: int) -> None:
    _name, text, words = EXAMPLES[number]
    tokenstate.choose_text(text)
    st.session_state["text_box"], st.session_state["trait-words"] = text, words


def ablate_text(setting: Setting) -> list[Exhibit]:
    """Mean-ablate function positions against as many content positions."""
    write_text()
    found = read(setting)
    if found is None:
        return []
    depth = setting.loaded.anatomy.depth
    place, choice = st.columns([4, 3], gap="medium", vertical_alignment="bottom")
    layer = place.slider("Layer", 0, depth - 1, min(setting.features.layer, depth - 1), key="ablate-layer")
    means = choice.segmented_control(
        "A state is replaced by the mean of", list(MEANS), default="own", key="ablate-means", format_func=MEANS.get,
        required=True, help="The mean of all tokens lies nearer to content tokens, the greater part, and so makes them the "
        "cheaper ones to ablate.",
    )  # fmt: skip
    left, right = st.columns(2, gap="medium")
    results = []
    with left:
        content = (setting.key, found[0].key, layer, means)
        own = offered(
            "ablate",
            content,
            "Ablate in your text",
            tokens.ablation_work(setting, found[0], layer, means),
            "About 40 runs.",
        )
        results += [own] if own else []
    if setting.graph is not None:
        with right:
            work = tokens.corpus_ablation_work(setting, layer, means)
            cost = f"On {tokens.ABLATED_TEXTS} of the sentences that the graph keeps: about {8 * tokens.ABLATED_TEXTS} runs."
            corpus = offered("ablate-corpus", (setting.key, layer, means), "Ablate in the corpus", work, cost)
            results += [corpus] if corpus else []
    for one in results:
        st.text(one.verdict)
    if not results:
        return []
    drawn = tokenviews.ablation(setting, tokenstate.text(), results)
    export.show(drawn)
    st.caption("Diamonds: mean with 95 % interval. Loss is compared at tokens that neither run ablates.")
    return [drawn]
