"""A typed word or phrase, read by the language model alone: the states of its tokens, without any picture."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from lens.backend.batches import pad
from lens.backend.loading import LoadedModel
from lens.backend.tracing import text_states
from lens.errors import QueryMissing

CARRIER = "This is a picture of a"
"""What a typed word stands behind when it is read by itself: the first positions of a text hold sinks, not words."""
LONGEST = 64
"""Most tokens of carrier and word together."""
MAX_CHARS = 32 * LONGEST
"""Longest word that is looked at, in characters."""


def typed_states(
    loaded: LoadedModel, words: Sequence[str], layers: Sequence[int]
) -> list[dict[int, Float[Tensor, "tokens d"]]]:
    """For each word, at each of ``layers``, the states of its own tokens behind :data:`CARRIER`; on the CPU, float32. One
    short pass of text.

    Raises:
        QueryMissing: a word of no tokens or too many.
    """
    tokenizer = loaded.tokenizer
    before = tokenizer(CARRIER)["input_ids"]
    # A tokenizer may end its texts with a token of its own.
    before = before[:-1] if before[-1] in tokenizer.all_special_ids and len(before) > 1 else before
    each = []
    for word in words:
        readable = bool(word.strip()) and len(word) <= MAX_CHARS
        ids = tokenizer(" " + word.strip(), add_special_tokens=False)["input_ids"] if readable else []
        if not ids or len(before) + len(ids) > min(LONGEST, loaded.anatomy.context):
            raise QueryMissing(
                f"{word[:60]!r} is no word of one to some tokens; type the name of a thing, such as cat."
            )
        each.append([*before, *ids])
    tokens, mask = pad(each)
    found = text_states(loaded, tokens, mask, layers)
    return [
        {layer: found[layer][row, len(before) : len(ids)].float().cpu() for layer in layers}
        for row, ids in enumerate(each)
    ]
