"""Batches of token ids, padded so that a causal model gives every sentence the states that it has alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def pad(sentences: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Token ids padded on the right whatever the tokenizer's own side, and the mask of what is real."""
    longest = max(map(len, sentences))
    ids = torch.zeros((len(sentences), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = torch.tensor(sentence)
        mask[row, : len(sentence)] = 1
    return ids, mask
