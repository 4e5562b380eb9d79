"""The one place through which a model's own code is called, so that what it raises reaches the reader as a sentence.

Weights, configuration, processor and tokenizer of a checkpoint are files of others, and need not fit one another. An
exception of theirs becomes a :class:`~lens.errors.ModelFailed` that quotes it and has it as its cause. Errors of
:mod:`lens.errors` pass as they are; so does whatever is raised in a hook of this project, since that is a bug here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lens.backend.loading import LoadedModel
from lens.backend.vocabulary import check_ids
from lens.errors import LensError, MemoryExhausted, ModelFailed

T = TypeVar("T")

QUOTED = 240
"""Characters that are quoted of a model's own message."""
HERE = Path(__file__).parents[1]
"""The package whose frames are this project's; those of ``demo``, which holds a model, are not."""


def forward(loaded: LoadedModel, part: Callable[..., T], *args: Any, **inputs: Any) -> T:
    """Call the model, its ``generate``, or one of its parts, with the model's lock held and without gradients.

    Raises:
        ModelFailed: the model raised; quotes its message.
        MemoryExhausted: it found too little memory.
        TokenUnknown: see :mod:`lens.backend.vocabulary`.
    """
    if "input_ids" in inputs:
        check_ids(loaded, inputs["input_ids"], seeing="pixel_values" in inputs)
    with loaded.lock, torch.inference_mode(), quoting(f"The model {loaded.name!r}"):
        return part(*args, **inputs)


def unhooked(loaded: LoadedModel, part: nn.Module, states: Tensor) -> Tensor:
    """A part of the model as the plain function of its input that it is, without its hooks: what others observe or change
    in runs of theirs neither sees this nor changes it, so that no turn has to be waited for. Errors as of :func:`forward`.
    """
    with torch.inference_mode(), quoting(f"The model {loaded.name!r}"):
        return part.forward(states)


@contextmanager
def quoting(whose: str) -> Iterator[None]:
    """Turn what ``whose`` code raises into a sentence. The body calls that code and nothing of this project."""
    try:
        yield
    except LensError:
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise MemoryExhausted(
                f"{whose} found too little memory ({brief(error)}); shorten the prompt, close what else is loaded, or "
                "choose a smaller model or a dtype of 16 bits."
            ) from error
        if _ours(error):
            raise
        raise ModelFailed(
            f"{whose} fails by itself ({type(error).__name__}: {brief(error)}); its files don't fit one another or this "
            "input: fetch them again, or choose another model or input."
        ) from error


def brief(error: BaseException) -> str:
    """An exception's message on one line, cut to :data:`QUOTED` characters, without its full stop."""
    return " ".join(str(error).split())[:QUOTED].rstrip(" .")


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in told or "allocate memory" in told)


def _ours(error: Exception) -> bool:
    """Whether it came from code of this project that the model called: a hook. The first two frames are
    :func:`quoting`'s and its body's."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)[2:]]
    return any(file.is_relative_to(HERE) and not file.is_relative_to(HERE / "demo") for file in files)
