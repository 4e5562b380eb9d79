"""Visual tokens that enter the language model late: the mid-layer injection of EmbedLens (arXiv 2603.00510).

Up to block L the text runs alone, at its original positions; the projected visual tokens enter, unchanged, before block L
(blocks counted from 0, as the paper does). Layer 0 is the ordinary run, bit for bit, since nothing is touched then; layer N
is the run without the picture. Works during ``generate`` too: generated tokens are text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.encoding import Encoded
from lens.backend.hooks import Hook, attached, block_input, first_tensor, with_first_tensor
from lens.backend.loading import LoadedModel


@contextmanager
def inject(loaded: LoadedModel, encoded: Encoded, layer: int) -> Iterator[None]:
    """Let the visual tokens of ``encoded`` enter before block ``layer``, 0..N.

    The sequence keeps its length. Below ``layer`` no token sees a visual position, whose states there are meaningless;
    :func:`~lens.backend.tracing.trace` shows them at ``layer`` as they were at layer 0.

    Raises:
        LayerMissing: a layer that the model hasn't.
    """
    anatomy = loaded.anatomy
    anatomy.check_layer(layer)
    visual = torch.as_tensor(encoded.token_map.visual_positions, device=loaded.device)
    if layer == 0 or not len(visual):
        with loaded.lock:
            yield
        return
    entry = _Entry(visual)
    hooks = [Hook(anatomy.text_model, "before", entry.watch), Hook(anatomy.blocks[0], "before", entry.keep)]
    hooks += [Hook(block, "before", entry.hide) for block in anatomy.blocks[:layer]]
    hooks.append(Hook(anatomy.blocks[layer - 1], "after", entry.put_back))
    with loaded.lock, attached(hooks):
        yield


class _Entry:
    """The projected visual tokens of the run that is going on, kept back until their layer."""

    def __init__(self, visual: Tensor) -> None:
        self.visual = visual
        self.start = 0
        self.kept: Tensor | None = None

    def watch(self, _module: Any, _args: tuple, kwargs: dict) -> None:
        """Where the piece of the sequence begins that is computed now: after what the key-value cache holds."""
        cache = kwargs.get("past_key_values")
        self.start = int(cache.get_seq_length()) if cache is not None else 0

    def keep(self, _module: Any, args: tuple, kwargs: dict) -> None:
        if self.start == 0:
            self.kept = block_input(args, kwargs)[:, self.visual].clone()

    def hide(self, _module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        states = block_input(args, kwargs)
        mask = _without(self.visual, kwargs.get("attention_mask"), self.start, states)
        return args, {**kwargs, "attention_mask": mask}

    def put_back(self, _module: Any, _args: tuple, _kwargs: dict, output: Any) -> Any:
        if self.start or self.kept is None:
            return None
        states = first_tensor(output).clone()
        states[:, self.visual] = self.kept
        return with_first_tensor(output, states)


def _without(hidden: Tensor, mask: Tensor | None, start: int, states: Float[Tensor, "batch seq d"]) -> Tensor:
    """An attention mask [batch, 1, queries, keys] like ``mask`` in which no other token sees the ``hidden`` positions.

    ``None`` stands for plain causal attention. A hidden token still sees itself, so that no row is empty.
    """
    queries = torch.arange(start, start + states.shape[1], device=states.device)[:, None]
    keys = torch.arange(start + states.shape[1], device=states.device)[None]
    barred = torch.isin(keys, hidden) & (keys != queries)
    if mask is None:
        return ((keys <= queries) & ~barred)[None, None]
    if mask.dtype == torch.bool:
        return mask & ~barred
    return mask.masked_fill(barred, torch.finfo(mask.dtype).min)
