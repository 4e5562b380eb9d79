"""Changes to a run, as context managers: the only thing in the project that alters what a model computes.

Every one holds the model's lock, so that no other session runs the changed model, and removes its hooks on leaving.
Positions are those of the encoded sequence (:class:`~lens.backend.encoding.TokenMap`); during ``generate`` they keep
meaning the prompt's tokens, not the ones that are generated. Layers follow the convention of
:mod:`lens.backend.anatomy`. With no positions the run is bit-identical to an unchanged one.

>>> with zero(loaded, layer=3, positions=[5, 6]):            # doctest: +SKIP
...     changed = trace(loaded, encoded, ["logits"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.backend.hooks import (
    Hook,
    attached,
    block_input,
    first_tensor,
    with_block_input,
    with_first_tensor,
)
from lens.backend.loading import LoadedModel
from lens.errors import StatesUnusable

Edit = Callable[[Float[Tensor, "chosen d"], Int[Tensor, " chosen"]], Float[Tensor, "chosen d"]]
"""``edit(states, which)``: new states of the chosen positions; ``which`` tells their places in the list of positions."""


@contextmanager
def edit(loaded: LoadedModel, layer: int, positions: Sequence[int], change: Edit) -> Iterator[None]:
    """Replace the states of ``positions`` at ``layer`` by what ``change`` makes of them."""
    anatomy = loaded.anatomy
    anatomy.check_layer(layer)
    cursor = _Cursor(loaded, positions)
    if layer == 0:
        hook = Hook(anatomy.blocks[0], "before", cursor.edit_input(change))
    else:
        module = anatomy.final_norm if layer == anatomy.depth else anatomy.blocks[layer - 1]
        hook = Hook(module, "after", cursor.edit_output(change))
    with cursor.running([hook]):
        yield


def zero(loaded: LoadedModel, layer: int, positions: Sequence[int]) -> Any:
    """Set the states of ``positions`` at ``layer`` to zero."""
    return edit(loaded, layer, positions, lambda states, _which: torch.zeros_like(states))


def scale(loaded: LoadedModel, layer: int, positions: Sequence[int], factor: float) -> Any:
    """Multiply the states of ``positions`` at ``layer`` by ``factor``."""
    return edit(loaded, layer, positions, lambda states, _which: states * factor)


def add(loaded: LoadedModel, layer: int, positions: Sequence[int], vector: Float[Tensor, " d"]) -> Any:
    """Add one vector to the states of ``positions`` at ``layer``."""
    _check_width(loaded, vector, vector.shape[-1:])
    return edit(loaded, layer, positions, lambda states, _which: states + vector.to(states))


def replace(loaded: LoadedModel, layer: int, positions: Sequence[int], vectors: Float[Tensor, "chosen d"]) -> Any:
    """Put ``vectors``, one per position in the same order, in the place of the states at ``layer``."""
    _check_width(loaded, vectors, (len(positions), loaded.anatomy.width))
    return edit(loaded, layer, positions, lambda states, which: vectors[which.cpu()].to(states))


@contextmanager
def drop(loaded: LoadedModel, positions: Sequence[int]) -> Iterator[None]:
    """Take tokens out of the sequence: no other token sees them, and the others keep their position ids.

    Done by the attention mask, so that the sequence keeps its length and a trace its rows; the rows of dropped tokens are
    meaningless. Equals (to rounding) running the shorter sequence with the kept tokens' original position ids.
    """
    cursor = _Cursor(loaded, positions)

    def mask_out(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        mask = kwargs.get("attention_mask")
        if not cursor.positions:
            return None
        if mask is None:
            tokens = next(t for t in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if t is not None)
            mask = torch.ones((1, cursor.start + tokens.shape[1]), dtype=torch.long, device=tokens.device)
        mask = mask.clone()
        mask[:, torch.tensor(cursor.positions, device=mask.device)] = 0
        position_ids = kwargs.get("position_ids")
        if position_ids is None:
            position_ids = torch.arange(cursor.start, mask.shape[1], device=mask.device)[None]
        return args, {**kwargs, "attention_mask": mask, "position_ids": position_ids}

    with cursor.running([Hook(loaded.anatomy.text_model, "before", mask_out)]):
        yield


@contextmanager
def skip(loaded: LoadedModel, block: int, sublayer: str, positions: Sequence[int]) -> Iterator[None]:
    """Zero the *output* of one block's ``"attention"`` or ``"mlp"`` at ``positions``; the residual stream stays.

    ``block`` counts from 1.
    """
    part = {"attention": "attentions", "mlp": "mlps"}[sublayer]
    cursor = _Cursor(loaded, positions)
    silence = cursor.edit_output(lambda states, _which: torch.zeros_like(states))
    with cursor.running([Hook(loaded.anatomy.numbered(part, block), "after", silence)]):
        yield


class _Cursor:
    """Which of the chosen positions lie in the piece of the sequence that is being computed.

    A plain forward computes the whole sequence from position 0; during ``generate`` the key-value cache makes later pieces
    start where the former ended.
    """

    def __init__(self, loaded: LoadedModel, positions: Sequence[int]) -> None:
        self.loaded = loaded
        self.positions = [int(p) for p in positions]
        if any(p < 0 for p in self.positions):
            raise ValueError(f"Positions count from 0, but {min(self.positions)} was given.")
        self.start = 0

    @contextmanager
    def running(self, hooks: list[Hook]) -> Iterator[None]:
        watch = Hook(self.loaded.anatomy.text_model, "before", self._watch)
        with self.loaded.lock, attached([watch, *hooks]):
            yield

    def _watch(self, _module: Any, _args: tuple, kwargs: dict) -> None:
        cache = kwargs.get("past_key_values")
        self.start = int(cache.get_seq_length()) if cache is not None else 0

    def _apply(self, states: Float[Tensor, "batch seq d"], change: Edit) -> Float[Tensor, "batch seq d"] | None:
        stop = self.start + states.shape[1]
        which = [i for i, p in enumerate(self.positions) if self.start <= p < stop]
        if not which:
            return None
        rows = torch.tensor([self.positions[i] - self.start for i in which], device=states.device)
        changed = states.clone()
        changed[:, rows] = change(states[:, rows], torch.tensor(which, device=states.device))
        return changed

    def edit_input(self, change: Edit) -> Callable:
        def call(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            changed = self._apply(block_input(args, kwargs), change)
            return None if changed is None else with_block_input(args, kwargs, changed)

        return call

    def edit_output(self, change: Edit) -> Callable:
        def call(_module: Any, _args: tuple, _kwargs: dict, output: Any) -> Any:
            changed = self._apply(first_tensor(output), change)
            return None if changed is None else with_first_tensor(output, changed)

        return call


def _check_width(loaded: LoadedModel, vectors: Tensor, shape: Sequence[int]) -> None:
    wanted = (*shape[:-1], loaded.anatomy.width)
    if tuple(vectors.shape) != tuple(wanted):
        raise StatesUnusable(
            f"Vectors of shape {tuple(vectors.shape)} were given where {tuple(wanted)} is needed "
            f"(the model's width is {loaded.anatomy.width}); pass vectors of that shape."
        )
