"""A prompt in a model's chat template.

A template is a program of the checkpoint's authors. Some want a message's content as a list of parts, some as one string;
some render whatever they get, and leave out what they don't know. So both forms are tried, the one that processors use
first, and what comes out is believed only where a text of ours (:data:`PROBE`) stands in it once, and a picture once.
Jinja's sandbox keeps a template from the machine, but not from running on for ever: time and size are bounded here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lens.backend.loading import LoadedModel
from lens.backend.running import brief
from lens.errors import TemplateUnusable

PROBE = 'What\'s "7" here?'
"""Rendered to see what a template does. With both quotation marks, since one of them is escaped where a template writes a
list of parts as Python or JSON does."""
LONGEST = 1 << 17
"""Characters that a template may write, the prompt's included."""
SECONDS = 2.0
"""Longest that a template may take; templates in use take some hundred microseconds."""

Content = str | list[dict[str, str]]
Form = Callable[[str, bool], Content]


class _Fault(Exception):
    """What a template does wrong with one form of content; ``rank``: how far it came."""

    def __init__(self, told: str, rank: int) -> None:
        super().__init__(told)
        self.rank = rank


def templated(loaded: LoadedModel, prompt: str, seeing: bool) -> str | None:
    """The prompt as the model is asked it, with the placeholder of a picture before it if ``seeing``; ``None`` for a model
    without a chat template.

    Raises:
        TemplateUnusable: the template raises, runs on, or leaves out or doubles what it is given, in either form.
    """
    seeing = seeing and "{image}" in loaded.anatomy.family.prompt  # else the processor puts the picture in by itself
    holders = [loaded.processor, loaded.tokenizer] if seeing else [loaded.tokenizer, loaded.processor]
    holder = next((one for one in holders if getattr(one, "chat_template", None)), None)
    if holder is None:
        return None
    faults: list[_Fault] = []
    for form in (_parts, _string(loaded)) if seeing else (_string(loaded), _parts):
        try:
            _probe(loaded, holder, form, seeing)
            text = _render(holder, form(prompt, seeing))
            if prompt.strip() not in text:
                raise _Fault("leaves out or changes what was typed", 2)
            return text
        except _Fault as fault:
            faults.append(fault)
    # Where both came equally far, what it says of a string is told: that is the form which every template once took.
    told = max(reversed(faults) if seeing else faults, key=lambda fault: fault.rank)
    raise TemplateUnusable(
        f"The chat template of the model {loaded.name!r} {told}; mend its chat_template.jinja, or choose another model."
    ) from (told.__cause__ or told)


def plain(loaded: LoadedModel, prompt: str) -> str:
    """Prompt and placeholder of a picture as the family puts them into one string."""
    return loaded.anatomy.family.prompt.format(image=placeholder(loaded), prompt=prompt)


def placeholder(loaded: LoadedModel) -> str:
    """What stands in a text for a picture until the processor puts visual tokens in its place."""
    return str(getattr(loaded.processor, loaded.anatomy.family.placeholder))


def _parts(prompt: str, seeing: bool) -> Content:
    return [{"type": "image"}] * seeing + [{"type": "text", "text": prompt}]


def _string(loaded: LoadedModel) -> Form:
    return lambda prompt, seeing: plain(loaded, prompt) if seeing else prompt


def _probe(loaded: LoadedModel, holder: Any, form: Form, seeing: bool) -> None:
    """Raise :class:`_Fault` unless the template writes a typed text once, and a picture once."""
    text = _render(holder, form(PROBE, seeing))
    times = text.count(PROBE)
    if times != 1:
        raise _Fault(f"writes what was typed {times} times" if times else "leaves out what was typed", 1)
    if not seeing:
        return
    pictures = text.count(placeholder(loaded))
    if pictures > 1:
        raise _Fault(f"writes the placeholder of the picture {pictures} times", 2)
    if not pictures and text == _render(holder, form(PROBE, False)):
        raise _Fault("leaves out the picture", 2)


def _render(holder: Any, content: Content) -> str:
    turn = [{"role": "user", "content": content}]
    try:
        with _bounded():
            text = holder.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    except _Fault:
        raise
    except Exception as error:  # a template can raise whatever Python can
        raise _Fault(f"can't be rendered ({type(error).__name__}: {brief(error)})", 0) from error
    if len(text) > LONGEST:
        raise _Fault(f"writes more than {LONGEST:,} characters", 0)
    return text


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop a template that takes longer than :data:`SECONDS` or writes more than :data:`LONGEST` characters.

    Jinja compiles a template to Python functions that yield what they write: Python's tracing sees their lines and what
    they yield. (A single expression that takes for ever isn't interrupted.)
    """
    started, written = time.monotonic(), 0

    def calls(frame: FrameType, _event: str, _value: Any) -> Any:
        return lines if frame.f_code.co_filename == "<template>" else None

    def lines(_frame: FrameType, event: str, value: Any) -> Any:
        nonlocal written
        written += len(value) if event == "return" and isinstance(value, str) else 0
        if written > LONGEST:
            raise _Fault(f"writes more than {LONGEST:,} characters", 0)
        if time.monotonic() - started > SECONDS:
            raise _Fault(f"takes longer than {SECONDS:.0f} seconds", 0)
        return lines

    before = sys.gettrace()
    sys.settrace(calls)
    try:
        yield
    finally:
        sys.settrace(before)
