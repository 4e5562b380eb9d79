"""Composed scenes to measure on: one to four cut-outs on a photograph or a texture, with exact masks of what is seen.

Cut-outs are emoji of four sets, and ellipses and rounded rectangles cut from the middle of labelled photographs. Later
ones lie over earlier ones. Invariants: a scene is a function of its seed, its pool and the sources; masks are disjoint
and hold exactly the pixels whose topmost cut-out (by half of its opacity) is that object; of what lies inside the
picture, at least :data:`VISIBLE` of every object is uncovered, and it fills at least two cells of the vision grid by
half; no two objects of a scene, nor an object and its background photograph, have names that could mean each other.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lens.demo.convert import IMAGE_SIZE, PATCH_SIZE
from lens.demo.photos import held_out as held_out_classes
from lens.demo.seg_icons import SETS, Icons
from lens.demo.seg_objects import OBJECTS, alike, held_out_objects

FINE = 48
"""Cells a side of the mask head's own resolution; one covers 8 x 8 pixels."""
GRID = IMAGE_SIZE // PATCH_SIZE
MOST = 4
VISIBLE = 0.45
COUNTS = (0.15, 0.3, 0.3, 0.25)
"""How often one, two, three and four objects are drawn."""
SIZES = (88.0, 210.0)
"""Pixels of a cut-out's longer side."""
OUTSIDE = 0.1
"""Share of a cut-out's width or height that may lie outside the picture."""
TRIES = 12
"""Times that the same objects are placed anew before one of them is left out."""
DRAWS = 60
"""Times that an object is drawn before a scene is content with fewer."""
HELD_OUT_STYLE = "fluent-emoji-flat"
TRAIN = "train"
"""The split that nothing is measured on."""


@dataclass(frozen=True)
class Pool:
    """What a scene may hold: objects (names of :data:`OBJECTS`), styles (icon sets), classes of photographs for cut-outs
    and for backgrounds, and how often an object is cut from a photograph."""

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    classes: tuple[int, ...] = ()
    backgrounds: tuple[int, ...] = ()
    photo_share: float = 0.0


@dataclass(frozen=True)
class Sources:
    """Where cut-outs and backgrounds come from: icon sets by name, photographs in the order of their class names."""

    icons: Mapping[str, Icons]
    photos: Sequence[Path] = ()
    names: Sequence[str] = ()

    def showing(self, name: str, styles: Sequence[str]) -> list[tuple[str, str]]:
        """The (style, icon) pairs that show an object in one of ``styles``."""
        return [(style, icon) for style in styles for icon in OBJECTS[name] if icon in self.icons[style]]


def pools(seed: int, names: list[str]) -> dict[str, Pool]:
    """The pools of every split: of training, and four to measure on; ``names`` are the photographs' class names.

    Training and measuring share no held-out object or style and no photograph.
    """
    kept = held_out_objects(seed)
    classes_kept = held_out_classes(seed)
    objects = tuple(name for name in OBJECTS if name not in kept)
    styles = tuple(style for style in SETS if style != HELD_OUT_STYLE)
    trained = tuple(
        label
        for label in range(len(names))
        if label not in classes_kept and not any(alike(names[label], name) for name in kept)
    )
    unseen = tuple(sorted(classes_kept))
    return {
        TRAIN: Pool(objects, styles, trained),
        "trained objects and styles, new scenes": Pool(objects, styles, (), unseen),
        "held-out objects": Pool(tuple(sorted(kept)), styles, (), unseen),
        "held-out style": Pool(objects, (HELD_OUT_STYLE,), (), unseen),
        "cut-outs of photographs of held-out classes": Pool(objects, styles, unseen, unseen, 1.0),
    }


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and what is in it, lowest first; ``masks`` is [objects, 384, 384] bool."""

    image: Image.Image
    names: tuple[str, ...]
    styles: tuple[str, ...]
    masks: np.ndarray


def compose(seed: str, pool: Pool, sources: Sources) -> Scene:
    """Draw one scene."""
    rng = random.Random(f"scene/{seed}")
    count = rng.choices(range(1, MOST + 1), COUNTS)[0]
    while True:
        chosen = _choose(rng, count, pool, sources)
        ground = background(rng, pool, sources, [name for name, _, _ in chosen])
        while chosen:
            placed = _arrange(rng, [cutout for _, _, cutout in chosen])
            if placed is not None:
                masks, layers = placed
                for layer in layers:
                    ground.paste(layer, (0, 0), layer)
                names, styles = zip(*((name, style) for name, style, _ in chosen), strict=True)
                return Scene(ground, names, styles, masks)
            chosen.pop()


def _arrange(rng: random.Random, cutouts: list[Image.Image]) -> tuple[np.ndarray, list[Image.Image]] | None:
    """Masks and layers of cut-outs put where enough of each is seen; ``None`` if no such place was found."""
    for _ in range(TRIES):
        outlines, layers = zip(*(_place(rng, cutout, len(cutouts)) for cutout in cutouts), strict=True)
        masks = visible(outlines)
        if all(_shows(mask, outline) for mask, outline in zip(masks, outlines, strict=True)):
            return masks, list(layers)
    return None


def _choose(rng: random.Random, count: int, pool: Pool, sources: Sources) -> list[tuple[str, str, Image.Image]]:
    """Up to ``count`` objects that can't be taken for each other, as (name, style, cut-out); fewer from a small pool."""
    chosen: list[tuple[str, str, Image.Image]] = []
    for _ in range(DRAWS):
        if len(chosen) == count:
            break
        label = rng.choice(pool.classes) if pool.classes and rng.random() < pool.photo_share else None
        name = rng.choice(pool.objects) if label is None else sources.names[label]
        if any(alike(name, other) for other, _, _ in chosen):
            continue
        if label is not None:
            chosen.append((name, "photograph", photo_cutout(rng, sources.photos[label])))
            continue
        drawn = sources.showing(name, pool.styles)
        if drawn:
            style = rng.choice(sorted({style for style, _ in drawn}))
            icon = rng.choice([icon for of, icon in drawn if of == style])
            chosen.append((name, style, sources.icons[style].cutout(icon)))
    return chosen


