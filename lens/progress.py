"""Progress of long work: one callback type, with an estimate of the time left.

Long functions take ``report: Report = silent`` and call it often. To cancel, the callback raises
:class:`lens.errors.Cancelled`; the work then stops where it is and can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Report = Callable[[float, float, str], None]
"""``report(done, total, message)``: how much of ``total`` is done, in any unit, and what is going on."""


def silent(done: float, total: float, message: str) -> None:
    """A report that goes nowhere."""


def part(report: Report, start: float, stop: float) -> Report:
    """A report for one part of a longer piece of work: its 0..total is shown as ``start``..``stop`` of 1."""

    def inner(done: float, total: float, message: str) -> None:
        share = done / total if total else 1.0
        report(start + (stop - start) * share, 1.0, message)

    return inner


@dataclass
class Estimate:
    """Time left, from the rate so far. ``clock`` is for tests."""

    clock: Callable[[], float] = time.monotonic
    started: float | None = field(default=None, init=False)
    first: float = field(default=0.0, init=False)

    def left(self, done: float, total: float) -> float | None:
        """Seconds left, or ``None`` while nothing has been done yet."""
        now = self.clock()
        if self.started is None:
            self.started, self.first = now, done
        fresh = done - self.first
        if fresh <= 0:
            return None
        return (now - self.started) / fresh * (total - done)


def duration(seconds: float) -> str:
    """Seconds as a reader says them: ``8 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
