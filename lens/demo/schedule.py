"""How a connector's training is laid out over its time, or over a number of steps.

Everything that changes while it runs is a function of its progress, from 0 to 1: how many cells are shown, how many pictures
a step takes, the learning rate, the weights of the regularisers. Progress is the share of the minutes that have passed, so
that the same command does on any machine what its time allows; or of the steps, which makes a run a function of its
settings. The figures are those of the run that made the shipped connectors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lens.demo.convert import CELLS

CELLS_UNTIL = ((0.06, 16), (0.25, 36), (0.50, 72))
"""(progress, cells): until then so many random cells of each picture are shown, afterwards all."""
OPENING = 0.06
"""Progress until which pictures are single photographs, of which the cells in the middle are preferred."""
SMALL_BATCHES = 0.25
"""Progress until which a step takes half a batch: more and cheaper steps."""
WARMUP = 40
"""Steps of linear rise of the learning rate."""
PLATEAU, FLOOR = 0.35, 0.01
"""Progress from which on the rate falls, along a cosine, and the share of it that is left."""
RETURN = (0.70, 0.80)
"""Progress between which the regularisers' weights rise: the caption loss drives the outputs' length and direction away from
those of words; this brings them back while the captions stay."""
STAGE_ZERO_TIME = 0.1
"""Share of the time that stage 0, pictures included, may take at most."""


@dataclass(frozen=True)
class Settings:
    """A run.

    Attributes:
        minutes: of training, stage 0 included; ``steps``: so many optimiser steps instead.
        batch: pictures of a step.
        hold_out: keep the held-out classes' photographs and names from the caption loss.
        scratch: random start, caption loss alone.
        alignment, distance: weights of the regularisers before and after the return.
        stage_zero: steps of stage 0; ``stage_zero_pictures``: on so many pictures. Both stop early when their time is over.
    """

    minutes: float = 3.0
    steps: int | None = None
    batch: int = 256
    seed: int = 0
    scratch: bool = False
    hold_out: bool = False
    learning_rate: float = 2e-3
    alignment: tuple[float, float] = (0.3, 0.7)
    distance: tuple[float, float] = (0.1, 0.25)
    stage_zero: int = 1500
    stage_zero_pictures: int = 2160

    def cells_at(self, progress: float) -> int:
        """How many cells of a picture are shown."""
        return next((cells for until, cells in CELLS_UNTIL if progress < until), CELLS)

    def opens_at(self, progress: float) -> bool:
        """Whether that is in the opening."""
        return progress < OPENING

    def batch_at(self, progress: float) -> int:
        """Pictures of a step."""
        return max(1, self.batch // 2) if progress < SMALL_BATCHES else self.batch

    def rate_at(self, progress: float, step: int) -> float:
        """Learning rate."""
        fallen = min(1.0, max(0.0, (progress - PLATEAU) / (1 - PLATEAU)))
        fall = 0.5 * (1 + math.cos(math.pi * fallen))
        return self.learning_rate * min(1.0, (step + 1) / WARMUP) * max(FLOOR, fall)

    def weights_at(self, progress: float) -> tuple[float, float]:
        """Weights of the alignment and the distance loss."""
        start, stop = RETURN
        risen = min(1.0, max(0.0, (progress - start) / (stop - start)))
        alignment, distance = (low + (high - low) * risen for low, high in (self.alignment, self.distance))
        return alignment, distance


@dataclass
class Stopwatch:
    """Seconds that a run has taken so far, ``before`` in earlier pieces of it. ``clock`` is for tests."""

    clock: Callable[[], float] = time.monotonic
    before: float = 0.0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def seconds(self) -> float:
        return self.before + self.clock() - self.started
