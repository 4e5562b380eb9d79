"""The address of the app: what it says, and the one way by which widgets stand in it.

What the address said when it was opened is kept in the session, which then is what counts: of clicks in quick succession
the browser sends the second before it has the address of the first. It is read anew when the reader goes back or forward,
and written in one update for each of the reader's actions.

A value that isn't known is neither shown nor replaced: the usual one is shown, a sentence says so, and the address keeps
what it says until the reader chooses. An empty one is as none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ui import addressforms
from ui.addressforms import Choice, Form, Number, Several, Span, Switch

Value = TypeVar("Value")
Given = ParamSpec("Given")
Labels = Mapping[Value, str] | Callable[[Value], str] | None

LONGEST = 2000
"""Longest value that goes into the address: servers and proxies refuse longer request lines."""
LISTS = ("parts", "bounds")
"""Parameters that once were repeated for each of their values."""

_HELD, _DRAWN, _FRESH, _WRITTEN = "address", "address-drawn", "address-fresh", "address-written"
_SENTENCES: ContextVar[dict[str, str] | None] = ContextVar("sentences", default=None)


def held() -> dict[str, str]:
    """What the address says, by parameter."""
    if _HELD not in st.session_state:
        load()
    return st.session_state[_HELD]


def load() -> None:
    """Take over the browser's address."""
    texts = {name: st.query_params.get_all(name) for name in st.query_params}
    now = {
        name: ",".join(filter(None, values)) if name in LISTS else values[-1]
        for name, values in texts.items()
        if values
    }
    st.session_state[_FRESH] = True
    turn(now)


def turn(now: Mapping[str, str]) -> None:
    """From here on the address says this; widgets that stand in it are drawn as it says."""
    st.session_state[_HELD] = dict(now)
    st.session_state[_DRAWN] = {}


def travelled() -> bool:
    """Whether the reader went to an address: opened it, or came to it by the browser's Back or Forward."""
    return _HELD not in st.session_state or getattr(get_script_run_ctx(), "is_history_navigation", False)


def opened() -> None:
    """The run that took over an address is over: from now on it is written where it differs."""
    st.session_state[_FRESH] = False


def get(name: str) -> str:
    """What the address says of a parameter; an empty text for nothing."""
    return held().get(name, "")


def put(**changes: str | None) -> None:
    """Write parameters, all in one update; ``None`` takes one away. Widgets that hold them follow."""
    now = held()
    for name, text in changes.items():
        now.pop(name, None)
        if text is not None:
            now[name] = text
        st.session_state[_DRAWN].pop(name, None)
    write(always=True)


def write(always: bool = False) -> None:
    """Let the browser's address say what is held. While an address is being opened it stays as the reader gave it."""
    if st.session_state.get(_FRESH) and not always:
        return
    now = {name: text for name, text in held().items() if len(text) <= LONGEST}
    before = {name: ",".join(st.query_params.get_all(name)) for name in st.query_params}
    if now != before or now != st.session_state.get(_WRITTEN, now):
        st.query_params.from_dict(now)
    st.session_state[_WRITTEN] = now


def unknown(name: str, wanted: str, shown: str) -> None:
    """Say that the address asks for what there isn't."""
    sentences = _SENTENCES.get()
    if sentences is not None:
        sentences[name] = addressforms.asked(name, get(name), wanted, shown)


@contextmanager
def attending() -> Iterator[None]:
    """Above all that is drawn inside: what the address asks for in vain. At its end the address is written."""
    place = st.empty()
    sentences: dict[str, str] = {}
    token = _SENTENCES.set(sentences)
    try:
        yield
    finally:
        _SENTENCES.reset(token)
        if sentences:
            place.warning("  \n".join(sentences.values()), icon=":material/link_off:")
        write()


def attended(part: Callable[Given, Value]) -> Callable[Given, Value]:
    """A part of a page that is drawn :func:`attending`."""

    @functools.wraps(part)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        with attending():
            return part(*args, **kwargs)

    return drawn


def bound(draw: Callable[[], Value], form: Form, key: str, usual: Value, kept: bool = False) -> Value:
    """Draw the widget ``key`` as the address says, and let the address follow it.

    ``usual``: what is shown while the address says nothing; it stands in no address, unless ``kept``. A widget at its usual
    value follows when that changes with the model.
    """
    drawn, look = st.session_state.setdefault(_DRAWN, {}), (form, usual)
    said, value, known = _asked(form, key, usual)
    if drawn.get(key) != look or key not in st.session_state:
        st.session_state[key] = value
    drawn[key] = look
    chosen = draw()
    if not known and chosen == value:
        unknown(key, form.wanted, form.show(value))
    elif chosen == usual and not kept:
        held().pop(key, None)
    elif chosen != value or said or kept:
        held()[key] = form.write(chosen)
    return chosen


def _asked(form: Form, key: str, usual: Value) -> tuple[str, Value, bool]:
    """What the address says, the value for it, and whether that is known."""
    if not (said := get(key).strip()):
        return "", usual, True
    try:
        return said, form.read(said), True
    except ValueError:
        return said, usual, False


def segmented(
    title: str, options: Iterable[Value], key: str, usual: Value, labels: Labels = None, place: Any = st, **more: Any
) -> Value:
    """A choice of one, side by side."""
    form = Choice(key, tuple(options), addressforms.labels(labels))
    return bound(
        lambda: place.segmented_control(
            title, form.options, default=usual, key=key, format_func=form.label, required=True, **more
        ),
        form, key, usual,
    )  # fmt: skip


def select(
    title: str, names: Sequence[str], key: str, usual: str, labels: Labels = None, kept: bool = False, place: Any = st,
    **more: Any,
) -> str:  # fmt: skip
    """A choice of one from a list of names."""
    form = Choice(key, tuple(names), addressforms.labels(labels), named=True)
    return bound(
        lambda: place.selectbox(title, names, names.index(usual), key=key, format_func=form.label, **more),
        form, key, usual, kept,
    )  # fmt: skip


def select_if_any(title: str, names: Sequence[str], key: str) -> str:
    """As :func:`select`, the first at first; of a single one there is nothing to draw."""
    if len(names) > 1:
        return select(title, names, key, names[0])
    if get(key) not in ("", names[0]):
        unknown(key, names[0], names[0])
    return names[0]


def pills(
    title: str, options: Iterable[Value], key: str, usual: Sequence[Value], labels: Labels = None, **more: Any
) -> list[Value]:
    """A choice of any number."""
    one = Choice(key, tuple(options), addressforms.labels(labels))
    return bound(
        lambda: st.pills(
            title, one.options, default=usual, key=key, format_func=one.label, selection_mode="multi", **more
        ),
        Several(one), key, list(usual),
    )  # fmt: skip


def slider(
    title: str, low: Any, high: Any, usual: Any, step: Any = None, *, key: str, place: Any = st, **more: Any
) -> Any:
    """A number, or two where ``usual`` is a pair."""
    ends = Number(low, high)
    form = Span(ends) if isinstance(usual, tuple) else ends
    return bound(lambda: place.slider(title, low, high, usual, step, key=key, **more), form, key, usual)


def select_slider(
    title: str, options: Sequence[Value], usual: Value, *, key: str, place: Any = st, **more: Any
) -> Value:
    """A choice of one along a line."""
    return bound(
        lambda: place.select_slider(title, options, usual, key=key, **more), Choice(key, tuple(options)), key, usual
    )


def toggle(title: str, key: str, usual: bool = False, place: Any = st, **more: Any) -> bool:
    """On or off."""
    return bound(lambda: place.toggle(title, usual, key=key, **more), Switch(), key, usual)
