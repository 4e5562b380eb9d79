"""Training pictures as cached vision states: labelled photographs and crops of them.

The photographs are a folder of ``<wnid>_<class>.jpg``, one per ImageNet class; sorted by name they stand in the order of
the encoder's head. Invariants: the split into trained and held-out classes depends on the seed alone; only the whole
photograph of a held-out class is cached, for measuring, and no crop of it; the first 1,000 pictures are the photographs
exactly as the demo's processor shows them, the others are random crops.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lens.demo.architecture import EfficientNetLite
from lens.demo.convert import CELLS, IMAGE_SIZE
from lens.progress import Report, silent

CLASSES = 1000
HELD_OUT = 100
CROPS = 5
BATCH = 16


@dataclass(frozen=True)
class Shot:
    """One cached picture: a class (index of the head) and a crop seed; ``None`` is the processor's own crop."""

    label: int
    seed: int | None


def photographs(folder: Path) -> list[Path]:
    """The photographs in the order of the encoder's head; ``ValueError`` unless there is one for each of 1,000 classes."""
    found = sorted(folder.glob("n[0-9]*_*.jpg"))
    if len({path.name.split("_")[0] for path in found}) != CLASSES or len(found) != CLASSES:
        raise ValueError(
            f"{folder} holds {len(found)} photographs; one <wnid>_<class>.jpg per ImageNet class is needed"
        )
    return found


def held_out(seed: int) -> frozenset[int]:
    """The classes (indices of the head) that are kept from training."""
    return frozenset(random.Random(seed).sample(range(CLASSES), HELD_OUT))


def shots(seed: int) -> list[Shot]:
    """What is cached: every photograph as the processor shows it, then crops of the trained ones."""
    rng = random.Random(seed + 1)
    trained = sorted(set(range(CLASSES)) - held_out(seed))
    crops = [Shot(label, rng.randrange(1, 1 << 30)) for _ in range(CROPS) for label in trained]
    return [Shot(label, None) for label in range(CLASSES)] + crops


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


def picture(shot: Shot, files: list[Path]) -> Image.Image:
    """Draw one picture, 384 x 384."""
    image = Image.open(files[shot.label]).convert("RGB")
    return whole(image) if shot.seed is None else crop(image, shot.seed)


def pixels(images: list[Image.Image]) -> Tensor:
    """Images as the tower takes them: ``[batch, 3, 384, 384]``, (value - 127) / 128."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return (stacked.float() - 127) / 128


@torch.inference_mode()
def encode(tower: EfficientNetLite, images: list[Image.Image]) -> Tensor:
    """Vision states [batch, 144, 1280] in the tower's data type."""
    return tower(pixels(images).to(memory_format=torch.channels_last)).last_hidden_state


def cache_states(
    tower: EfficientNetLite, files: list[Path], todo: list[Shot], path: Path, report: Report = silent
) -> None:
    """Write the vision states of every picture, [pictures, 144, 1280] bfloat16 as int16; an earlier run is resumed."""
    shape = (len(todo), CELLS, tower.config.hidden_size)
    mark = path.with_suffix(".json")
    done = json.loads(mark.read_text())["done"] if mark.exists() and path.exists() else 0
    if done >= len(todo):
        return
    states = np.lib.format.open_memmap(path, "r+" if done else "w+", np.int16, shape)
    encoder = cast(Any, tower).to(torch.bfloat16, memory_format=torch.channels_last)
    for start in range(done, len(todo), BATCH):
        found = encode(encoder, [picture(shot, files) for shot in todo[start : start + BATCH]])
        states[start : start + len(found)] = found.contiguous().view(torch.int16).numpy()
        states.flush()
        mark.write_text(json.dumps({"done": start + len(found)}))
        report(start + len(found), len(todo), "Caching vision states")


def open_states(path: Path) -> np.ndarray:
    """The cached states, memory-mapped; rows go to torch with :func:`as_tensor`."""
    return np.load(path, mmap_mode="r")


def as_tensor(rows: np.ndarray) -> Tensor:
    """Rows of the cache as bfloat16."""
    return torch.from_numpy(np.array(rows)).view(torch.bfloat16)
