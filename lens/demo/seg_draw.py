"""What training scenes hold, and what is asked about them: whole batches as arrays, drawn on the processor.

Six things are drawn for a scene that could not be taken for each other, some of them near another one (of its kind), and
lots decide which are shown; the others are what isn't there. So a name's chances of being there are the same whatever the
name, and it alone tells nothing. The background shows nothing that any of the six could mean. Invariants: a batch is a
function of its seed; what is held out is neither shown nor named; a turn counts for the answer only where the name may be
named either way and, where it is shown, enough of it is seen (which the composer finds).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lens.demo.convert import IMAGE_SIZE
from lens.demo.scenes import COUNTS, MOST, OUTSIDE, SIZES, TRIES
from lens.demo.seg_language import PROMPTS
from lens.demo.seg_outlines import Outlines
from lens.demo.seg_vocabulary import Vocabulary

A = TypeVar("A", np.ndarray, Tensor)

TURNS = 6
"""Turns of a pack: what is shown, at most four, then names of what isn't."""
NEAR = 0.4
"""How often a thing is drawn near one that the scene already has; about a third of the absent ones are then near a present
one by that draw."""
ATTEMPTS = 4
"""Times that each of a scene's things is drawn before the scene is content without."""
BROADER, PLAIN, OUTLINED, WHOLE = 0.22, 0.15, 0.4, 0.25
"""Shares, of photographs that have one: asked for by the broader word, by the plainer name, cut along the outline, and
shown whole as the background and asked for."""
GROUNDS = (0.55, 0.1, 0.1, 0.13, 0.12)
"""Backgrounds: a photograph, a blurred one, a magnified one, colour noise, stripes; by number in :attr:`Draw.ground`."""
PHOTOGRAPH, BLURRED, MAGNIFIED, NOISE, STRIPES = range(5)
ICON, ELLIPSE, ROUNDED, OUTLINE = range(4)
"""What bounds a cut-out; by number in :attr:`Draw.shape`."""
BANK = 256
"""Pixels a side of the pictures that cut-outs and backgrounds are sampled from."""


class Draw(NamedTuple, Generic[A]):
    """A batch of b scenes and their packs, as arrays or as tensors. Slots are the four things that can be shown.

    Of the turns [b, 6]: ``asked`` (the name's row), ``prompt``, ``shown`` (in the picture or not) and ``namable``. Of the
    slots [b, 4]: ``picture`` (row of the bank), ``exists`` (as a cut-out), ``shape``, ``place`` [.., 6] (centre x, y,
    width, height in pixels, angle in radians, -1 where mirrored), ``source`` [.., 4] (centre and half extent of what is
    cut, in -1..1 of the bank's picture), ``radius`` of rounded corners in pixels, ``gain`` [.., 3] of the colours,
    ``gray`` (1 without colour) and ``whole`` (it is the background). Of the backgrounds [b]: ``ground``, ``behind`` (row of
    the bank), ``window`` [.., 4] (centre, half extent, -1 where mirrored), ``stripes`` [.., 4] (period, two slopes, 1 for
    checks), ``colours`` [.., 2, 3] and ``noise`` [.., 3, side, side], the last two in 0..255.
    """

    asked: A
    prompt: A
    shown: A
    namable: A
    picture: A
    exists: A
    shape: A
    place: A
    source: A
    radius: A
    gain: A
    gray: A
    whole: A
    ground: A
    behind: A
    window: A
    stripes: A
    colours: A
    noise: A


class Things(NamedTuple):
    """Drawn things [b, n]: row of the vocabulary (-1 for none) and row of the name that it is asked for by."""

    row: np.ndarray
    asked: np.ndarray


