"""Which pixels of the original picture a visual token covers: resizing, cropping and padding undone.

Coordinates are pixels of the picture after its EXIF rotation, x to the right, y down; a box is (x0, y0, x1, y1) with the
far edges exclusive, cut to the picture. A patch that lies wholly on padding has a box of zero area.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from lens.errors import ModelUnreadable

MAX_ASPECT = 16.0
"""Longest side over shortest side that is resized as it is. A 5000 x 3 strip at shortest side 336 would become a picture
of 560,000 x 336; what a centre crop never shows the encoder is cut away first."""


@dataclass(frozen=True)
class Placement:
    """Where the picture lies in the encoder's input: ``input = original * scale + shift``, per axis.

    ``rows``/``columns`` of the input are ``height``/``width`` pixels.
    """

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float
    width: int
    height: int

    def boxes(self, rows: int, cols: int, size: tuple[int, int]) -> Float[np.ndarray, "rows cols 4"]:
        """The boxes, in pixels of a picture of ``size`` (width, height), of a grid that divides the input evenly."""
        x, y = np.arange(cols + 1) * (self.width / cols), np.arange(rows + 1) * (self.height / rows)
        return self.rectangles(x[:-1], x[1:], y[:-1], y[1:], size)

    def rectangles(
        self,
        left: Float[np.ndarray, " cols"],
        right: Float[np.ndarray, " cols"],
        top: Float[np.ndarray, " rows"],
        bottom: Float[np.ndarray, " rows"],
        size: tuple[int, int],
    ) -> Float[np.ndarray, "rows cols 4"]:
        """The boxes, in pixels of a picture of ``size``, of columns and rows given in pixels of the input."""
        boxes = np.empty((len(top), len(left), 4))
        for edge, x in ((0, left), (2, right)):
            boxes[..., edge] = np.clip((x - self.shift_x) / self.scale_x, 0, size[0])[None]
        for edge, y in ((1, top), (3, bottom)):
            boxes[..., edge] = np.clip((y - self.shift_y) / self.scale_y, 0, size[1])[:, None]
        return boxes


def trim(image: Image.Image, processor: Any) -> tuple[Image.Image, tuple[int, int]]:
    """The part of a very long picture that the processor's centre crop can see, and where it starts (x, y).

    Pictures up to :data:`MAX_ASPECT`, and processors that show all of a picture, are left alone.
    """
    width, height = image.size
    longest = int(min(width, height) * MAX_ASPECT)
    crops = getattr(processor, "do_center_crop", False) and not _pads_to_square(processor)
    if not crops or max(width, height) <= longest:
        return image, (0, 0)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest))), (left, top)


def single_view(processor: Any, size: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Placement:
    """One square (or rectangular) view: optional pad to square, resize, optional centre crop, as HF's processors do it.

    Args:
        processor: an HF image processor with ``size``, ``crop_size``, ``do_resize``, ``do_center_crop``, ``do_pad``.
        size: (width, height) of the picture handed to it.
        origin: where that picture starts in the original one (see :func:`trim`).

    The arithmetic is that of ``transformers.image_transforms``: shortest side by ``int(size * long / short)``, crop from
    ``(length - crop) // 2``, zero padding of ``ceil((crop - length) / 2)`` before a picture smaller than the crop.
    """
    width, height = size
    shift_x, shift_y = float(-origin[0]), float(-origin[1])
    if _pads_to_square(processor):
        longest = max(width, height)
        shift_x, shift_y = shift_x + (longest - width) // 2, shift_y + (longest - height) // 2
        width = height = longest
    scale_x = scale_y = 1.0
    if getattr(processor, "do_resize", True):
        new_width, new_height = _resized(processor.size, width, height)
        scale_x, scale_y = new_width / width, new_height / height
        shift_x, shift_y = shift_x * scale_x, shift_y * scale_y
        width, height = new_width, new_height
    if getattr(processor, "do_center_crop", False):
        crop = processor.crop_size
        shift_x, width = shift_x + _crop_shift(width, crop["width"]), crop["width"]
        shift_y, height = shift_y + _crop_shift(height, crop["height"]), crop["height"]
    return Placement(scale_x, scale_y, shift_x, shift_y, width, height)


def _pads_to_square(processor: Any) -> bool:
    """LLaVA's own processor pads before it resizes; elsewhere ``do_pad`` evens out a batch, which here is one picture."""
    return bool(getattr(processor, "do_pad", False)) and hasattr(processor, "pad_to_square")


def _resized(size: Any, width: int, height: int) -> tuple[int, int]:
    shortest = entry(size, "shortest_edge")
    if shortest:
        if width <= height:
            return shortest, int(shortest * height / width)
        return int(shortest * width / height), shortest
    wanted = entry(size, "width"), entry(size, "height")
    if None in wanted:
        raise ModelUnreadable(
            f"The image processor resizes by {size}, a rule whose patch geometry isn't known here; "
            "choose a model whose processor resizes by shortest edge or to a fixed size."
        )
    return wanted  # type: ignore[return-value]


def entry(size: Any, key: str) -> int | None:
    """One entry of a processor's size, a dictionary or an object; ``None`` where it has none."""
    try:
        return size[key]
    except (KeyError, AttributeError):
        return None


def _crop_shift(length: int, crop: int) -> float:
    return -float((length - crop) // 2) if length >= crop else float(ceil((crop - length) / 2))
