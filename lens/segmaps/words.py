"""Words of a query: the vocabulary words that its states are near, at every layer (what <SEG> would say, and which
embedding it points along; there is always a nearest word), and the word of a text that a map may start from."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from lens.backend.loading import LoadedModel
from lens.backend.readouts import Words, embedding_lens, logit_lens
from lens.segmaps.maps import Query

LENSES = ("logit", "embedding")
BEFORE = "a an the this that these those there here it its he she they we i you is are was no one some two"
"""Words that a description begins with before it names anything."""
AFTER = (
    "of in on at with from for to by near under over above below behind beside between into onto inside outside through and "
    "or but that which who whose where while as is are was were has have had be being can it its"
)
"""Words that end the first noun phrase."""
ABOUT = "picture photo photograph image close-up view drawing group pair piece kind type part"
"""Words that, with "of", only lead to what is named."""


def query_words(loaded: LoadedModel, query: Query, k: int = 5) -> dict[str, dict[int, Words]]:
    """By lens of :data:`LENSES` and layer, the ``k`` nearest words of the query's one state there."""
    layers = sorted(query.states)
    near = embedding_lens(loaded, torch.stack([query.states[layer] for layer in layers]), k)
    return {
        "logit": {layer: logit_lens(loaded, query.states[layer][None], layer, k) for layer in layers},
        "embedding": {
            layer: Words(near.ids[[i]], near.scores[[i]], (near.tokens[i],)) for i, layer in enumerate(layers)
        },
    }


def named_token(texts: Sequence[str]) -> int | None:
    """The index of the token that ends the first noun phrase of a text, ``None`` for a text without letters.

    A rule of thumb for English: opening words (:data:`BEFORE`, "a picture of") are passed over, and the phrase ends before a
    mark, a word of :data:`AFTER` or a later word in "-ing": "A banana of that family" gives "banana". ``texts``: its tokens.
    """
    text = "".join(texts)
    before, after, about = (frozenset(words.split()) for words in (BEFORE, AFTER, ABOUT))
    end, head = None, ""
    for word in re.finditer(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text):
        plain = word[0].lower()
        if end is None:
            end, head = (word.end(), plain) if plain not in before else (None, "")
        elif plain == "of" and head in about:
            end = None
        elif plain in after or plain.endswith("ing") or text[end : word.start()].strip():
            break
        else:
            end, head = word.end(), plain
    letters = [at for at, char in enumerate(text) if char.isalpha()]
    if not letters:
        return None
    last = (end or letters[-1] + 1) - 1
    ends = 0
    for index, token in enumerate(texts):
        ends += len(token)
        if last < ends:
            return index
    return None
