"""Section of the SEG maps page: the words that the query's state is near, by the two lenses that need no corpus."""

from __future__ import annotations

from collections.abc import Hashable

import streamlit as st

from lens.backend.loading import LoadedModel
from lens.backend.readouts import Words
from lens.backend.visible import visible
from lens.figures.latentlens import Profile, layer_profile
from lens.latentlens.reading import vocabulary
from lens.segmaps.maps import Query
from lens.segmaps.words import query_words
from ui import cards, export, mapviews
from ui.export import Exhibit
from ui.maps import Shown

UNITS = {"logit": "logit", "embedding": "cosine"}


def near_words(shown: Shown) -> list[Exhibit]:
    """The nearest vocabulary words of the query at the layer in view, and the nearest at every layer."""
    found = _words(shown.reader.loaded, shown.query, shown.key)
    columns = st.columns(2, gap="medium")
    for column, (lens, by_layer) in zip(columns, found.items(), strict=True):
        column.html(cards.lens_column(lens, vocabulary(by_layer[shown.layer])[0]))
    profiles = [
        Profile(
            cards.TITLES[lens], tuple(by_layer), tuple(float(words.scores[0, 0]) for words in by_layer.values()),
            tuple(visible(words.tokens[0][0]) for words in by_layer.values()), UNITS[lens],
        )
        for lens, by_layer in found.items()
    ]  # fmt: skip
    figure = layer_profile(profiles, selected_layer=shown.layer, width=mapviews.ACROSS)
    rows: list[dict[str, object]] = [
        {"lens": lens, "layer": layer, "rank": rank, "token": token, "score": float(score)}
        for lens, by_layer in found.items()
        for layer, words in by_layer.items()
        for rank, (token, score) in enumerate(zip(words.tokens[0], words.scores[0], strict=True), 1)
    ]
    title = f"Words near {mapviews.query_name(shown.found, shown.word)} at every layer"
    drawn = Exhibit("query-words", title, figure, lambda: rows, mapviews.of_query(shown, "all"))
    st.markdown("**The nearest word at every layer**")
    export.show(drawn)
    st.caption(
        "What the state of the query would say next, and which embedding it points along. A <SEG> that carries the name of "
        "what it segments has it among these words; there is always a nearest word."
    )
    return [drawn]


@st.cache_resource(max_entries=32, show_spinner=False)
def _words(_loaded: LoadedModel, _query: Query, content: Hashable) -> dict[str, dict[int, Words]]:
    return query_words(_loaded, _query)
