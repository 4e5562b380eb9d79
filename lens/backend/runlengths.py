"""COCO's compressed run lengths (``rleFrString`` and ``rleToString`` of cocoapi's maskApi.c).

Five bits a character from 48 on; the sixth says that more follow; the last one's fifth is the sign. From the fourth number
on, differences to the last but one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_LONGEST = 12
"""Characters of a number at most: 60 bits."""


def decode_counts(text: str) -> Int[np.ndarray, " n"]:
    """The run lengths in a text; ValueError for what is none."""
    bits = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    if ((bits < 0) | (bits > 63)).any():
        raise ValueError("a character that is no part of compressed run lengths")
    if not len(bits):
        return bits
    last = np.flatnonzero(bits < 32)
    if not len(last) or last[-1] != len(bits) - 1:
        raise ValueError("compressed run lengths end within a number")
    first = np.append(0, last[:-1] + 1)
    lengths = last - first + 1
    if lengths.max() > _LONGEST:
        raise ValueError("a run length of more than 60 bits")
    shifts = 5 * (np.arange(len(bits)) - np.repeat(first, lengths))
    values = np.add.reduceat((bits & 31) << shifts, first)
    values -= np.where(bits[last] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def encode_counts(counts: Sequence[int]) -> str:
    """The inverse of :func:`decode_counts`."""
    text = []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(bits + (32 if more else 0) + 48))
    return "".join(text)
