"""Training pictures drawn in batches where the training runs: the photographs lie there as one array of pixels.

Crops are read bilinearly, at pixel centres, from the photograph or, where it is shrunk by more than :data:`COARSE`, from a
copy of half its size, so that no picture is drawn one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from lens.demo.convert import IMAGE_SIZE
from lens.demo.photos import opened, scaled
from lens.demo.pictures import MOST, Plan

COARSE = 1.5
"""Pixels of a photograph to one of the picture from which on the half-size copy is read."""


def carry(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """An array on the device; copying to a GPU doesn't wait for what is still running there."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Parts of some pictures: which photograph, whether mirrored, what of it and where to."""

    photo: Int[Tensor, "n 4"]
    flip: Bool[Tensor, "n 4"]
    source: Float[Tensor, "n 4 4"]
    box: Float[Tensor, "n 4 4"]


class Canvas:
    """All photographs, and half-size copies of them, as one flat array of pixels on the device.

    Attributes:
        sizes: (width, height) of the photographs, [photos, 2].
    """

    def __init__(self, files: Sequence[Path], device: torch.device) -> None:
        self.device = device
        self.sizes = np.array([_size(file) for file in files])
        sizes = np.concatenate((self.sizes, np.maximum(self.sizes // 2, 1)))
        starts = np.concatenate(([0], np.cumsum(sizes.prod(1))))
        flat = np.empty((starts[-1], 3), np.uint8)
        for number, file in enumerate(files):
            photo = opened(file)
            half = number + len(files)
            small = photo.resize(tuple(sizes[half]), Image.Resampling.BOX)
            for image, at in ((photo, number), (small, half)):
                flat[starts[at] : starts[at + 1]] = np.asarray(image).reshape(-1, 3)
        self._flat = torch.from_numpy(flat).to(device)
        self._sizes = torch.from_numpy(sizes).to(device)
        self._starts = torch.from_numpy(starts[:-1]).to(device)
        self._centres = torch.arange(IMAGE_SIZE, device=device) + 0.5

    @torch.no_grad()
    def draw(self, plan: Plan, chunk: int) -> Iterator[Float[Tensor, "chunk 3 384 384"]]:
        """The pictures of ``plan`` as the tower takes them, ``chunk`` at a time, float32 in channels-last order."""
        whole = {name: carry(getattr(plan, name), self.device, torch.float32) for name in ("source", "box")}
        photo, flip = carry(plan.photo, self.device, torch.long), carry(plan.flip, self.device, torch.bool)
        light, paint = (carry(each, self.device, torch.float32) for each in (plan.light, plan.paint))
        shape = carry(plan.shape, self.device, torch.long)
        for first in range(0, len(plan), chunk):
            part = slice(first, first + chunk)
            parts = _Parts(photo[part], flip[part], whole["source"][part], whole["box"][part])
            image = relit(self._read(parts), light[part])
            image = self._painted(image, shape[part], paint[part])
            yield scaled(image.round().clamp(0, 255)).permute(0, 3, 1, 2)

    def _read(self, parts: _Parts) -> Float[Tensor, "n 384 384 3"]:
        """Every pixel of every picture from the part that lies on top there."""
        wide = (parts.box[..., 2] - parts.box[..., 0]).clamp_min(1)
        coarse = parts.source[..., 2] > COARSE * wide
        copy = parts.photo + coarse * len(self.sizes)
        source = torch.where(coarse[..., None], parts.source / 2, parts.source)
        x0, x1, right = self._taps(parts, source, copy, 0)
        y0, y1, below = self._taps(parts, source, copy, 1)
        width, start = self._sizes[copy][..., :1], self._starts[copy][..., None]
        owner = self._owner(parts.box)
        x0, x1, right = (_spread(each[:, :, None, :], owner) for each in (x0, x1, right))
        r0, r1, below = (_spread(each[..., None], owner) for each in (start + y0 * width, start + y1 * width, below))
        rows = [
            torch.lerp(self._flat[row + x0].float(), self._flat[row + x1].float(), right[..., None]) for row in (r0, r1)
        ]
        return torch.lerp(rows[0], rows[1], below[..., None])

    def _taps(self, parts: _Parts, source: Tensor, copy: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each column (axis 0) or row of each part: the two columns or rows of the photograph that are mixed, and the
        share of the second."""
        box = parts.box[..., axis : axis + 3 : 2]
        share = (self._centres - box[..., :1]) / (box[..., 1:] - box[..., :1]).clamp_min(1)
        if axis == 0:
            share = torch.where(parts.flip[..., None], 1 - share, share)
        last = self._sizes[copy][..., axis, None] - 1
        at = source[..., axis, None] + share.clamp(0, 1) * source[..., axis + 2, None] - 0.5
        at = torch.minimum(at.clamp_min(0), last.float())
        low = at.long()
        return low, torch.minimum(low + 1, last), at - low

    def _owner(self, box: Float[Tensor, "n 4 4"]) -> Int[Tensor, "n 1 384 384"]:
        """Which part lies on top at each pixel."""
        owner = torch.zeros(len(box), IMAGE_SIZE, IMAGE_SIZE, dtype=torch.long, device=self.device)
        for part in range(1, MOST):
            across, down = (
                (self._centres >= box[:, part, axis, None]) & (self._centres < box[:, part, axis + 2, None])
                for axis in (0, 1)
            )
            owner = torch.where(down[:, :, None] & across[:, None, :], part, owner)
        return owner[:, None]

    def _painted(self, image: Tensor, shape: Int[Tensor, " n"], paint: Float[Tensor, "n 6"]) -> Tensor:
        """The pictures with their shapes; a triangle stands on its base."""
        x, y, radius = (paint[:, i, None, None] for i in range(3))
        across, down = self._centres[None, None, :] - x, self._centres[None, :, None] - y
        square = (across.abs() < radius) & (down.abs() < radius)
        circle = across**2 + down**2 < radius**2
        triangle = (down.abs() < radius) & (across.abs() < (down + radius) / 2)
        inside = torch.zeros_like(square)
        for number, area in enumerate((square, circle, triangle), 1):  # as pictures.SHAPES
            inside |= (shape[:, None, None] == number) & area
        return torch.where(inside[..., None], paint[:, None, None, 3:], image)


def relit(image: Float[Tensor, "n h w 3"], light: Float[Tensor, "n 3"]) -> Float[Tensor, "n h w 3"]:
    """Pictures in grey levels with their saturation, then contrast around the middle grey 127, then brightness changed."""
    bright, contrast, saturation = (light[:, i, None, None, None] for i in range(3))
    grey = image.mean(-1, keepdim=True)
    return (grey + (image - grey) * saturation - 127) * contrast + 127 + bright


def _spread(values: Tensor, owner: Int[Tensor, "n 1 384 384"]) -> Tensor:
    """A value by part and by column or row, [n, 4, 1, 384] or [n, 4, 384, 1], at every pixel from the part on top there."""
    return values.expand(-1, -1, IMAGE_SIZE, IMAGE_SIZE).gather(1, owner)[:, 0]


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size
