"""Training examples, made where the training runs: drawn, encoded, checked by the encoder's head, asked about and answered.

A batch is begun and finished apart. Beginning it puts all work for the device in its queue; finishing it, when the head's
opinion has come back, writes the texts on the processor, while a GPU already works at the next batch. Invariant: a batch is
a function of the seed and its number, its size and whether pictures are mixed.
"""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens.demo.architecture import EfficientNetLite
from lens.demo.captions import TOP, Captions
from lens.demo.drawing import Canvas, carry
from lens.demo.photos import encode
from lens.demo.pictures import SINGLE, Plan, plan_pictures
from lens.demo.start import Head

CHUNK = 48
"""Pictures drawn and encoded at once, at most: what of it is in memory is some 20 MB a picture."""
SPARE = 1.12
"""Pictures begun for each that is wanted: some can't be named."""


class Opinion:
    """What the encoder's head finds in each part: on its way back from the device until it is read."""

    def __init__(self, likeliest: Tensor, probability: Tensor) -> None:
        both = torch.cat((likeliest.float(), probability), -1)
        self._values = both.to("cpu", non_blocking=True)
        self._arrived: Any = torch.Event(both.device) if both.device.type != "cpu" else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes [n, 4, 5], likeliest first, and the first one's probability [n, 4]."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values = self._values.numpy()
        return values[..., :-1].astype(np.int64), values[..., -1]


@dataclass(frozen=True, eq=False)
class Begun:
    """A batch whose pictures are being made."""

    number: int
    plan: Plan
    states: Float[Tensor, "n 144 1280"]
    opinion: Opinion


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples, those with the shortest texts first.

    Attributes:
        states: vision states [n, 144, 1280]; ``single``: whether the picture is one photograph.
        texts: (ids from the last cell to the assistant's turn, ids of the answer).
        rng: what else is drawn for this batch comes from here.
    """

    states: Float[Tensor, "n 144 1280"]
    single: np.ndarray
    texts: list[tuple[list[int], list[int]]]
    rng: np.random.Generator

    def __len__(self) -> int:
        return len(self.texts)


class Examples:
    """Makes batches of the photographs of ``classes``."""

    def __init__(
        self, canvas: Canvas, tower: EfficientNetLite, head: Head, captions: Captions, classes: list[int], seed: int
    ) -> None:
        self.canvas, self.head, self.captions, self.classes, self.seed = canvas, head, captions, classes, seed
        # The published weights are float16 and no state leaves its range; processors are slow at it.
        half = torch.bfloat16 if canvas.device.type == "cpu" else torch.float16
        encoder = cast(Any, copy.deepcopy(tower)).to(canvas.device, half, memory_format=torch.channels_last)
        self._encoder: EfficientNetLite = encoder.eval().requires_grad_(False)

    def begin(self, number: int, wanted: int, mixed: bool) -> Begun:
        """Pictures for ``wanted`` examples and some to spare, in whole chunks."""
        spared = math.ceil(wanted * SPARE)
        chunk = min(CHUNK, spared)
        rng = np.random.default_rng((self.seed, number, 0))
        plan = plan_pictures(self.canvas.sizes, self.classes, -(-spared // chunk) * chunk, rng, mixed)
        states = torch.cat([encode(self._encoder, pictures) for pictures in self.canvas.draw(plan, chunk)])
        return Begun(number, plan, states, self._opinion(plan, states))

    def finish(self, begun: Begun, wanted: int) -> Batch:
        """Up to ``wanted`` examples of a batch that was begun."""
        labels = self.captions.labels(begun.plan, *begun.opinion.read())
        texts = self.captions.texts(begun.plan, labels, wanted, random.Random(f"{self.seed}/{begun.number}"))
        rows = np.array([row for row, _, _ in texts], np.int64)
        return Batch(
            states=begun.states[carry(rows, self.canvas.device, torch.long)],
            single=begun.plan.layout[rows] == SINGLE,
            texts=[(after, said) for _, after, said in texts],
            rng=np.random.default_rng((self.seed, begun.number, 1)),
        )

    @torch.no_grad()
    def _opinion(self, plan: Plan, states: Tensor) -> Opinion:
        """What the head makes of each part: of the mean of its cells, by how much of each it covers."""
        cover = carry(plan.cover, self.canvas.device, torch.float32)
        mean = (cover @ states.float()) / cover.sum(-1, keepdim=True).clamp_min(1e-3)
        probability, likeliest = self.head.logits(mean).softmax(-1).topk(min(TOP, len(self.head.bias)), -1)
        return Opinion(likeliest, probability[..., :1])
