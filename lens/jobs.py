"""Long work in a thread of its own, watched from outside: it goes on when the browser that started it is closed.

A job is started once; any number of watchers read its progress, and any of them may cancel it. Where many readers start
jobs, a :class:`Crew` runs a few at a time and lets the others wait in a fair order.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from lens.errors import Cancelled
from lens.progress import Estimate, Report
from lens.turns import Urgency, working_for

Result = TypeVar("Result")

NICE = {Urgency.PAGE: 0, Urgency.ANSWER: 10, Urgency.LONG: 15}
"""The least niceness of a job's thread, -20..19."""


class Job(Generic[Result]):
    """``work(report)`` in a daemon thread, started at once, or by the :class:`Crew` that it waits in.

    Attributes:
        share: how much is done, 0..1.
        message: what is going on.
        left: estimated seconds left, ``None`` while unknown.
    """

    def __init__(
        self, work: Callable[[Report], Result], crew: Crew | None = None, urgency: Urgency = Urgency.LONG
    ) -> None:
        self.share = 0.0
        self.message = ""
        self.left: float | None = None
        self._estimate = Estimate()
        self._cancelled = threading.Event()
        self._done = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._crew = crew
        self._urgency = urgency
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        if crew is None:
            self._thread.start()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    def kept(self) -> Result | None:
        """The result, which is kept as long as the job is; ``None`` while there is none."""
        return self._result

    @property
    def ahead(self) -> int:
        """How many jobs are before it; 0 once it has been started."""
        return self._crew.ahead(self) if self._crew else 0

    def wait(self, seconds: float) -> bool:
        """Wait at most that long; whether the job is done then."""
        return self._done.wait(seconds)

    def cancel(self) -> None:
        """Ask the work to stop at its next report, where it keeps what it has done; one that still waits never starts."""
        self._cancelled.set()
        if self._crew and self._crew.dismiss(self):
            self._error = _cancelled()
            self._done.set()

    def result(self) -> Result:
        """Wait for the end; the work's result, or what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _run(self, work: Callable[[Report], Result]) -> None:
        try:
            _step_back(self._urgency)
            with working_for(self._urgency):
                self._result = work(self._report)
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._done.set()
            if self._crew:
                self._crew.released(self)

    def _report(self, done: float, total: float, message: str) -> None:
        if self._cancelled.is_set():
            raise _cancelled()
        self.share = min(1.0, done / total) if total else 0.0
        self.left = self._estimate.left(done, total)
        self.message = message


class Crew:
    """Runs at most ``most`` jobs at once, at most ``each`` of one owner. Of those that wait, the next is of the owner who
    has the fewest running; among equals, the one that came first."""

    def __init__(self, most: int, each: int) -> None:
        self.most, self.each = most, each
        self._guard = threading.Lock()
        self._waiting: list[tuple[Hashable, Job[Any]]] = []
        self._running: list[tuple[Hashable, Job[Any]]] = []

    def start(self, work: Callable[[Report], Result], owner: Hashable, urgency: Urgency = Urgency.LONG) -> Job[Result]:
        """A job for ``owner``, begun as soon as there is room."""
        job = Job(work, self, urgency)
        with self._guard:
            self._waiting.append((owner, job))
            self._begin()
        return job

    def waiting(self, owner: Hashable) -> int:
        """How many jobs of one owner wait."""
        with self._guard:
            return sum(one == owner for one, _ in self._waiting)

    def ahead(self, job: Job[Any]) -> int:
        """How many jobs run or wait before this one; 0 for one that runs or is done."""
        with self._guard:
            order = [waiting for _, waiting in self._order()]
            return len(self._running) + order.index(job) if job in order else 0

    def dismiss(self, job: Job[Any]) -> bool:
        """Take a job out that still waits; whether it did."""
        with self._guard:
            kept = [entry for entry in self._waiting if entry[1] is not job]
            waited = len(kept) < len(self._waiting)
            self._waiting = kept
            return waited

    def released(self, job: Job[Any]) -> None:
        """Called by a job at its end."""
        with self._guard:
            self._running = [entry for entry in self._running if entry[1] is not job]
            self._begin()

    def _begin(self) -> None:
        while len(self._running) < self.most:
            following = next((entry for entry in self._order() if self._held(entry[0]) < self.each), None)
            if following is None:
                return
            self._waiting.remove(following)
            self._running.append(following)
            following[1]._thread.start()

    def _order(self) -> list[tuple[Hashable, Job[Any]]]:
        """Those that wait, in the order in which they would start: round after round, one of each owner."""
        rounds: dict[Hashable, int] = {}
        ranked = []
        for number, (owner, job) in enumerate(self._waiting):
            turn = rounds[owner] = rounds.get(owner, self._held(owner)) + 1
            ranked.append((turn, number, (owner, job)))
        return [entry for _, _, entry in sorted(ranked, key=lambda one: one[:2])]

    def _held(self, owner: Hashable) -> int:
        return sum(one == owner for one, _ in self._running)


def _step_back(urgency: Urgency) -> None:
    """Let the threads of pages have the processor first: where the system gives each thread a priority of its own, and those
    that it starts, as OpenMP's, inherit it. The thread ends with its job, so nothing has to be put back."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(NICE[urgency], os.getpriority(os.PRIO_PROCESS, me)))


def _cancelled() -> Cancelled:
    return Cancelled("The work was cancelled; what was done so far is kept, and starting again goes on from there.")
