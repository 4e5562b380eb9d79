"""States → vocabulary words: logit lens and embedding lens; directions → the words that they promote.

The logit lens computes in the model's dtype, as the model's own head does, the embedding lens in float32. States or
vocabulary are taken in chunks, so that memory stays bounded for any number of states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend.loading import LoadedModel
from lens.backend.running import unhooked
from lens.backend.words import token_text
from lens.errors import StatesUnusable

CHUNK = 1024
"""States unembedded at once: 1,024 x 49,152 logits are 200 MB in float32."""

VOCABULARY_CHUNK = 16384
"""Embeddings compared at once: 16,384 x 4,096 are 268 MB in float32."""


@dataclass(frozen=True, eq=False)
class Words:
    """The k best vocabulary entries of each of n states, best first.

    Attributes:
        ids: token ids.
        scores: raw logits (logit lens) or cosines (embedding lens).
        tokens: each entry as text, leading space kept.
    """

    ids: Int[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]
    tokens: tuple[tuple[str, ...], ...]


def check_states(states: Float[Tensor, "n d"] | Float[np.ndarray, "n d"], zeros: bool = True) -> None:
    """Refuse NaN and infinities, and with ``zeros`` also zero vectors, for which a cosine is undefined."""
    tensor = torch.as_tensor(states)
    bad = ~torch.isfinite(tensor).all(-1)
    if zeros:
        bad |= tensor.abs().amax(-1) == 0
    if bad.any():
        raise StatesUnusable(
            f"{int(bad.sum())} of {len(tensor)} states hold NaN, infinities or only zeros, so that nothing is near them; "
            "choose another layer or another dtype for the model."
        )


def logit_lens(loaded: LoadedModel, states: Float[Tensor, "n d"], layer: int, k: int = 5) -> Words:
    """Final norm, then unembedding; scores are raw logits (nostalgebraist 2020).

    States of layer N carry the final norm already (the convention of :mod:`lens.backend.anatomy`): it is not applied a
    second time.
    """
    anatomy = loaded.anatomy
    anatomy.check_layer(layer)
    check_states(states, zeros=False)

    def logits(chunk: Tensor) -> Tensor:
        normed = chunk if layer == anatomy.depth else unhooked(loaded, anatomy.final_norm, chunk)
        return unhooked(loaded, anatomy.unembedding, normed).float()

    with torch.inference_mode():
        tops = [logits(chunk.to(loaded.device, loaded.dtype)).topk(k) for chunk in states.split(CHUNK)]
    return _words(loaded, [(top.values, top.indices) for top in tops])


def promoted_words(loaded: LoadedModel, directions: Float[Tensor, "n d"], layer: int, k: int = 5) -> Words:
    """The words whose logits a *direction* raises most, by itself: the logit lens for what is added to a state.

    Two things differ from :func:`logit_lens`. What the final norm and the unembedding make of nothing (their biases) is
    taken off. And the directions' part along the mean row of the unembedding is taken out: rarely trained words share that
    row (of the 49,152 of SmolLM2-135M, 34,000 have a cosine above 0.5 with " strugg") and would head every list. For an RMS
    norm the words of the opposite direction are those that are lowered most.
    """
    anatomy = loaded.anatomy
    anatomy.check_layer(layer)
    check_states(directions)
    weight: Any = anatomy.unembedding.weight

    def unembedded(chunk: Tensor) -> Tensor:
        return unhooked(loaded, anatomy.unembedding, chunk.to(loaded.dtype))

    with torch.inference_mode():
        states = directions.to(loaded.device, loaded.dtype)
        if layer < anatomy.depth:
            zeros = torch.zeros_like(states)
            states = unhooked(loaded, anatomy.final_norm, states) - unhooked(loaded, anatomy.final_norm, zeros)
        common = torch.nn.functional.normalize(weight.mean(0, dtype=torch.float32), dim=0)
        states = states.float() - (states.float() @ common)[:, None] * common
        nothing = unembedded(torch.zeros_like(states[:1]))
        tops = [(unembedded(chunk) - nothing).float().topk(k) for chunk in states.split(CHUNK)]
    return _words(loaded, [(top.values, top.indices) for top in tops])


def embedding_lens(loaded: LoadedModel, states: Float[Tensor, "n d"], k: int = 5) -> Words:
    """Cosine with the rows of the input-embedding matrix: no centring, no norm layer, not the unembedding.

    Vocabulary entries whose embedding is zero (padding rows) are never neighbours.
    """
    check_states(states)
    weight = loaded.anatomy.embeddings.weight
    with torch.inference_mode():
        query = states.to(weight.device).float()
        query = query / query.abs().amax(dim=-1, keepdim=True)  # squares of very small or large states leave float32
        query = torch.nn.functional.normalize(query, dim=-1)
        values = torch.full((len(query), 0), -torch.inf, device=weight.device)
        ids = torch.zeros((len(query), 0), dtype=torch.long, device=weight.device)
        for start in range(0, len(weight), VOCABULARY_CHUNK):
            rows = weight[start : start + VOCABULARY_CHUNK].float()
            norms = rows.norm(dim=-1)
            cosines = (query @ rows.T / norms.clamp_min(1e-12)).masked_fill(norms == 0, -torch.inf)
            top = cosines.topk(min(k, len(rows)))
            values, ids = torch.cat([values, top.values], 1), torch.cat([ids, top.indices + start], 1)
            best = values.topk(min(k, values.shape[1]))
            values, ids = best.values, ids.gather(1, best.indices)
    return _words(loaded, [(values, ids)])


def _words(loaded: LoadedModel, tops: Sequence[tuple[Tensor, Tensor]]) -> Words:
    scores = torch.cat([values for values, _ids in tops]).cpu().numpy()
    ids = torch.cat([ids for _values, ids in tops]).cpu().numpy()
    text = {int(i): token_text(loaded.tokenizer, int(i)) for i in np.unique(ids)}
    return Words(ids, scores, tuple(tuple(text[int(i)] for i in row) for row in ids))
