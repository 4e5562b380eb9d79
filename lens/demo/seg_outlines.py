"""Outlines of what the photographs show, where somebody has made them: training may cut photographs along them.

Nothing here makes outlines; without them photographs are cut as ellipses and rounded rectangles. The shipped weights were
trained with outlines made by class activation of the encoder's ImageNet head at 512 pixels, refined by GrabCut.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lens.errors import LabelsUnusable

SIDE = 128
"""Cells a side of an outline; it lies over a photograph's centre square."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """One row a photograph, in the order of the encoder's head.

    Attributes:
        masks: [photographs, 128, 128] bool, what belongs to the object.
        good: [photographs] bool, whether the outline is to be trusted; the others are not used.
        boxes: [photographs, 4], the mask's box as shares of the centre square (left, top, right, bottom).
    """

    masks: np.ndarray
    good: np.ndarray
    boxes: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """The share of the centre square that each outline holds, [photographs]."""
        return self.masks.mean((1, 2))


def no_outlines(photographs: int) -> Outlines:
    """None of so many photographs has an outline."""
    return Outlines(
        np.zeros((photographs, SIDE, SIDE), bool), np.zeros(photographs, bool), np.zeros((photographs, 4), np.float32)
    )


def read_outlines(path: Path, photographs: int) -> Outlines:
    """Outlines from an ``.npz`` of ``bits`` [n, 128, 16] uint8 (rows of ``masks``, packed by numpy), ``good`` and ``boxes``.

    Raises:
        LabelsUnusable: the file can't be read, lacks an array, or has another shape than one row a photograph.
    """
    try:
        with np.load(path) as held:
            bits, good, boxes = held["bits"], held["good"], held["boxes"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise LabelsUnusable(
            f"{path} can't be read as outlines ({error}); give an .npz with the arrays bits, good and boxes."
        ) from error
    expected = (photographs, SIDE, SIDE // 8), (photographs,), (photographs, 4)
    found = bits.shape, good.shape, boxes.shape
    if found != expected or bits.dtype != np.uint8:
        raise LabelsUnusable(
            f"{path} holds bits, good and boxes of the shapes {found}, but {expected} are needed for {photographs} "
            "photographs; give the outlines of these photographs."
        )
    return Outlines(np.unpackbits(bits, axis=-1).astype(bool), good.astype(bool), boxes.astype(np.float32))
