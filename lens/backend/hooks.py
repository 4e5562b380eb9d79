"""The one place where PyTorch hooks are registered, so that there is one place where they are removed.

Invariant: whatever happens inside the ``with`` block, no hook of ours is left on the model afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Hook:
    """A callback on one module.

    ``when="before"``: ``call(module, args, kwargs)`` returns ``None`` or the changed ``(args, kwargs)``.
    ``when="after"``: ``call(module, args, kwargs, output)`` returns ``None`` or the changed output.
    """

    module: nn.Module
    when: Literal["before", "after"]
    call: Callable[..., Any]


@contextmanager
def attached(hooks: Iterable[Hook]) -> Iterator[None]:
    """Register ``hooks`` in order; remove all of them on leaving, also when the forward raises."""
    handles = []
    try:
        for hook in hooks:
            if hook.when == "before":
                handles.append(hook.module.register_forward_pre_hook(hook.call, with_kwargs=True))
            else:
                handles.append(hook.module.register_forward_hook(hook.call, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor:
    """The hidden states of a module's output: the output itself, or the first entry of a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """``output`` with its hidden states replaced by ``tensor``; the other entries are kept."""
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    if isinstance(output, list):
        return [tensor, *output[1:]]
    return tensor


def block_input(args: tuple, kwargs: dict) -> Tensor:
    """The hidden states that a block is called with, given by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


def with_block_input(args: tuple, kwargs: dict, tensor: Tensor) -> tuple[tuple, dict]:
    """The call of a block with other hidden states."""
    if args:
        return (tensor, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": tensor}
