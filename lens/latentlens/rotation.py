"""A fixed orthogonal mixing of the dimensions, in which an index stores its vectors.

A few dimensions of a language model's states are far larger than all others (Sun et al. 2024, arXiv 2402.17762), and a
quantiser that gives each dimension its own range is coarse exactly where a query from elsewhere, such as a visual token,
differs. Mixed evenly, no dimension stands out. Cosines stay as they are. Measured on the offline model with its connector
as it starts, visual tokens of layer 8 against text states of 8 layers, share of the true five nearest that are found:
8 bits a dimension .95 plain, .97 mixed; 4 bits .36 plain, .74 mixed.

The mixing is made of random signs, random permutations and Hadamard matrices (as in Ailon & Chazelle 2009, doi
10.1137/060673096), all derived from the width by integer arithmetic alone: nothing is stored, and it is the same on every
machine. It is part of the index format: another mixing means another format version.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Float, Int

from lens.latentlens.contexts import mix

ROUNDS = 3
BLOCK = 64
"""Dimensions mixed at once. Three rounds of 64 reach every dimension from every other in widths up to 64 ** 3."""


def rotate(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Vectors in the model's basis → as an index stores them; float32."""
    hadamard, rounds = _parts(vectors.shape[1])
    out = vectors.astype(np.float32)
    for signs, order in rounds:
        out = ((out * signs)[:, order].reshape(-1, len(hadamard)) @ hadamard).reshape(out.shape)
    return out


def unrotate(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The inverse of :func:`rotate`."""
    hadamard, rounds = _parts(vectors.shape[1])
    out = vectors.astype(np.float32)
    for signs, order in reversed(rounds):
        out = (out.reshape(-1, len(hadamard)) @ hadamard.T).reshape(out.shape)[:, np.argsort(order)] * signs
    return out


@functools.lru_cache(maxsize=8)
def _parts(
    width: int,
) -> tuple[Float[np.ndarray, "b b"], tuple[tuple[Float[np.ndarray, " d"], Int[np.ndarray, " d"]], ...]]:
    """The Hadamard block (of norm 1; its size the largest power of two up to :data:`BLOCK` that divides the width), and
    per round the signs and the permutation."""
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < math.gcd(width, BLOCK):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    rounds = []
    for number in range(ROUNDS):
        noise = mix(np.arange(2 * width, dtype=np.uint64) + np.uint64((number + 1) << 32))
        signs = np.where(noise[:width] & np.uint64(1), 1, -1).astype(np.float32)
        rounds.append((signs, np.argsort(noise[width:], kind="stable")))
    return (hadamard / np.sqrt(len(hadamard))).astype(np.float32), tuple(rounds)
