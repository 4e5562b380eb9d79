"""What a batch of training pictures is made of, before any of them is drawn.

A picture is one photograph's crop, one with another inset, two side by side or one above the other, or four; every crop has
its own place, size, proportions and sense, every picture its own light, and some single ones bear a plain coloured shape.
Invariants: a batch is a function of the generator, the photographs' sizes and the classes allowed; crops lie inside their
photographs; parts are painted in order, a later one over an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.demo.convert import IMAGE_SIZE, PATCH_SIZE

SIDE = IMAGE_SIZE // PATCH_SIZE
MOST = 4
"""Parts of a picture at most."""
SINGLE, INSET, BESIDE, STACKED, FOUR = range(5)
PARTS = np.array((1, 2, 2, 2, 4))
"""Parts by layout."""
LAYOUTS = (0.60, 0.13, 0.09, 0.09, 0.09)
"""How often each layout is drawn once pictures are mixed."""
CUT = (0.36, 0.64)
"""Where a mosaic is cut, as a share of the side."""
INSET_SIZE = (100.0, 208.0)
"""Pixels of an inset's side."""
SINGLE_AREA, PART_AREA = (0.2, 1.0), (0.45, 1.0)
"""Area of a crop, as a share of the largest square's, in a single picture and in others."""
STRETCH = 0.15
"""A crop's proportions are off by a factor of up to e to this power."""
EXACT = 0.15
"""Share of single pictures that are exactly what the processor makes of the photograph."""
LIGHT = (22.0, 0.2, 0.35)
"""Largest change of brightness (grey levels), contrast and saturation (factors around 1)."""
RELIT = 0.8
"""Share of pictures whose light is changed."""
COLOURS = {
    "red": (220, 30, 30), "green": (40, 160, 50), "blue": (40, 70, 220), "yellow": (240, 220, 40), "orange": (245, 140, 20),
    "purple": (130, 40, 160), "pink": (245, 140, 190), "black": (12, 12, 12), "white": (245, 245, 245),
    "brown": (115, 70, 30),
}  # fmt: skip
"""RGB of the shapes, each off by up to 10 levels."""
SHAPES = ("square", "circle", "triangle")
SHAPED = 0.06
"""Share of single pictures, once pictures are mixed, that bear a shape."""
RADIUS = (38.0, 90.0)
"""Pixels from a shape's centre to its edge (a triangle's base and tip)."""


@dataclass(frozen=True, eq=False)
class Plan:
    """``n`` pictures of up to 4 parts.

    Attributes:
        layout: SINGLE to FOUR.
        box: where each part is painted, (x0, y0, x1, y1) in pixels of the picture; zeros where there is no such part.
        photo: which photograph (and so class) each part shows.
        source: what of it, (x, y, width, height) in its pixels.
        area: the crop's area as a share of the photograph's largest square.
        flip: whether the crop is mirrored.
        light: added brightness (grey levels), factors of contrast and of saturation.
        shape: 0 for none, else 1 + the index in :data:`SHAPES`; ``colour``: index in :data:`COLOURS`.
        paint: the shape's centre and radius (pixels) and its RGB.
    """

    layout: Int[np.ndarray, " n"]
    box: Float[np.ndarray, "n 4 4"]
    photo: Int[np.ndarray, "n 4"]
    source: Float[np.ndarray, "n 4 4"]
    area: Float[np.ndarray, "n 4"]
    flip: Bool[np.ndarray, "n 4"]
    light: Float[np.ndarray, "n 3"]
    shape: Int[np.ndarray, " n"]
    colour: Int[np.ndarray, " n"]
    paint: Float[np.ndarray, "n 6"]

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def parts(self) -> Int[np.ndarray, " n"]:
        return PARTS[self.layout]

    @property
    def exists(self) -> Bool[np.ndarray, "n 4"]:
        return np.arange(MOST) < self.parts[:, None]

    @property
    def cover(self) -> Float[np.ndarray, "n 4 144"]:
        """How much of each cell of the vision grid each part covers in the finished picture."""
        edges = np.arange(SIDE) * PATCH_SIZE
        across, down = (
            np.clip(
                np.minimum(self.box[..., a + 2, None], edges + PATCH_SIZE) - np.maximum(self.box[..., a, None], edges),
                0, PATCH_SIZE,
            ) / PATCH_SIZE
            for a in (0, 1)
        )  # fmt: skip
        cover = down[..., :, None] * across[..., None, :]
        under = self.layout == INSET
        cover[under, 0] -= cover[under, 1]
        return cover.reshape(len(self), MOST, -1)


