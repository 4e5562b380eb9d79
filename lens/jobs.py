"""Long work in a thread of its own, watched from outside: it goes on when the browser that started it is closed.

A job is started once; any number of watchers read its progress, and any of them may cancel it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from lens.errors import Cancelled
from lens.progress import Estimate, Report

Result = TypeVar("Result")


class Job(Generic[Result]):
    """``work(report)`` in a daemon thread, started at once.

    Attributes:
        share: how much is done, 0..1.
        message: what is going on.
        left: estimated seconds left, ``None`` while unknown.
    """

    def __init__(self, work: Callable[[Report], Result]) -> None:
        self.share = 0.0
        self.message = ""
        self.left: float | None = None
        self._estimate = Estimate()
        self._cancelled = threading.Event()
        self._done = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait at most that long; whether the job is done then."""
        return self._done.wait(seconds)

    def cancel(self) -> None:
        """Ask the work to stop at its next report; what it has done so far is kept as it keeps it."""
        self._cancelled.set()

    def result(self) -> Result:
        """Wait for the end; the work's result, or what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _run(self, work: Callable[[Report], Result]) -> None:
        try:
            self._result = work(self._report)
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._done.set()

    def _report(self, done: float, total: float, message: str) -> None:
        if self._cancelled.is_set():
            raise Cancelled(
                "The work was cancelled; what was done so far is kept, and starting again goes on from there."
            )
        self.share = min(1.0, done / total) if total else 0.0
        self.left = self._estimate.left(done, total)
        self.message = message
