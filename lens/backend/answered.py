"""A prompt with its answer behind it, as one sequence that can be traced: the states at the answer's tokens are those that
the model had while it wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from lens.backend.encoding import Encoded, in_view, token_text
from lens.backend.loading import LoadedModel
from lens.errors import PromptUnusable


def with_answer(loaded: LoadedModel, encoded: Encoded, ids: Sequence[int]) -> Encoded:
    """The same input with the token ``ids`` of an answer behind it; its positions follow the prompt's.

    :class:`PromptUnusable` where both together don't fit into the model's context.
    """
    if not ids:
        return encoded
    known = encoded.token_map
    if len(known) + len(ids) > loaded.anatomy.context:
        raise PromptUnusable(
            f"Prompt and answer come to {len(known) + len(ids):,} tokens, but this model's context has "
            f"{loaded.anatomy.context:,}; shorten one of them."
        )
    inputs = dict(encoded.inputs)
    before = inputs["input_ids"]
    inputs["input_ids"] = torch.cat(
        [before, torch.tensor([list(ids)], dtype=before.dtype, device=before.device)], dim=1
    )
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    special = set(loaded.tokenizer.all_special_ids)
    token_map = replace(
        known,
        ids=known.ids + tuple(ids),
        kinds=known.kinds + tuple("special" if i in special else "text" for i in ids),
        texts=known.texts + tuple(token_text(loaded.tokenizer, i) for i in ids),
    )
    key = hashlib.sha256(f"{encoded.run}\0{tuple(ids)}".encode()).hexdigest()
    return in_view(replace(encoded, inputs=inputs, token_map=token_map, key=key), token_map.view)
