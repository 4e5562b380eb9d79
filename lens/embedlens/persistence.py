"""Does a class go with what a patch shows, or with where it lies? Shifts and crops of one picture; and text as a control.

A *shift* moves a window by whole patches over the picture at one scale, so that what a patch shows is shown by another
patch, pixel for pixel. A *crop* is a smaller window around the middle, shown larger. Patches of two windows are compared
by content (the patch of the first that holds the other's centre) and, for the same cells of the grid, by place.

Text tokens are the probe's positive control: at layer 0 a text token's state *is* its embedding, so that its own word must
come first. How long it does, layer by layer, is what the probe can at best show of a token whose word is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.backend.encoding import encode, visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import CLASSES, groups
from lens.embedlens.folder import classified
from lens.embedlens.probe import probe
from lens.errors import CapabilityMissing
from lens.progress import Report, silent

SHIFTS = (1, 2, 3)
CROPS = (0.9, 0.75, 0.5)
SMALLEST = 256
"""Pixels of a side that a picture is enlarged to, if it is smaller, so that windows can be cut by whole pixels."""


@dataclass(frozen=True, eq=False)
class Persistence:
    """The classes of one window beside those of the window that it is compared with.

    Attributes:
        name: what was done, for a reader.
        table: patches that show the same, by class before (rows) and after (columns), in the order of :data:`CLASSES`.
        agreement, chance: share of these with the same class, and what their class fractions alone would give.
        kept: by class before, the share that keeps it; NaN for a class that no such patch had.
        by_place: share of the grid's cells with the same class, whatever they show.
    """

    name: str
    table: Int[np.ndarray, "3 3"]
    agreement: float
    chance: float
    kept: dict[str, float]
    by_place: float


@dataclass(frozen=True, eq=False)
class TextControl:
    """Text tokens under the probe.

    Attributes:
        tokens: how many.
        first, among_five: by layer, the share whose own word is the best, or among the five best.
        fractions: by class, its share by layer; sink goes before dead.
    """

    tokens: int
    layers: tuple[int, ...]
    first: Float[np.ndarray, " layers"]
    among_five: Float[np.ndarray, " layers"]
    fractions: dict[str, Float[np.ndarray, " layers"]]


def persistence(
    loaded: LoadedModel,
    picture: Picture,
    prompt: str,
    anchors: Anchors,
    *,
    shifts: Sequence[int] = SHIFTS,
    crops: Sequence[float] = CROPS,
    layer: int = 0,
    rule: int = 3,
    min_cosine: float = 0.0,
    report: Report = silent,
) -> tuple[Persistence, ...]:
    """Classes under shifts by so many patches (to the right and down) and crops to such shares of the side.

    Raises:
        CapabilityMissing: the model takes no pictures.
        Cancelled: raised by ``report``.
    """
    loaded.anatomy.require("connector")
    square = _square(picture)
    grid = visual_grid(encode(loaded, prompt, square).token_map)
    patches, most = max(grid.rows, grid.cols), max(shifts, default=0)
    side = square.width
    step = side // (patches + most)
    moved = [(f"shifted by {k} patch{'es' * (k != 1)}", k * step, patches * step) for k in (0, *shifts)]
    sizes = [(f"cropped to {share:.0%}", round(share * side)) for share in (1.0, *crops)]
    views = [*moved, *((name, (side - size) // 2, size) for name, size in sizes)]
    pictures = [_part(square, name, start, start, size) for name, start, size in views]
    labels, boxes = [], []
    stream = classified(loaded, pictures, prompt, anchors, layer, rule, min_cosine, report)
    for (each, classes), (_, start, _) in zip(stream, views, strict=True):
        labels.append(classes.labels)
        boxes.append(visual_grid(each.held.token_map).boxes + start)
    whole = len(moved)  # where the crops' own first window stands
    pairs = [(0, n) for n in range(1, whole)] + [(whole, n) for n in range(whole + 1, len(views))]
    return tuple(compare(labels[a], boxes[a], labels[b], boxes[b], views[b][0]) for a, b in pairs)


def compare(
    before: np.ndarray,
    before_boxes: Float[np.ndarray, "rows cols 4"],
    after: np.ndarray,
    after_boxes: Float[np.ndarray, "rows cols 4"],
    name: str,
) -> Persistence:
    """Classes [rows, cols] of two windows, the boxes in pixels of one picture."""
    x, y = (after_boxes[..., 0] + after_boxes[..., 2]) / 2, (after_boxes[..., 1] + after_boxes[..., 3]) / 2
    x0, y0, x1, y1 = (before_boxes.reshape(-1, 4)[:, i] for i in range(4))
    inside = (x0 <= x.reshape(-1, 1)) & (x.reshape(-1, 1) < x1) & (y0 <= y.reshape(-1, 1)) & (y.reshape(-1, 1) < y1)
    found = inside.any(1)
    was, now = before.reshape(-1)[inside.argmax(1)[found]], after.reshape(-1)[found]
    table = np.array([[int(((was == a) & (now == b)).sum()) for b in CLASSES] for a in CLASSES])
    total, rows = max(int(table.sum()), 1), table.sum(1)
    kept = {kind: float(table[i, i] / rows[i]) if rows[i] else float("nan") for i, kind in enumerate(CLASSES)}
    chance = float((rows @ table.sum(0)) / total**2)
    return Persistence(name, table, float(np.trace(table) / total), chance, kept, float((before == after).mean()))


def text_control(
    loaded: LoadedModel,
    text: str,
    anchors: Anchors,
    layers: Sequence[int] | None = None,
    *,
    rule: int = 3,
    min_cosine: float = 0.0,
) -> TextControl:
    """The probe and the classes on the tokens of a text; without ``layers`` at all of them.

    Raises:
        PromptUnusable: an empty text, or one longer than the model's context.
        CapabilityMissing: a text without a single ordinary token.
    """
    wanted = tuple(range(loaded.anatomy.depth + 1)) if layers is None else tuple(layers)
    held = trace(loaded, encode(loaded, text), [f"hidden.{layer}" for layer in wanted])
    places = np.flatnonzero(np.array(held.token_map.kinds) == "text")
    if not len(places):
        raise CapabilityMissing("There is no text token here to look at; give a text with words.")
    own = np.array(held.token_map.ids)[places][:, None]
    first, five, shares = [], [], []
    for layer in wanted:
        words = probe(loaded, held.hidden(layer)[places], 5)
        first.append(float((words.ids[:, :1] == own).mean()))
        five.append(float((words.ids == own).any(1).mean()))
        members = groups(words, anchors, rule, min_cosine)
        shares.append([members["sink"].mean(), (members["dead"] & ~members["sink"]).mean(), members["alive"].mean()])
    fractions: dict[str, np.ndarray] = dict(zip(CLASSES, np.array(shares, dtype=float).T, strict=True))
    return TextControl(len(places), wanted, np.array(first), np.array(five), fractions)


def _square(picture: Picture) -> Picture:
    """The largest square in the middle, enlarged where windows would be of less than some pixels."""
    side = min(picture.width, picture.height)
    square = _part(picture, picture.name, (picture.width - side) // 2, (picture.height - side) // 2, side)
    larger = square.image.resize((SMALLEST, SMALLEST)) if side < SMALLEST else square.image
    return Picture(larger, square.name, square.digest)


def _part(picture: Picture, name: str, left: int, top: int, side: int) -> Picture:
    image = picture.image.crop((left, top, left + side, top + side))
    place = f"{picture.digest} {left} {top} {side}"
    return Picture(image, name, hashlib.sha256(place.encode()).hexdigest())
