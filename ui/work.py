"""Long work behind a button: started once, watched with progress and cancel, its result kept while the server runs.

A job goes on when the tab is closed or the reader turns to another page; whoever asks for the same content joins it.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import streamlit as st

from lens.backend.sizes import held_bytes
from lens.backend.tracing import Trace
from lens.errors import Cancelled, LensError
from lens.jobs import Crew, Job
from lens.progress import Report, duration
from ui.state import session, show_error

Result = TypeVar("Result")

MOST, EACH = 2, 1
"""Jobs that run at once, in all and of one reader; the machine's cores are shared by all."""
MOST_WAITING = 6
"""Jobs of one reader that wait."""
KEPT, KEPT_BYTES = 48, 512 << 20
"""Jobs whose results are kept, and the memory for them; the oldest finished ones go first."""


class _Desk:
    """Jobs by content."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Hashable, Job[Any]] = OrderedDict()
        self._guard = threading.Lock()
        self._crew = Crew(MOST, EACH)

    @property
    def full(self) -> bool:
        """Whether the reader has as many jobs waiting as one may have."""
        return self._crew.waiting(session()) >= MOST_WAITING

    def of(self, content: Hashable) -> Job[Any] | None:
        with self._guard:
            return self._jobs.get(content)

    def start(self, content: Hashable, work: Callable[[Report], Any]) -> None:
        with self._guard:
            if content not in self._jobs and not self.full:
                self._jobs[content] = self._crew.start(work, session())
            finished = {key: held_bytes(job.kept) for key, job in self._jobs.items() if job.done}
            for old in list(finished):
                if len(self._jobs) <= KEPT and sum(finished.values()) <= KEPT_BYTES:
                    break
                del self._jobs[old], finished[old]

    def restart(self, content: Hashable, work: Callable[[Report], Any]) -> None:
        with self._guard:
            self._jobs.pop(content, None)
        self.start(content, work)


@st.cache_resource
def _desk() -> _Desk:
    return _Desk()


def offered(
    name: str, content: Hashable, button: str, work: Callable[[Report], Result], cost: str, at_once: bool = False
) -> Result | None:
    """The result of ``work`` if it is there; else a button that starts it, or how far it is.

    ``name`` names the widgets, ``content`` what the result depends on; ``cost`` says before the click what it takes.
    ``at_once`` starts it without a click, for work that the reader has asked for by opening what shows it.
    """
    job = _desk().of((name, content))
    if job is None and at_once:
        _desk().start((name, content), work)
        job = _desk().of((name, content))
    if job is None:
        full = _desk().full
        st.button(button, key=f"start-{name}", on_click=_desk().start, args=((name, content), work), disabled=full)
        st.caption(
            f"{MOST_WAITING} of your jobs wait already; cancel one, or come back when one is done." if full else cost
        )
        return None
    if not job.done:
        _watch(name, job)
        return None
    try:
        return job.result()
    except LensError as error:
        if isinstance(error, Cancelled):
            st.info("Cancelled.")
        else:
            show_error(error)
        st.button("Try again", key=f"again-{name}", on_click=_desk().restart, args=((name, content), work))
        return None


def finished(name: str, content: Hashable) -> Any | None:
    """The result of work that was :func:`offered` elsewhere on the page; ``None`` unless it is there."""
    job = _desk().of((name, content))
    if job is None or not job.done:
        return None
    try:
        return job.result()
    except LensError:
        return None


def runs(count: int, held: Trace) -> str:
    """``24 runs, about 15 s on this machine``: from the time that the forward of a trace took."""
    wait = "" if math.isnan(held.seconds) else f", about {duration(count * held.seconds)} on this machine"
    return f"{count} run{'s' * (count != 1)}{wait}"


@st.fragment(run_every=0.5)
def _watch(name: str, job: Job[Any]) -> None:
    """Progress and cancel; when the work is over the page is drawn again with its result."""
    if job.done:
        st.rerun()
    if ahead := job.ahead:
        st.progress(0.0, text=f"Waiting for its turn: {ahead} other{'s' * (ahead != 1)} first")
        st.button("Cancel", key=f"cancel-{name}", on_click=job.cancel)
        return
    left = f" · about {duration(job.left)} left" if job.left is not None and job.share > 0.05 else ""
    st.progress(job.share, text=f"{job.message or 'Starting'}{left}")
    st.button("Cancel", key=f"cancel-{name}", on_click=job.cancel)
