"""Whose turn it is where only one thread may work at a time: a page that a reader waits for goes before an answer, an
answer before long work, and otherwise it is first come, first served.

Python's own locks promise no order: a loop that takes its lock anew at every step may keep all others out.
"""

from __future__ import annotations

import enum
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

PATIENCE = 10.0
"""Seconds after which whoever waits counts as a page: nobody waits for ever."""


class Urgency(enum.IntEnum):
    """What a thread works for; the lowest goes first."""

    PAGE = 0
    ANSWER = 1
    LONG = 2


_URGENCY: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.PAGE)


@contextmanager
def working_for(urgency: Urgency) -> Iterator[None]:
    """Inside, this thread asks for its turns with that urgency."""
    before = _URGENCY.set(urgency)
    try:
        yield
    finally:
        _URGENCY.reset(before)


@dataclass(eq=False)
class _Waiting:
    """A thread in the queue."""

    thread: int
    urgency: Urgency
    number: int
    since: float
    called: threading.Event = field(default_factory=threading.Event)

    def rank(self, now: float) -> tuple[int, int]:
        return (Urgency.PAGE if now - self.since >= PATIENCE else self.urgency), self.number


class Turns:
    """A lock for ``with``: held by one thread, which may take it again, and handed to the next in order."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._holder: int | None = None
        self._depth = 0
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Turns:
        me = threading.get_ident()
        with self._guard:
            if self._holder in (None, me):
                self._holder = me
                self._depth += 1
                return self
            mine = _Waiting(me, _URGENCY.get(), next(self._numbers), time.monotonic())
            self._queue.append(mine)
        try:
            mine.called.wait()
        except BaseException:  # an interrupt while waiting: leave the queue, or pass on what was just handed over
            with self._guard:
                if mine in self._queue:
                    self._queue.remove(mine)
                else:
                    self._hand_on()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        with self._guard:
            self._depth -= 1
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        """To the next in the queue; the guard is held."""
        self._holder, self._depth = None, 0
        if self._queue:
            now = time.monotonic()
            following = min(self._queue, key=lambda waiting: waiting.rank(now))
            self._queue.remove(following)
            self._holder, self._depth = following.thread, 1
            following.called.set()
