"""The probe: the vocabulary entries that a state is nearest to by cosine, special tokens left out.

It is the embedding lens of :mod:`lens.backend.readouts` (input embeddings, no centring, no norm layer) over the entries
that are words or parts of words. Left out are special tokens and rows of the matrix that no token has: they were
hardly or never trained, so they lie together near the mean embedding, where they would win many a state and say nothing.
Centring the embeddings would move them away too, but it is another probe than the published one, so it isn't done.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend.loading import LoadedModel
from lens.backend.readouts import Words, embedding_lens


def left_out(loaded: LoadedModel) -> Int[np.ndarray, " ids"]:
    """Ids that are nobody's word: special tokens, and rows beyond the tokenizer's vocabulary."""
    size, known = loaded.anatomy.vocab_size, len(loaded.tokenizer)
    special = {i for i in loaded.tokenizer.all_special_ids if i < size} | {
        i for i, token in loaded.tokenizer.added_tokens_decoder.items() if token.special and i < size
    }
    return np.array(sorted(special | set(range(known, size))), dtype=np.int64)


def probe(loaded: LoadedModel, states: Float[Tensor, "n d"], k: int = 5) -> Words:
    """The ``k`` best entries of each state, best first; scores are cosines, unchanged when a state is scaled.

    Raises:
        StatesUnusable: NaN, infinities or zero vectors.
    """
    out = left_out(loaded)
    k = min(k, loaded.anatomy.vocab_size - len(out))
    words = embedding_lens(loaded, states, min(k + len(out), loaded.anatomy.vocab_size))
    # Among the k + |out| best at least k are in; a stable sort brings them to the front in their order.
    order = np.argsort(np.isin(words.ids, out), axis=1, kind="stable")[:, :k]
    rows = np.arange(len(order))[:, None]
    tokens = tuple(tuple(row[j] for j in kept) for row, kept in zip(words.tokens, order, strict=True))
    return Words(words.ids[rows, order], words.scores[rows, order], tokens)


def anchor_cosines(
    loaded: LoadedModel, states: Float[Tensor, "n d"], ids: Sequence[int]
) -> Float[np.ndarray, "n anchors"]:
    """Cosine of each state with the embeddings of ``ids``."""
    rows = loaded.anatomy.embeddings.weight[list(ids)].float().cpu()
    unit = torch.nn.functional.normalize
    return (unit_rows(states) @ unit(rows, dim=-1).T).numpy()


def unit_rows(states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """States at length one, in float32, on the CPU; squares of very large or small states don't leave the format."""
    states = states.float().cpu()
    return torch.nn.functional.normalize(states / states.abs().amax(-1, keepdim=True), dim=-1)