def plan_pictures(
    sizes: Int[np.ndarray, "photos 2"], classes: Sequence[int], count: int, rng: np.random.Generator, mixed: bool
) -> Plan:
    """Draw ``count`` pictures of photographs of ``sizes`` (width, height), of the given classes only.

    Until pictures are ``mixed`` they show one photograph each and no shapes.
    """
    layout = rng.choice(len(LAYOUTS), count, p=LAYOUTS) if mixed else np.zeros(count, np.int64)
    box = _boxes(layout, rng)
    exists = np.arange(MOST) < PARTS[layout][:, None]
    box[~exists] = 0
    single = layout == SINGLE
    exact = single & (rng.random(count) < EXACT)
    photo = rng.choice(np.asarray(classes), (count, MOST))
    area = np.where(single[:, None], rng.uniform(*SINGLE_AREA, (count, MOST)), rng.uniform(*PART_AREA, (count, MOST)))
    area[exact] = 1.0
    light = rng.uniform(-1, 1, (count, 3)) * LIGHT * (rng.random((count, 1)) < RELIT) * ~exact[:, None]
    shape = (mixed & single & (rng.random(count) < SHAPED)) * rng.integers(1, len(SHAPES) + 1, count)
    colour = rng.integers(0, len(COLOURS), count)
    return Plan(
        layout=layout,
        box=box,
        photo=photo,
        source=_crops(sizes[photo], box, area, exact, rng),
        area=area,
        flip=(rng.random((count, MOST)) < 0.5) & ~exact[:, None],
        light=light + np.array((0.0, 1.0, 1.0)),
        shape=shape,
        colour=colour,
        paint=_paint(colour, rng),
    )


def _boxes(layout: Int[np.ndarray, " n"], rng: np.random.Generator) -> Float[np.ndarray, "n 4 4"]:
    """Where the parts of each layout are painted."""
    n, full = len(layout), float(IMAGE_SIZE)
    cut = rng.uniform(*CUT, (n, 2)) * full
    box = np.zeros((n, MOST, 4))
    box[:, 0, 2:] = full
    for part, (x, y) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        edges = (cut[:, 0] * x, cut[:, 1] * y, np.where(x, full, cut[:, 0]), np.where(y, full, cut[:, 1]))
        box[layout == FOUR, part] = np.stack(edges, 1)[layout == FOUR]
    for halves, axis in ((BESIDE, 0), (STACKED, 1)):
        chosen = layout == halves
        box[chosen, 0, 2 + axis] = cut[chosen, axis]
        box[chosen, 1] = (0, 0, full, full)
        box[chosen, 1, axis] = cut[chosen, axis]
    small = rng.uniform(*INSET_SIZE, n)[:, None]
    corner = rng.random((n, 2)) * (full - small)
    chosen = layout == INSET
    box[chosen, 1] = np.concatenate((corner, corner + small), 1)[chosen]
    return box


def _crops(
    size: Int[np.ndarray, "n 4 2"],
    box: Float[np.ndarray, "n 4 4"],
    area: Float[np.ndarray, "n 4"],
    exact: Bool[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n 4 4"]:
    """A crop for each part: of its area, nearly of its box's proportions, inside its photograph; the middle where exact."""
    sides = np.maximum(box[..., 2:] - box[..., :2], 1)
    stretch = np.where(exact[:, None], 0, rng.uniform(-STRETCH, STRETCH, area.shape))
    aspect = sides[..., 0] / sides[..., 1] * np.exp(stretch)
    side = np.sqrt(area) * size.min(-1)
    crop = np.stack((side * np.sqrt(aspect), side / np.sqrt(aspect)), -1)
    crop *= np.minimum(1, (size / crop).min(-1, keepdims=True))
    place = np.where(exact[:, None, None], 0.5, rng.random(size.shape))
    return np.concatenate((place * (size - crop), crop), -1)


def _paint(colour: Int[np.ndarray, " n"], rng: np.random.Generator) -> Float[np.ndarray, "n 6"]:
    """Place, radius and RGB of a shape that lies wholly inside the picture."""
    n = len(colour)
    radius = rng.uniform(*RADIUS, (n, 1))
    centre = radius + rng.random((n, 2)) * (IMAGE_SIZE - 2 * radius)
    rgb = np.array(list(COLOURS.values()), float)[colour] + rng.uniform(-10, 10, (n, 3))
    return np.concatenate((centre, radius, rgb), 1)