def photo_cutout(rng: random.Random, path: Path) -> Image.Image:
    """An ellipse or a rounded rectangle from the middle of a photograph, RGBA."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size) * rng.uniform(0.6, 0.95)
    wide, high = side * rng.uniform(0.75, 1.0), side * rng.uniform(0.75, 1.0)
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    longest = max(wide, high)
    size = round(224 * wide / longest), round(224 * high / longest)
    cut = image.resize(size, Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
    alpha = Image.new("L", size)
    draw = ImageDraw.Draw(alpha)
    box = (0, 0, size[0] - 1, size[1] - 1)
    if rng.random() < 0.5:
        draw.ellipse(box, fill=255)
    else:
        draw.rounded_rectangle(box, rng.uniform(0.05, 0.35) * min(size), fill=255)
    cut.putalpha(alpha)
    return cut


def _place(rng: random.Random, cutout: Image.Image, count: int) -> tuple[np.ndarray, Image.Image]:
    """A cut-out scaled, mirrored, turned and put somewhere: its outline inside the picture, bool, and the RGBA layer."""
    longest = rng.uniform(*SIZES) * (1.25 if count == 1 else 1.0)
    scale = longest / max(cutout.size)
    size = max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale))
    image = cutout.resize(size, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    left = rng.uniform(-OUTSIDE * image.width, IMAGE_SIZE - (1 - OUTSIDE) * image.width)
    top = rng.uniform(-OUTSIDE * image.height, IMAGE_SIZE - (1 - OUTSIDE) * image.height)
    layer = Image.new("RGBA", (IMAGE_SIZE, IMAGE_SIZE))
    layer.paste(image, (round(left), round(top)))
    return np.asarray(layer)[..., 3] >= 128, layer


def visible(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """What is seen of each outline when later ones lie over earlier ones: disjoint masks [objects, h, w]."""
    covered = np.zeros_like(outlines[0])
    seen = []
    for outline in reversed(outlines):
        seen.append(outline & ~covered)
        covered = covered | outline
    return np.stack(seen[::-1])


def _shows(mask: np.ndarray, whole: np.ndarray) -> bool:
    return mask.sum() >= VISIBLE * whole.sum() and bool((coverage(mask[None], GRID) >= 0.5).sum() >= 2)


def coverage(masks: np.ndarray, side: int) -> np.ndarray:
    """The share of each cell of a ``side`` x ``side`` grid that a mask covers, [objects, side, side] in 0..1."""
    step = masks.shape[-1] // side
    return masks.reshape(len(masks), side, step, side, step).mean((2, 4), dtype=np.float32)


def background(rng: random.Random, pool: Pool, sources: Sources, names: Sequence[str]) -> Image.Image:
    """A photograph of something else, a blurred or a strongly magnified one, colour noise, or stripes; 384 x 384."""
    kind = rng.choices(("photograph", "blurred", "magnified", "noise", "stripes"), (0.5, 0.1, 0.1, 0.15, 0.15))[0]
    fit = [label for label in pool.backgrounds if not any(alike(sources.names[label], name) for name in names)]
    if not fit or kind in ("noise", "stripes"):
        return _stripes(rng) if kind == "stripes" else _noise(rng)
    with Image.open(sources.photos[rng.choice(fit)]) as opened:
        image = opened.convert("RGB")
    share = rng.uniform(0.06, 0.12) if kind == "magnified" else rng.uniform(0.6, 1.0)
    side = min(image.size) * share
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(4, 12))) if kind == "blurred" else image


def _noise(rng: random.Random) -> Image.Image:
    side = rng.choice((2, 4, 8, 24, 96))
    values = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    tint = np.array([rng.randrange(256) for _ in range(3)])
    return Image.fromarray((0.5 * values + 0.5 * tint).astype(np.uint8)).resize(
        (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC
    )


def _stripes(rng: random.Random) -> Image.Image:
    """Stripes, or checks where both directions alternate, of two colours."""
    colours = np.array([[rng.randrange(256) for _ in range(3)] for _ in range(2)], dtype=np.uint8)
    period = rng.uniform(10, 90)
    x, y = np.meshgrid(np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE))
    across, down = x * rng.uniform(-1, 1) + y, x - y * rng.uniform(-1, 1)
    phase = (across // period).astype(int) + ((down // period).astype(int) if rng.random() < 0.5 else 0)
    return Image.fromarray(colours[phase % 2])
