"""The labelled photographs that the offline model's parts are trained on, and how the encoder takes a picture.

The photographs are a folder of ``<wnid>_<class>.jpg``, one per ImageNet class; sorted by name they stand in the order of
the encoder's head. Invariant: which classes are held out depends on the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lens.demo.architecture import EfficientNetLite
from lens.demo.convert import IMAGE_SIZE
from lens.errors import ImagesMissing

CLASSES = 1000
HELD_OUT = 100


def photographs(folder: Path) -> list[Path]:
    """The photographs in the order of the encoder's head.

    Raises:
        ImagesMissing: there isn't exactly one for each of 1,000 classes.
    """
    found = sorted(folder.glob("n[0-9]*_*.jpg"))
    if len({path.name.split("_")[0] for path in found}) != CLASSES or len(found) != CLASSES:
        raise ImagesMissing(
            f"Of photographs named <wnid>_<class>.jpg {folder} holds {len(found):,}; one for each of the {CLASSES:,} "
            "ImageNet classes is needed, so give the folder that has them."
        )
    return found


def held_out(seed: int) -> frozenset[int]:
    """The classes (indices of the head) that can be kept from training."""
    return frozenset(random.Random(seed).sample(range(CLASSES), HELD_OUT))


def opened(path: Path) -> Image.Image:
    """A photograph in RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def crop(image: Image.Image, seed: int) -> Image.Image:
    """A square of ``image``; random place, size (45-100 % of the largest square's side) and sense (mirrored or not)."""
    rng = random.Random(seed)
    side = min(image.size) * rng.uniform(0.45, 1.0)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    square = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box)
    return ImageOps.mirror(square) if rng.random() < 0.5 else square


def whole(image: Image.Image) -> Image.Image:
    """The processor's own crop: shorter side to 384, centre square."""
    scale = IMAGE_SIZE / min(image.size)
    w, h = (max(IMAGE_SIZE, int(side * scale)) for side in image.size)
    left, top = (w - IMAGE_SIZE) // 2, (h - IMAGE_SIZE) // 2
    return image.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


def scaled(grey: Tensor) -> Tensor:
    """Grey levels 0..255 as the tower takes them: (value - 127) / 128."""
    return (grey - 127) / 128


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """Images as the tower takes them: ``[batch, 3, 384, 384]``."""
    return scaled(torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float())


@torch.no_grad()
def encode(tower: EfficientNetLite, pictures: Tensor) -> Tensor:
    """Vision states [batch, 144, 1280] of pictures [batch, 3, 384, 384], in the tower's data type and on its device."""
    weight = tower.stem.weight
    return tower(pictures.to(weight.device, memory_format=torch.channels_last)).last_hidden_state
