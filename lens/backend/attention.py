"""How much attention every visual token receives from the text, block by block.

The fused attention kernels that models are loaded with never form the weights. For this one forward the model computes
attention the plain way ("eager"), which changes its logits by rounding alone; the setting is put back on leaving, also
after an error, and the model's lock is held meanwhile. Weights are reduced to one number per visual token while the
forward goes on, so that memory holds one block's weights at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.encoding import Encoded
from lens.backend.hooks import Hook, attached
from lens.backend.loading import LoadedModel
from lens.backend.running import forward
from lens.errors import CapabilityMissing


def attention_received(loaded: LoadedModel, encoded: Encoded) -> Float[np.ndarray, "blocks visual"]:
    """Attention that each visual token receives in each block, averaged over heads and over the text after the picture.

    Those are the tokens that see every visual token, template included; the last of them is where the answer starts. The
    sum over the visual tokens of a block is the share of its attention that the text spends on the picture, at most 1.

    Raises:
        CapabilityMissing: an input without a picture, no text after it, or a model whose blocks give no attention weights.
    """
    visual = encoded.token_map.visual_positions
    if not len(visual):
        raise CapabilityMissing("There are no visual tokens here, only text; give a picture along with the prompt.")
    asking = np.arange(visual[-1] + 1, len(encoded.token_map))
    if not len(asking):
        raise CapabilityMissing("No text comes after the picture, so that nothing attends to it; give a prompt.")
    received: list[Tensor] = []

    def reduce(_module: Any, _args: tuple, _kwargs: dict, output: Any) -> None:
        weights = _weights(loaded, output)
        received.append(weights[0][:, asking][:, :, visual].float().mean((0, 1)).cpu())

    hooks = [Hook(module, "after", reduce) for module in loaded.anatomy.attentions]
    with eager(loaded), attached(hooks):
        forward(loaded, loaded.model, **encoded.inputs, use_cache=False, logits_to_keep=1)
    return torch.stack(received).numpy()


def attention_rollout(loaded: LoadedModel, encoded: Encoded, position: int) -> Float[np.ndarray, "layers visual"]:
    """How much of each visual token has flowed to the token at ``position`` by layers 0..N, through attention and residual
    stream alone (Abnar and Zuidema 2020): the product of (A + I) / 2 over the blocks, A being a block's attention averaged
    over its heads. At layer 0 nothing has flowed.

    Raises:
        CapabilityMissing: an input without a picture, or a model whose blocks give no attention weights.
    """
    visual = encoded.token_map.visual_positions
    if not len(visual):
        raise CapabilityMissing("There are no visual tokens here, only text; give a picture along with the prompt.")
    flow = torch.eye(len(encoded.token_map))
    rows = [flow[position, visual]]

    def follow(_module: Any, _args: tuple, _kwargs: dict, output: Any) -> None:
        nonlocal flow
        flow = (_weights(loaded, output)[0].float().mean(0).cpu() @ flow + flow) / 2
        rows.append(flow[position, visual])

    hooks = [Hook(module, "after", follow) for module in loaded.anatomy.attentions]
    with eager(loaded), attached(hooks):
        forward(loaded, loaded.model, **encoded.inputs, use_cache=False, logits_to_keep=1)
    return torch.stack(rows).numpy()


@contextmanager
def eager(loaded: LoadedModel) -> Iterator[None]:
    """Inside, the language model computes attention in a way that yields the weights."""
    holders = [loaded.anatomy.text_model, *loaded.anatomy.attentions]
    configs: dict[int, Any] = {id(holder.config): holder.config for holder in holders if hasattr(holder, "config")}
    with loaded.lock:
        before = {key: config._attn_implementation for key, config in configs.items()}
        try:
            for config in configs.values():
                config._attn_implementation = "eager"
            yield
        finally:
            for key, config in configs.items():
                config._attn_implementation = before[key]


def _weights(loaded: LoadedModel, output: Any) -> Float[Tensor, "batch heads queries keys"]:
    """The attention weights in a module's output, checked: every row sums to 1."""
    weights = output[1] if isinstance(output, (tuple, list)) and len(output) > 1 else None
    if not isinstance(weights, Tensor) or weights.ndim != 4:
        raise CapabilityMissing(
            f"The model {loaded.name!r} gives no attention weights (its blocks have another kind of attention); choose "
            "another model, or a view that needs none."
        )
    off = float((weights.float().sum(-1) - 1).abs().max())
    if off > 1e-2:
        raise CapabilityMissing(
            f"The attention weights of {loaded.name!r} should sum to 1 over what is attended to, but are off by {off:.2g}; "
            "choose another model, or a view that needs no attention."
        )
    return weights
