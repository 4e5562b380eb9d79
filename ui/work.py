"""Long work behind a button: started once, watched with progress and cancel, its result kept while the server runs.

A job goes on when the tab is closed or the reader turns to another page; whoever asks for the same content joins it. Its
progress stands where it was offered, and nowhere else: what the page no longer offers is listed by :func:`elsewhere`.
Streamlit keeps a fragment that runs by the clock, and what it drew, until the whole page is run, whatever has since been
drawn in its place; so each knows for which run of the page it was drawn (:func:`explorer`), and draws nothing in a later
one, and what may hold one stands in a :func:`slot`, which is emptied first.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import streamlit as st

from lens.backend.sizes import held_bytes
from lens.backend.tracing import Trace
from lens.errors import Cancelled, LensError
from lens.jobs import Crew, Job
from lens.progress import Report, duration
from ui.state import session, show_error

Result = TypeVar("Result")
Given = ParamSpec("Given")

_RUN, _SHOWN, _STARTED, _WATCHED = "work-run", "work-shown", "work-started", "work-watched"
"""In the session: the number of the run of the page, the work that it shows, by content the button that began each, and
whether progress is drawn in the slot that is being drawn."""
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
    st.session_state.setdefault(_SHOWN, set()).add((name, content))
    if job is None and at_once:
        _start(button, (name, content), work)
        job = _desk().of((name, content))
    if job is None:
        full = _desk().full
        st.button(button, key=f"start-{name}", on_click=_start, args=(button, (name, content), work), disabled=full)
        st.caption(
            f"{MOST_WAITING} of your jobs wait already; cancel one, or come back when one is done." if full else cost
        )
        return None
    if not job.done:
        st.session_state[_WATCHED] = True
        _watch(name, job, st.session_state.get(_RUN, 0))
        return None
    try:
        return job.result()
    except LensError as error:
        if isinstance(error, Cancelled):
            st.info("Cancelled.")
        else:
            show_error(error)
        st.button("Try again", key=f"again-{name}", on_click=_restart, args=(button, (name, content), work))
        return None


def explorer(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Makes a fragment of what a page runs after each click: what was shown by a former run of it is shown no longer."""

    @st.fragment
    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        st.session_state[_RUN] = st.session_state.get(_RUN, 0) + 1
        st.session_state[_SHOWN] = set()
        return function(*args, **kwargs)

    return run


@contextmanager
def slot(where: str, holds: str = "", key: str | None = None) -> Iterator[None]:
    """A place of the page, by the name ``where``, in which progress may stand. It is emptied before it ``holds`` something
    else, or where it last showed progress: else what that drew stays."""
    name = f"work-slot-{where}"
    holder = st.container()
    last = st.session_state.get(name, (holds, False))
    with (holder if last == (holds, False) else holder.empty()).container(key=key):
        st.session_state[_WATCHED] = False
        yield
        st.session_state[name] = (holds, st.session_state[_WATCHED])


def elsewhere() -> None:
    """The reader's jobs that run and that this run of the page shows nowhere, each with its cancel."""
    if _running():
        _list(st.session_state.get(_RUN, 0))


def _running() -> list[tuple[Hashable, str, Job[Any]]]:
    """What the reader started, isn't done and isn't shown, with the button that started it."""
    started: dict[Hashable, str] = st.session_state.setdefault(_STARTED, {})
    jobs = {content: _desk().of(content) for content in started}
    for content, job in jobs.items():
        if job is None or job.done:
            del started[content]
    shown = st.session_state.get(_SHOWN, set())
    return [
        (content, started[content], job)
        for content, job in jobs.items()
        if job and content in started and content not in shown
    ]


@st.fragment(run_every=1.0)
def _list(run: int) -> None:
    if run != st.session_state.get(_RUN, 0):
        return
    for number, (_content, button, job) in enumerate(_running()):
        said, cancel = st.columns([6, 1], vertical_alignment="center")
        said.progress(job.share, text=f"Still running: {button} · {_progress(job)}")
        cancel.button("Cancel", key=f"cancel-elsewhere-{number}", on_click=job.cancel, width="stretch")


def _start(button: str, content: Hashable, work: Callable[[Report], Any]) -> None:
    st.session_state.setdefault(_STARTED, {})[content] = button
    _desk().start(content, work)


def _restart(button: str, content: Hashable, work: Callable[[Report], Any]) -> None:
    st.session_state.setdefault(_STARTED, {})[content] = button
    _desk().restart(content, work)


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
def _watch(name: str, job: Job[Any], run: int) -> None:
    """Progress and cancel; when the work is over the page is drawn again with its result."""
    if run != st.session_state.get(_RUN, 0):
        return
    if job.done:
        st.rerun()
    st.progress(job.share, text=_progress(job))
    st.button("Cancel", key=f"cancel-{name}", on_click=job.cancel)


def _progress(job: Job[Any]) -> str:
    if ahead := job.ahead:
        return f"Waiting for its turn: {ahead} other{'s' * (ahead != 1)} first"
    left = f" · about {duration(job.left)} left" if job.left is not None and job.share > 0.05 else ""
    return f"{job.message or 'Starting'}{left}"
