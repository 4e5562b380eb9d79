"""Training scenes on the device, a batch at a time: cut-outs sampled from a bank of pictures, pasted lowest first.

As :mod:`lens.demo.scenes`, whose scenes are for the tests, but never the same scene twice. Invariants: masks are disjoint
and hold exactly the pixels whose topmost cut-out, by half of its opacity, is that object (a photograph that is asked for as
a whole lies below all); an object is asked for where at least :data:`lens.demo.scenes.VISIBLE` of what lies inside the
picture is uncovered and it fills at least two cells of the vision grid by half.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lens.demo.convert import IMAGE_SIZE
from lens.demo.photos import opened
from lens.demo.scenes import FINE, GRID, MOST, VISIBLE, Sources
from lens.demo.seg_draw import BANK, BLURRED, ELLIPSE, ICON, NOISE, ROUNDED, STRIPES, Draw
from lens.demo.seg_outlines import Outlines
from lens.progress import Report, silent

BLUR = 12
"""Pixels over which a blurred background is averaged."""
SHRUNK = 0.85, 0.5
"""Pixels of the picture for one of the bank, where a cut-out begins to be taken from the bank at half size, and from where
on it is wholly: sampling without averaging would alias."""


class Composed(NamedTuple):
    """Pictures [b, 3, 384, 384] in 0..255, masks [b, 4, 48, 48] (shares of 8 x 8 pixels), and which slots [b, 4] hold
    something that may be asked for."""

    pictures: Tensor
    masks: Tensor
    real: Tensor


class Cut(NamedTuple):
    """Where each slot's cut-out lies: ``u``, ``v`` [b, 4, 384, 384] of every pixel in its own frame (-1..1 inside), and its
    width and height in pixels [b, 4, 1, 1]."""

    u: Tensor
    v: Tensor
    wide: Tensor
    high: Tensor


class Composer:
    """Composes drawn batches from a bank of pictures on one device."""

    def __init__(self, bank: Tensor) -> None:
        """``bank`` [n, 4, 256, 256] bytes as :func:`read_bank` gives it, on the device to compose on."""
        self.bank = bank
        halves = [functional.avg_pool2d(part.float(), 2).round().to(torch.uint8) for part in bank.split(128)]
        self.half = torch.cat(halves)
        self.axis = torch.arange(IMAGE_SIZE, device=bank.device) + 0.5

    @torch.no_grad()
    def __call__(self, draw: Draw[Tensor]) -> Composed:
        """Compose a batch whose tensors are on the bank's device."""
        cut = self.cut(draw.place)
        colours, alpha = self.sampled(draw, cut)
        outline = outlines(draw, cut, alpha)
        colours = tinted(draw, colours, alpha, outline)
        picture, ground = self.background(draw)
        for slot in range(MOST):
            picture = picture * (1 - outline[:, slot, None]) + colours[:, slot]
        seen, whole = uncovered(outline >= 0.5, ground >= 0.5, draw.whole)
        masks = functional.avg_pool2d(seen, IMAGE_SIZE // FINE)
        cells = functional.avg_pool2d(masks, FINE // GRID)
        enough = (seen.sum((2, 3)) >= VISIBLE * whole.sum((2, 3))) & ((cells >= 0.5).sum((2, 3)) >= 2)
        return Composed(picture, masks, (draw.exists | draw.whole) & enough)

    def cut(self, place: Tensor) -> Cut:
        """The frames of the cut-outs at places [b, 4, 6]."""
        x, y, wide, high, angle, flip = (part[..., None, None] for part in place.unbind(-1))
        across, down = self.axis[None, :] - x, self.axis[:, None] - y
        u = (angle.cos() * across + angle.sin() * down) / (wide / 2) * flip
        v = (angle.cos() * down - angle.sin() * across) / (high / 2)
        return Cut(u, v, wide, high)

    def sampled(self, draw: Draw[Tensor], cut: Cut) -> tuple[Tensor, Tensor]:
        """Colours [b, 4, 3, 384, 384] in 0..255 (an icon's times its opacity) and opacities [b, 4, 384, 384] of the bank's
        pictures, laid where the cut-outs are."""
        x, y, wide, high = (part[..., None, None] for part in draw.source.unbind(-1))
        grid = torch.stack((x + cut.u * wide, y + cut.v * high), -1).flatten(0, 1)
        rows = draw.picture.flatten()
        found, small = (
            functional.grid_sample(bank[rows].float(), grid, align_corners=False) for bank in (self.bank, self.half)
        )
        scale = draw.place[..., 2:4].amax(-1) / (draw.source[..., 2:].amax(-1) * BANK)
        begin, end = SHRUNK
        part = ((begin - scale) / (begin - end)).clamp(0, 1).flatten()[:, None, None, None]
        found = torch.lerp(found, small, part).unflatten(0, draw.picture.shape)
        return found[:, :, :3], found[:, :, 3] / 255

    def background(self, draw: Draw[Tensor]) -> tuple[Tensor, Tensor]:
        """Pictures [b, 3, 384, 384], and the opacity [b, 384, 384] of what a photograph behind shows, by its outline."""
        x, y, half, flip = (part[:, None, None] for part in draw.window.unbind(-1))
        across, down = 2 * self.axis[None, :] / IMAGE_SIZE - 1, 2 * self.axis[:, None] / IMAGE_SIZE - 1
        grid = torch.stack(torch.broadcast_tensors(x + half * flip * across, y + half * down), -1)
        found = functional.grid_sample(self.bank[draw.behind].float(), grid, padding_mode="border", align_corners=False)
        photo, alpha = found[:, :3], found[:, 3] / 255
        blurred = filled(functional.avg_pool2d(photo, BLUR))
        kind = draw.ground[:, None, None, None]
        picture = torch.where(kind == BLURRED, blurred, photo)
        picture = torch.where(kind == NOISE, filled(draw.noise), picture)
        picture = torch.where(kind == STRIPES, self.stripes(draw), picture)
        return picture.clamp(0, 255), alpha

    def stripes(self, draw: Draw[Tensor]) -> Tensor:
        """Stripes, or checks where both directions alternate, of two colours [b, 3, 384, 384]."""
        period, across, down, checks = (part[:, None, None] for part in draw.stripes.unbind(-1))
        x, y = self.axis[None, :], self.axis[:, None]
        phase = ((x * across + y) / period).floor() + ((x - y * down) / period).floor() * checks
        one, other = draw.colours[..., None, None].unbind(1)
        return torch.where(phase.remainder(2)[:, None] == 0, one, other)


def outlines(draw: Draw[Tensor], cut: Cut, alpha: Tensor) -> Tensor:
    """The opacity of every cut-out, [b, 4, 384, 384], its edges antialiased; 0 where a slot has none."""
    short = torch.minimum(cut.wide, cut.high) / 2
    across, down = (1 - cut.u.abs()) * cut.wide / 2, (1 - cut.v.abs()) * cut.high / 2
    ellipse = ((1 - (cut.u**2 + cut.v**2).sqrt()) * short + 0.5).clamp(0, 1)
    radius, shape = draw.radius[..., None, None], draw.shape[..., None, None]
    x, y = radius - across, radius - down
    rounded = radius - (x.clamp(min=0) ** 2 + y.clamp(min=0) ** 2).sqrt() - torch.maximum(x, y).clamp(max=0)
    found = torch.where(shape == ELLIPSE, ellipse, torch.where(shape == ROUNDED, (rounded + 0.5).clamp(0, 1), alpha))
    inside = (across + 0.5).clamp(0, 1) * (down + 0.5).clamp(0, 1)
    return found * inside * draw.exists[..., None, None]


def tinted(draw: Draw[Tensor], colours: Tensor, alpha: Tensor, outline: Tensor) -> Tensor:
    """Colours times opacity, with their gains, and without colour where it is gray; [b, 4, 3, 384, 384]."""
    icon = (draw.shape == ICON)[..., None, None]
    colours = colours * torch.where(icon, outline / alpha.clamp(min=1 / 255), outline)[:, :, None]
    colours = torch.lerp(colours, colours.mean(2, keepdim=True), draw.gray[..., None, None, None])
    return torch.minimum(colours * draw.gain[..., None, None], 255 * outline[:, :, None])


def uncovered(opaque: Tensor, ground: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """What is seen of each slot when later ones lie over earlier ones, and all of it; both [b, 4, 384, 384] of 0 and 1.

    ``opaque`` [b, 4, 384, 384] are the cut-outs; what the background shows, ``ground`` [b, 384, 384], stands for the slot
    that is ``whole`` [b, 4], below all cut-outs.
    """
    covered = torch.zeros_like(opaque[:, 0])
    seen = []
    for slot in reversed(range(MOST)):
        seen.insert(0, opaque[:, slot] & ~covered)
        covered = covered | opaque[:, slot]
    behind = whole[:, :, None, None]
    shown = torch.where(behind, (ground & ~covered)[:, None], torch.stack(seen, 1))
    return shown.float(), torch.where(behind, ground[:, None], opaque).float()


def filled(pictures: Tensor) -> Tensor:
    """Small pictures [b, 3, h, w] enlarged to 384 x 384."""
    return functional.interpolate(pictures, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)


def read_bank(
    icons: Sequence[tuple[str, str]], sources: Sources, outlines: Outlines, report: Report = silent
) -> tuple[Tensor, np.ndarray]:
    """The bank [icons + photographs, 4, 256, 256] in bytes, and the icons' widths and heights [icons, 2] in pixels.

    An icon lies in the middle, its colours times its opacity; a photograph is its centre square, with its outline as
    opacity.
    """
    made = np.zeros((len(icons) + len(sources.photos), BANK, BANK, 4), np.uint8)
    sizes = np.zeros((len(icons), 2))
    for i, (style, icon) in enumerate(icons):
        image = np.asarray(sources.icons[style].cutout(icon)).astype(np.float32)
        image[..., :3] *= image[..., 3:] / 255
        high, wide = image.shape[:2]
        top, left = (BANK - high) // 2, (BANK - wide) // 2
        made[i, top : top + high, left : left + wide] = np.rint(image)
        sizes[i] = wide, high
        report(i + 1, len(made), "Reading icons")
    alpha = torch.from_numpy(outlines.masks.astype(np.float32))[:, None]
    alpha = functional.interpolate(alpha, (BANK, BANK), mode="bilinear", align_corners=False)[:, 0]
    for i, path in enumerate(sources.photos, len(icons)):
        made[i, ..., :3] = square(path)
        report(i + 1, len(made), "Reading photographs")
    made[len(icons) :, ..., 3] = np.rint(255 * alpha.numpy())
    return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous(), sizes


def square(path: Path) -> np.ndarray:
    """A photograph's centre square, [256, 256, 3] bytes."""
    image = opened(path)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(image.resize((BANK, BANK), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
