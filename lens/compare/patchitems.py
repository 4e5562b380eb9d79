"""The items of the patch-compression benchmark: one letter, digit or object in exactly one patch of a picture.

The items form a factorial: identity x (colour x background) x (patch x offset in it). Each identity goes through all pairs
of colour and background, and through all pairs of patch and offset, in a random order of its own, so that every number of
items is a balanced sample, and a larger number begins with the same items as a smaller one. Left out are pairs whose
colour is too near the background's. The numbers of the two kinds of pairs share few factors, so that no item comes twice
before tens of thousands.

Invariant: a picture with an item equals the picture without it at every pixel outside the item's patch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lens.backend.images import Picture
from lens.compare.shapes import DIGITS, LETTERS, SHAPES, mask

if TYPE_CHECKING:
    from lens.backend.encoding import PatchGrid

KINDS: dict[str, tuple[str, ...]] = {"letter": LETTERS, "digit": DIGITS, "object": tuple(SHAPES)}
"""Item type → its identities."""
COLOURS = {
    "red": (214, 32, 32),
    "orange": (245, 132, 20),
    "yellow": (246, 214, 30),
    "green": (34, 150, 60),
    "blue": (30, 80, 214),
    "purple": (128, 40, 160),
    "pink": (246, 140, 184),
    "brown": (122, 74, 36),
    "black": (12, 12, 12),
    "white": (246, 246, 246),
    "grey": (128, 128, 128),
}
"""The eleven basic colour terms of English (Berlin and Kay 1969), as sRGB."""
OFFSETS = {
    "centre": (0, 0),
    "upper left": (-1, -1),
    "upper right": (1, -1),
    "lower left": (-1, 1),
    "lower right": (1, 1),
}
"""Where in its patch an item lies: as far that way as a margin of one pixel allows."""
SHARE = 0.68
"""Longer side of an item, of its patch; drawn large, of the picture."""
CONTRAST = 85
"""Least distance of an item's colour from its background's mean, in sRGB steps."""


def _plain(colour: int) -> Callable[[int], np.ndarray]:
    return lambda side: np.full((side, side), float(colour))


def _noise(side: int) -> np.ndarray:
    """Grey grain of two pixels."""
    half = np.random.default_rng(0).normal(150, 22, (-(-side // 2), -(-side // 2)))
    return np.kron(half, np.ones((2, 2)))[:side, :side].clip(70, 230)


def _weave(side: int) -> np.ndarray:
    """Light grey threads that cross."""
    x = np.arange(side)
    return 205 + 14 * np.sin(x * 1.1)[None] + 14 * np.sin(x * 0.8)[:, None]


BACKGROUNDS: dict[str, Callable[[int], np.ndarray]] = {
    "white": _plain(252),
    "grey": _plain(128),
    "black": _plain(4),
    "noise": _noise,
    "weave": _weave,
}
"""Name → grey levels of a picture of that side, three plain and two textured."""


@dataclass(frozen=True)
class Item:
    """One item of the factorial; ``offset`` is one of :data:`OFFSETS`."""

    number: int
    kind: str
    name: str
    colour: str
    background: str
    row: int
    col: int
    offset: str


def cells(grid: PatchGrid) -> tuple[tuple[int, int], ...]:
    """Nine patches spread over the grid, fewer in a grid that is smaller; none of them lies on padding."""
    rows, cols = (sorted({int((third + 0.5) / 3 * n) for third in range(3)}) for n in (grid.rows, grid.cols))
    return tuple((row, col) for row in rows for col in cols if _room(grid.boxes[row, col])[2] >= 4)


def looks() -> tuple[tuple[str, str], ...]:
    """Pairs of colour and background that can be told apart."""
    means = {name: float(make(64).mean()) for name, make in BACKGROUNDS.items()}
    return tuple(
        (colour, background)
        for colour, rgb in COLOURS.items()
        for background, mean in means.items()
        if float(np.linalg.norm(np.array(rgb) - mean)) >= CONTRAST
    )


def draw_items(grid: PatchGrid, count: int, seed: int = 0) -> tuple[Item, ...]:
    """The first ``count`` items of the factorial."""
    identities = [(kind, name) for kind, names in KINDS.items() for name in names]
    pairs, places = looks(), [(cell, offset) for cell in cells(grid) for offset in OFFSETS]
    found: list[Item] = []
    for turn in range(-(-count // len(identities))):
        for which in np.random.default_rng((seed, 0, turn)).permutation(len(identities)).tolist():
            kind, name = identities[which]
            colour, background = pairs[_order(seed, 1, which, len(pairs))[turn % len(pairs)]]
            (row, col), offset = places[_order(seed, 2, which, len(places))[turn % len(places)]]
            found.append(Item(len(found), kind, name, colour, background, row, col, offset))
    return tuple(found[:count])


@lru_cache(maxsize=512)
def _order(seed: int, factor: int, identity: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, factor, identity)).permutation(count).tolist())


@lru_cache(maxsize=16)
def blank(background: str, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A picture without an item. Not to be written to: it is kept."""
    return np.repeat(BACKGROUNDS[background](side).round().astype(np.uint8)[..., None], 3, axis=2)