class Drawer:
    """Draws batches from a vocabulary of icons and photographs; ``sizes`` [icons, 2] are the icons' in pixels."""

    def __init__(self, words: Vocabulary, sizes: np.ndarray, outlines: Outlines) -> None:
        self.words, self.sizes, self.outlines = words, sizes, outlines
        kinds = [np.flatnonzero(words.kind == kind) for kind in range(words.kind.max() + 1)]
        self.members = np.full((len(kinds), max(map(len, kinds))), -1)
        for row, things in zip(self.members, kinds, strict=True):
            row[: len(things)] = things
        self.classes = np.flatnonzero(words.label >= 0)
        self.solid = outlines.good & (outlines.area > 0.15)

    def draw(self, seed: tuple[int, ...], b: int) -> Draw[np.ndarray]:
        """The batch of b scenes of a seed."""
        rng = np.random.default_rng(seed)
        things = lots(rng, self.things(rng, b))
        count = rng.choice(np.arange(1, MOST + 1), b, p=COUNTS)
        shown = (np.arange(TURNS) < count[:, None]) & (things.row >= 0)
        ground, behind, whole = self.grounds(rng, things, shown)
        exists = shown[:, :MOST] & ~whole
        picture, shape, source, size = self.cuts(rng, things.row[:, :MOST], count == 1)
        gain, gray = tints(rng, b)
        return Draw(
            asked=things.asked, prompt=rng.integers(0, len(PROMPTS), (b, TURNS)), shown=shown,
            namable=(things.row >= 0) & self.words.namable[things.asked],
            picture=picture, exists=exists, shape=shape, place=placed(rng, size, exists), source=source,
            radius=(rng.uniform(0.05, 0.35, (b, MOST)) * size.min(-1)).astype(np.float32), gain=gain, gray=gray,
            ground=ground, behind=behind, window=windows(rng, ground, whole), whole=whole, **textures(rng, b),
        )  # fmt: skip

    def things(self, rng: np.random.Generator, b: int) -> Things:
        """Six things a scene, none of which could mean another; fewer where :data:`ATTEMPTS` times each fell together."""
        words = self.words
        rows, asked = np.full((b, TURNS), -1), np.zeros((b, TURNS), int)
        for i in range(TURNS):
            for _ in range(ATTEMPTS):
                drawn = rng.choice(len(words.chance), b, p=words.chance)
                near = np.take_along_axis(rows, rng.integers(0, max(1, i), (b, 1)), 1)[:, 0]
                drawn = np.where((near >= 0) & (rng.random(b) < NEAR), self.of_the_kind(rng, near), drawn)
                name = self.name(rng, drawn)
                clash = self.clashes(np.stack((name, words.own[drawn]), 1), Things(rows, asked)).any(1)
                take = (rows[:, i] < 0) & ~clash
                rows[take, i], asked[take, i] = drawn[take], name[take]
        return Things(rows, asked)

    def of_the_kind(self, rng: np.random.Generator, things: np.ndarray) -> np.ndarray:
        """Another thing of each thing's kind, or the same again, [b]."""
        members = self.members[self.words.kind[things]]
        picked = (rng.random(len(things)) * (members >= 0).sum(1)).astype(int)
        return np.take_along_axis(members, picked[:, None], 1)[:, 0]

    def name(self, rng: np.random.Generator, things: np.ndarray) -> np.ndarray:
        """The name that each thing is asked for by, [b]."""
        chance = rng.random(len(things))
        plain, broad = self.words.plain[things], self.words.broad[things]
        found = np.where((plain >= 0) & (chance > 1 - PLAIN), plain, self.words.own[things])
        return np.where((broad >= 0) & (chance < BROADER), broad, found)

    def clashes(self, names: np.ndarray, things: Things) -> np.ndarray:
        """Whether names [b, n] (-1 for none) could mean one of the things [b, m] or the other way round, [b, n]."""
        called = np.stack((things.asked, self.words.own[things.row]), -1)
        hit = self.words.conflict[names[:, :, None, None], called[:, None]].any(-1)
        return (hit & (things.row >= 0)[:, None]).any(-1) & (names >= 0)

    def grounds(
        self, rng: np.random.Generator, things: Things, shown: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kinds of backgrounds, the bank's rows behind, and which slot's thing [b, 4] is the background, if any."""
        words, rows = self.words, np.arange(len(shown))
        ground = rng.choice(len(GROUNDS), len(shown), p=GROUNDS)
        options = rng.choice(self.classes, (len(shown), TURNS))
        clash = self.clashes(words.own[options], things) | self.clashes(words.broad[options], things)
        behind = options[rows, clash.argmin(1)]
        topmost = np.maximum(shown.sum(1) - 1, 0)
        thing = things.row[rows, topmost]
        whole = shown.any(1) & (words.label[thing] >= 0) & self.solid[words.label[thing]] & (ground == PHOTOGRAPH)
        whole &= rng.random(len(shown)) < WHOLE
        ground = np.where(clash.all(1) & (ground <= MAGNIFIED) & ~whole, NOISE, ground)
        behind = len(words.icons) + words.label[np.where(whole, thing, behind)]
        return ground, behind, whole[:, None] & (np.arange(MOST) == topmost[:, None])

    def cuts(
        self, rng: np.random.Generator, things: np.ndarray, alone: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """How the slots' things [b, 4] are cut: the bank's rows, shapes, sources [.., 4] and sizes in pixels [.., 2]."""
        words, label, slots = self.words, self.words.label[things], things.shape
        photo, icon = label >= 0, icons(rng, words.shown[things])
        outlined = photo & self.outlines.good[label] & (rng.random(slots) < OUTLINED)
        side = rng.uniform(0.55, 0.95, (*slots, 1))
        extent = side * rng.uniform(0.75, 1.0, (*slots, 2))
        centre = rng.uniform(-0.6, 0.6, (*slots, 2)) * (1 - side)
        box = 2 * self.outlines.boxes[label] - 1
        extent = np.where(outlined[..., None], (box[..., 2:] - box[..., :2]) / 2, extent)
        centre = np.where(outlined[..., None], (box[..., 2:] + box[..., :2]) / 2, centre)
        extent = np.where(photo[..., None], extent, self.sizes[icon] / BANK)
        centre = np.where(photo[..., None], centre, 0.0)
        longest = rng.uniform(*SIZES, slots) * np.where(alone, 1.25, 1.0)[:, None]
        longest = np.where(photo & (rng.random(slots) < 0.15), 1.3, 1.0) * longest
        size = extent * (longest / extent.max(-1))[..., None]
        shape = np.where(photo, np.where(outlined, OUTLINE, rng.integers(ELLIPSE, OUTLINE, slots)), ICON)
        picture = np.where(photo, len(words.icons) + label, icon)
        return picture, shape, np.concatenate((centre, extent), -1).astype(np.float32), size


def lots(rng: np.random.Generator, things: Things) -> Things:
    """The things in an order that has nothing to do with what they are; places without a thing come last."""
    order = np.argsort(rng.random(things.row.shape) + (things.row < 0), 1)
    return Things(*(np.take_along_axis(part, order, 1) for part in things))


def icons(rng: np.random.Generator, shown: np.ndarray) -> np.ndarray:
    """One icon of each [b, k, styles, variants], of a style first; -1 where there is none."""
    some = shown >= 0
    style = (rng.random(shown.shape[:2]) * some[..., 0].sum(-1)).astype(int)
    variants = np.take_along_axis(shown, style[..., None, None], 2)[:, :, 0]
    picked = (rng.random(shown.shape[:2]) * (variants >= 0).sum(-1)).astype(int)
    return np.take_along_axis(variants, picked[..., None], 2)[..., 0]


def placed(rng: np.random.Generator, size: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Places [b, 4, 6] of cut-outs of some sizes [b, 4, 2]: of several drawn at once, one where the boxes of later ones
    lie over no more than half of any, else the one where they do least."""
    b = len(size)
    angle = np.radians(rng.uniform(-20, 20, (b, MOST)))
    flip = np.where(rng.random((b, MOST)) < 0.5, -1.0, 1.0)
    turn = np.stack((np.abs(np.cos(angle)), np.abs(np.sin(angle))), -1)
    box = np.stack(((size * turn).sum(-1), (size * turn[..., ::-1]).sum(-1)), -1)
    corner = rng.uniform(size=(TRIES, b, MOST, 2)) * (IMAGE_SIZE - (1 - 2 * OUTSIDE) * box) - OUTSIDE * box
    first, second = corner[:, :, :, None], corner[:, :, None]
    overlap = np.minimum(first + box[:, :, None], second + box[:, None]) - np.maximum(first, second)
    both = exists[:, :, None] & exists[:, None] & np.triu(np.ones((MOST, MOST), bool), 1)
    hidden = (overlap.clip(0).prod(-1) * both).sum(-1) / box.prod(-1)
    worst = hidden.max(-1)
    best = np.where((worst < 0.5).any(0), (worst < 0.5).argmax(0), worst.argmin(0))
    centre = corner[best, np.arange(b)] + box / 2
    return np.concatenate((centre, size, angle[..., None], flip[..., None]), -1).astype(np.float32)


def tints(rng: np.random.Generator, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Gains of the colours [b, 4, 3], half of them 1, and which few lose their colour [b, 4]."""
    gain = rng.uniform(0.75, 1.2, (b, MOST, 3)) * rng.uniform(0.85, 1.15, (b, MOST, 1))
    gain = np.where(rng.random((b, MOST, 1)) < 0.5, gain, 1.0)
    return gain.astype(np.float32), (rng.random((b, MOST)) < 0.04).astype(np.float32)


def windows(rng: np.random.Generator, ground: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """What of the photograph is behind, [b, 4]."""
    b = len(ground)
    share = np.where(ground == MAGNIFIED, rng.uniform(0.06, 0.12, b), rng.uniform(0.6, 1.0, b))
    share = np.where(whole.any(1), rng.uniform(0.85, 1.0, b), share)
    centre = rng.uniform(-1, 1, (2, b)) * (1 - share)
    return np.stack((*centre, share, np.where(rng.random(b) < 0.5, -1.0, 1.0)), 1).astype(np.float32)


def textures(rng: np.random.Generator, b: int) -> dict[str, np.ndarray]:
    """Stripes, colours and noise."""
    stripes = np.stack((rng.uniform(10, 90, b), rng.uniform(-1, 1, b), rng.uniform(-1, 1, b), rng.integers(0, 2, b)), 1)
    side = rng.choice((2, 4, 8, 24, 96))
    noise = 0.5 * rng.integers(0, 256, (b, 3, side, side)) + 0.5 * rng.integers(0, 256, (b, 3, 1, 1))
    return {
        "stripes": stripes.astype(np.float32),
        "colours": rng.integers(0, 256, (b, 2, 3)).astype(np.float32),
        "noise": noise.astype(np.float32),
    }


class Draws(Dataset[Draw[np.ndarray]]):
    """Batch i of a stream: a function of the stream's seed and i alone, whichever process draws it."""

    def __init__(self, drawer: Drawer, seed: tuple[int, ...], b: int) -> None:
        self.drawer, self.seed, self.b = drawer, seed, b

    def __getitem__(self, number: int) -> Draw[np.ndarray]:
        return self.drawer.draw((*self.seed, number), self.b)

    def feed(self, first: int, workers: int, pinned: bool) -> Iterable[Draw[Tensor]]:
        """Batches from ``first`` on without end, as tensors, drawn ahead by some processes."""
        endless = range(first, 1 << 40)
        return DataLoader(self, batch_size=None, sampler=endless, num_workers=workers, pin_memory=pinned)
