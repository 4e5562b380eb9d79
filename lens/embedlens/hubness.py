"""The hubness control: how often each anchor wins for states that no picture's content made.

In many dimensions some vocabulary entries are near everything ("hubs"). An anchor that wins as often for random vectors, for
noise or for blank images as for photographs says something of the embeddings, and little of the picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lens.backend.encoding import DEFAULT_PROMPT, encode, visual_grid
from lens.backend.images import Picture, open_picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import RULES
from lens.embedlens.probe import probe
from lens.progress import Report, part, silent

SIDE = 384
"""Pixels of a side of the images that are made; the processor scales them to the model's input."""

BLANKS = ((0, 0, 0), (85, 85, 85), (170, 170, 170), (255, 255, 255), (200, 40, 40), (40, 160, 60), (40, 60, 200))


@dataclass(frozen=True, eq=False)
class Control:
    """One kind of states without content.

    Attributes:
        name, meaning: for a reader.
        states: how many were looked at.
        wins: by anchor (in the order of the anchors), the share of the states whose best word it is.
        touches: by anchor, the share of the states that have it among their three best words.
    """

    name: str
    meaning: str
    states: int
    wins: Float[np.ndarray, " anchors"]
    touches: Float[np.ndarray, " anchors"]


@dataclass(frozen=True, eq=False)
class Hubness:
    """All controls of one model's anchors. ``chance`` is the share that each entry would win if all won equally."""

    anchors: Anchors
    controls: tuple[Control, ...]
    chance: float


def hubness(
    loaded: LoadedModel,
    anchors: Anchors,
    states: Float[Tensor, "n d"] | None = None,
    *,
    prompt: str = DEFAULT_PROMPT,
    samples: int = 1000,
    images: int = 7,
    seed: int = 0,
    report: Report = silent,
) -> Hubness:
    """How often each anchor wins for random vectors, noise images and blank images.

    Gaussian vectors have a random direction, which is all that a cosine sees: matching their norm changes nothing. Given
    ``states`` (the visual tokens of a real picture), they are also drawn with the mean and the spread of each of its
    dimensions; that tells what the place of the cloud alone does, without any token's own direction.

    Raises:
        CapabilityMissing: the model takes no pictures.
    """
    loaded.anatomy.require("connector")
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(samples, loaded.anatomy.width, generator=generator)
    controls = [_control(loaded, anchors, "Gaussian", "random directions", cloud)]
    if states is not None:
        real = states.float().cpu()
        shaped = real.mean(0) + cloud * real.std(0, correction=0)
        meaning = "random, with the mean and spread that the picture's tokens have in each dimension"
        controls.append(_control(loaded, anchors, "Gaussian, shaped", meaning, shaped))
    for index, (name, meaning, make) in enumerate(IMAGES):
        pictures = make(images, seed)
        tokens = _tokens(loaded, pictures, prompt, images, part(report, index / len(IMAGES), (index + 1) / len(IMAGES)))
        controls.append(_control(loaded, anchors, name, meaning, tokens))
    return Hubness(anchors, tuple(controls), 1 / loaded.anatomy.vocab_size)


def noise_pictures(count: int, seed: int) -> Iterator[Picture]:
    """Every pixel of its own random colour."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        yield _picture(Image.fromarray(pixels), f"noise {number + 1}")


def blank_pictures(count: int, seed: int) -> Iterator[Picture]:
    """One colour each: black, greys, white, then red, green, blue, then random ones."""
    extra = np.random.default_rng(seed).integers(0, 256, (max(0, count - len(BLANKS)), 3)).tolist()
    for number, colour in enumerate([*BLANKS, *map(tuple, extra)][:count]):
        yield _picture(Image.new("RGB", (SIDE, SIDE), colour), f"blank {number + 1}")


IMAGES: tuple[tuple[str, str, Callable[[int, int], Iterator[Picture]]], ...] = (
    ("Noise images", "every pixel of a random colour", noise_pictures),
    ("Blank images", "one colour each", blank_pictures),
)


def _tokens(
    loaded: LoadedModel, pictures: Iterator[Picture], prompt: str, count: int, report: Report
) -> Float[Tensor, "n d"]:
    """Layer 0 of all visual tokens of some pictures."""
    rows = []
    for number, picture in enumerate(pictures):
        report(number, count, f"Hubness: {picture.name}")
        held = trace(loaded, encode(loaded, prompt, picture), ["hidden.0"])
        rows.append(held.hidden(0)[visual_grid(held.token_map).positions.reshape(-1)])
    return torch.cat(rows)


def _control(loaded: LoadedModel, anchors: Anchors, name: str, meaning: str, states: Tensor) -> Control:
    ids = [anchor.id for anchor in anchors.found]
    best = probe(loaded, states, max(RULES)).ids
    wins, touches = (np.array([(best[:, :rule] == i).any(1).mean() for i in ids], dtype=np.float64) for rule in RULES)
    return Control(name, meaning, len(states), wins, touches)


def _picture(image: Image.Image, name: str) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return open_picture(buffer.getvalue(), name)
