"""The vocabulary words that a query's states are near, at every layer: what <SEG> would say, and which embedding it points
along. There is always a nearest word."""

from __future__ import annotations

import torch

from lens.backend.loading import LoadedModel
from lens.backend.readouts import Words, embedding_lens, logit_lens
from lens.segmaps.maps import Query

LENSES = ("logit", "embedding")


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
