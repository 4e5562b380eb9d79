"""Masks as they are kept while nobody looks at them: a bit a pixel, compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from lens.backend.maskfiles import Mask


@dataclass(frozen=True)
class PackedMask:
    """A mask of ``shape`` (height, width); of a drawn one some kilobytes, of noise a quarter of a byte a pixel."""

    shape: tuple[int, int]
    inside: bytes
    ignored: bytes

    @property
    def nbytes(self) -> int:
        return len(self.inside) + len(self.ignored)

    @property
    def mask(self) -> Mask:
        """The mask itself, unpacked anew."""
        return Mask(_unpacked(self.inside, self.shape), _unpacked(self.ignored, self.shape))


def pack(mask: Mask) -> PackedMask:
    """The mask in little room."""
    height, width = mask.inside.shape
    return PackedMask((height, width), _packed(mask.inside), _packed(mask.ignored))


def _packed(pixels: Bool[np.ndarray, "h w"]) -> bytes:
    return zlib.compress(np.packbits(pixels).tobytes(), 1)


def _unpacked(data: bytes, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    bits = np.frombuffer(zlib.decompress(data), dtype=np.uint8)
    return np.unpackbits(bits, count=shape[0] * shape[1]).astype(bool).reshape(shape)
