"""An editor of a mask over the picture: brush, polygon, eraser, undo, clear; by pointer, finger or keys.

A component of the page itself (no frame, nothing fetched). What is drawn comes back as a list of shapes in pixels of the
picture, which are painted one after the other; the pixels are made here (:mod:`lens.backend.regions`), by the rules that the
editor draws by.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from jaxtyping import Bool
from PIL import Image
from streamlit.components.v2 import component

from lens.backend.images import Picture
from lens.backend.maskfiles import Mask, mask_of
from lens.backend.packedmasks import PackedMask, pack
from lens.backend.regions import Size, polygon_mask, stroke_mask
from lens.errors import MaskUnusable

LONGEST = 900
"""Pixels of the longer side of the picture as the editor shows it."""
MOST_SHAPES, MOST_NUMBERS = 500, 100_000
LEAST = {"brush": 2, "polygon": 6}
"""Numbers that a shape has at least, by its tool."""
FOLDER = Path(__file__).parent / "editor"
STYLE = (FOLDER / "editor.css").read_text(encoding="utf-8")


def script(name: str) -> str:
    """The code of one editor: what all have in common, then its own."""
    return "".join((FOLDER / file).read_text(encoding="utf-8") for file in ("picture.js", name))


_EDITOR = component("tokenlens_mask", css=STYLE, js=script("mask.js"))


@dataclass(frozen=True)
class Shape:
    """One step of a drawing.

    Attributes:
        tool: of :data:`LEAST`. erase: takes away instead of adding.
        radius: of the brush. at: x, y, x, y, ...
    """

    tool: str
    erase: bool
    radius: float
    at: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A mask in the making.

    Attributes:
        version: grows with each change. shapes: what was drawn.
        base: the mask from a file that it was drawn on. inside: the pixels after the last shape.
    """

    version: int
    shapes: tuple[Shape, ...]
    base: Mask | None
    inside: Bool[np.ndarray, "h w"]

    @property
    def mask(self) -> Mask | None:
        """The mask that it makes; ``None`` where nothing is inside."""
        try:
            return mask_of(self.inside, self.base.ignored if self.base else None)
        except MaskUnusable:
            return None


@dataclass(frozen=True)
class KeptDrawing:
    """A drawing as a session keeps it, beside those of other pictures: its pixels packed."""

    version: int
    shapes: tuple[Shape, ...]
    base: PackedMask | None
    inside: PackedMask

    @classmethod
    def of(cls, drawing: Drawing) -> KeptDrawing:
        inside = Mask(drawing.inside, np.zeros_like(drawing.inside))
        return cls(drawing.version, drawing.shapes, pack(drawing.base) if drawing.base else None, pack(inside))

    @property
    def drawing(self) -> Drawing:
        """The drawing itself."""
        return Drawing(self.version, self.shapes, self.base.mask if self.base else None, self.inside.mask.inside)

    @property
    def nbytes(self) -> int:
        """Of the pixels, and of the numbers of the shapes."""
        numbers = sum(len(shape.at) for shape in self.shapes)
        return self.inside.nbytes + (self.base.nbytes if self.base else 0) + 32 * numbers


def blank(size: Size, base: Mask | None = None, version: int = 0) -> Drawing:
    """A drawing without shapes."""
    inside = np.zeros((size[1], size[0]), dtype=bool) if base is None else base.inside
    return Drawing(version, (), base, inside)


def follow(drawing: Drawing, shapes: tuple[Shape, ...], version: int) -> Drawing:
    """The drawing with other shapes; one shape more costs that shape alone."""
    further = shapes[:-1] == drawing.shapes
    inside = drawing.inside if further else blank(drawing.inside.shape[::-1], drawing.base).inside
    for shape in shapes[-1:] if further else shapes:
        inside = painted(inside, shape)
    return Drawing(version, shapes, drawing.base, inside)


def painted(inside: Bool[np.ndarray, "h w"], shape: Shape) -> Bool[np.ndarray, "h w"]:
    """A mask after one more step."""
    size = (inside.shape[1], inside.shape[0])
    places = np.array(shape.at).reshape(-1, 2)
    area = polygon_mask(places, size) if shape.tool == "polygon" else stroke_mask(places, shape.radius, size)
    return inside & ~area if shape.erase else inside | area


def read_shapes(value: list, size: Size) -> tuple[Shape, ...]:
    """Shapes as the browser sends them; :class:`MaskUnusable` for too many, or what the editor never makes."""
    try:
        shapes = tuple(_shape(one, size) for one in value[: MOST_SHAPES + 1])
    except (KeyError, TypeError, ValueError) as error:
        raise MaskUnusable("The drawing can't be read; clear it and draw again.") from error
    if len(shapes) > MOST_SHAPES or sum(len(shape.at) for shape in shapes) > MOST_NUMBERS:
        raise MaskUnusable(f"The drawing has more than {MOST_SHAPES} steps; take some back, or clear it.")
    return shapes


def _shape(value: Mapping, size: Size) -> Shape:
    shape = Shape(value["tool"], bool(value["erase"]), float(value["radius"]), tuple(map(float, value["at"])))
    whole = len(shape.at) >= LEAST[shape.tool] and len(shape.at) % 2 == 0
    if not whole or not all(0 <= n <= max(size) for n in (*shape.at, shape.radius)):
        raise ValueError("no shape on this picture")
    return shape


def redrawn(drawing: Drawing, value: Mapping) -> Drawing:
    """The drawing as the browser's message says it; :class:`MaskUnusable` for one that can't be read."""
    base = None if value.get("cleared") else drawing.base
    size = (drawing.inside.shape[1], drawing.inside.shape[0])
    kept = drawing if base is drawing.base else blank(size)
    return follow(kept, read_shapes(value["shapes"], size), int(value["version"]))


def edit_mask(key: str, picture: Picture, drawing: Drawing, take: Callable[[Mapping], None]) -> None:
    """The editor, showing a drawing on its picture; ``take`` gets each change, for :func:`redrawn`, before the page is drawn
    again."""
    mount(
        _EDITOR,
        key,
        take,
        {
            "subject": picture.digest,
            "version": drawing.version,
            "width": picture.width,
            "height": picture.height,
            "image": _photo(picture, picture.digest),
            "shapes": [asdict(shape) for shape in drawing.shapes],
            "base": _cover(drawing.base) if drawing.base else "",
        },
    )


def mount(editor: Callable[..., Any], key: str, take: Callable[[Mapping], None], data: dict[str, Any]) -> None:
    """Put an editor on the page; a message about another picture than it shows now is late, and left alone."""

    def changed() -> None:
        value = st.session_state[key].get("changed")
        if value and value.get("subject") == data["subject"]:
            take(value)

    editor(key=key, data=data, on_changed_change=changed)


@st.cache_data(max_entries=16, show_spinner=False)
def _photo(_picture: Picture, digest: str) -> str:
    small = _picture.image.copy()
    small.thumbnail((LONGEST, LONGEST))
    return data_uri(small, "jpeg")


def data_uri(image: Image.Image, kind: str) -> str:
    """An image as an address that holds its bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _cover(mask: Mask) -> str:
    """A mask as an image, in the editor's colour where it is and clear elsewhere."""
    step = math.ceil(max(mask.inside.shape) / LONGEST)
    inside = mask.inside[::step, ::step]
    pixels = np.zeros((*inside.shape, 4), dtype=np.uint8)
    pixels[inside] = (0x56, 0xB4, 0xE9, 255)
    return data_uri(Image.fromarray(pixels), "png")