def small(item: Item, grid: PatchGrid, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The item in its patch: smooth edges, at least one pixel from the patch's border."""
    left, top, room = _room(grid.boxes[item.row, item.col])
    size = max(2, round(SHARE * room))
    slack = room - size
    reach = max(0, slack // 2 - 1)
    across, down = OFFSETS[item.offset]
    return _inked(item, side, left + slack // 2 + reach * across, top + slack // 2 + reach * down, size)


def large(item: Item, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The same item over the whole picture."""
    size = round(SHARE * side)
    return _inked(item, side, (side - size) // 2, (side - size) // 2, size)


def inkiest(item: Item, grid: PatchGrid, side: int) -> tuple[int, int]:
    """The patch that holds most of the item drawn large; of several the one nearest to the middle."""
    size = round(SHARE * side)
    whole = np.zeros((side, side))
    start = (side - size) // 2
    whole[start : start + size, start : start + size] = mask(item.kind, item.name, size)

    def rank(cell: tuple[int, int]) -> tuple[float, float]:
        left, top, right, bottom = np.rint(grid.boxes[cell]).astype(int)
        ink = whole[top:bottom, left:right]
        off = np.hypot(cell[0] - (grid.rows - 1) / 2, cell[1] - (grid.cols - 1) / 2)
        return round(float(ink.mean()), 3) if ink.size else 0.0, -float(off)

    return max(np.ndindex(grid.rows, grid.cols), key=rank)  # type: ignore[return-value]


def as_picture(pixels: UInt8[np.ndarray, "side side 3"], name: str) -> Picture:
    """Pixels that were made here as a picture; its digest is that of the pixels."""
    return Picture(Image.fromarray(pixels), name, hashlib.sha256(pixels.tobytes()).hexdigest())


def _inked(item: Item, side: int, left: int, top: int, size: int) -> UInt8[np.ndarray, "side side 3"]:
    pixels = blank(item.background, side).copy()
    ink = mask(item.kind, item.name, size)[..., None]
    under = pixels[top : top + size, left : left + size]
    under[:] = (ink * np.array(COLOURS[item.colour]) + (1 - ink) * under).round().astype(np.uint8)
    return pixels


def _room(box: Float[np.ndarray, " 4"]) -> tuple[int, int, int]:
    """The whole pixels inside a box: left, top, and the side of the largest square in its upper left corner."""
    left, top = int(np.ceil(box[0] - 1e-6)), int(np.ceil(box[1] - 1e-6))
    right, bottom = int(np.floor(box[2] + 1e-6)), int(np.floor(box[3] + 1e-6))
    return left, top, max(0, min(right - left, bottom - top))
