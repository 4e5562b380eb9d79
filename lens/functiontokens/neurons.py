"""The neurons of a block's MLP as features: the basis that every model has.

A neuron's activation is what the block's down projection reads (for a gated MLP: act(gate) * up). It is never quite zero,
so a neuron counts as active where it is among the :data:`ACTIVE` of largest magnitude of its token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens.backend.loading import LoadedModel
from lens.functiontokens.basis import Features, keep_largest

ACTIVE = 32
"""Neurons that count as active in a state: as many as latents fire on average in the autoencoders shipped here."""


@dataclass(frozen=True, eq=False)
class NeuronFeatures(Features):
    """The neurons of one block. What they write is computed by the down projection itself, in the model's dtype."""

    down: nn.Module
    dtype: torch.dtype
    device: torch.device

    def encode(self, states: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Signed activations of the active neurons."""
        return keep_largest(states.float(), min(ACTIVE, self.size))

    def decode(self, values: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """What the MLP adds to the residual stream; of *all* activations, its output."""
        with torch.inference_mode():
            return self.down(values.to(self.device, self.dtype)).float()

    def direction(self, feature: int) -> Float[Tensor, " d"]:
        """The column of the down projection: what an activation of 1 adds."""
        one = torch.zeros(2, self.size)
        one[1, self.check(feature)] = 1.0
        nothing, written = self.decode(one)  # their difference is free of the projection's bias
        return written - nothing


def open_neurons(loaded: LoadedModel, block: int) -> NeuronFeatures:
    """The neurons of a block, counted from 1; :class:`~lens.errors.LayerMissing` if there is no such block."""
    size = loaded.anatomy.neurons(block)
    place = f"{loaded.language_fingerprint} neurons.{block} {ACTIVE}"
    return NeuronFeatures(
        name=f"neurons-{block}",
        kind="neurons",
        layer=block,
        site=f"neurons.{block}",
        size=size,
        fires=f"A neuron is active where its activation is among the {min(ACTIVE, size)} of largest magnitude of the token.",
        steerable=block < loaded.anatomy.depth,
        fingerprint=hashlib.sha256(place.encode()).hexdigest(),
        down=loaded.anatomy.numbered("down_projections", block),
        dtype=loaded.dtype,
        device=loaded.device,
    )
