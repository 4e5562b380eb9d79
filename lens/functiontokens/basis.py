"""What a basis of features is, whatever it is made of.

Layers follow the convention of :mod:`lens.backend.anatomy`; a basis reads the states at its ``site`` (a name of
:mod:`lens.backend.tracing`) and writes into the residual stream. Invariants: a silent feature has the value 0 exactly;
values and directions are float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens.errors import FeaturesMismatch

CHUNK_VALUES = 1 << 24
"""Values of one dense piece while :meth:`Features.active` looks for what fires: 64 MB in float32."""

FIRST = 2
"""The first position whose states count. That of position 0, the attention sink, is over a hundred times as long as the
others from the middle of the model on (25,139 against 168 at layer 15 of SmolLM2-135M-Instruct in its chat template), and
no basis says anything of it; position 1 is left out too, as in the method's recipe."""

Kind = Literal["sae", "neurons"]


@dataclass(frozen=True, eq=False)
class Features(ABC):
    """A basis of features at one place of one model.

    Attributes:
        layer: where ``direction`` is written: the layer of the residual stream that holds the basis, or the output of the
            block whose part (attention, MLP, neurons) it reads.
        site: what to trace to get the states that it encodes.
        size: m, the number of features.
        fires: one sentence: when a feature counts as active.
        steerable: whether adding ``direction`` to the states of ``layer`` is adding it where the basis writes. Not so for
            what the last block writes, since the states of layer N have the final norm applied.
        fingerprint: SHA-256 (hex) of the weights and the place; the key of what is cached about the basis.
    """

    name: str
    kind: Kind
    layer: int
    site: str
    size: int
    fires: str
    steerable: bool
    fingerprint: str

    @abstractmethod
    def encode(self, states: Float[Tensor, "n d_in"]) -> Float[Tensor, "n m"]:
        """The values of all features at states of ``site``, 0 where a feature is silent. Neurons may be negative."""

    @abstractmethod
    def decode(self, values: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """An autoencoder's reconstruction of the states at ``site``; of neurons, what the MLP writes."""

    @abstractmethod
    def direction(self, feature: int) -> Float[Tensor, " d"]:
        """What one unit of a feature writes into the residual stream, in the residual stream's units."""

    def active(
        self, states: Float[Tensor, "n d_in"], limit: int | None = None
    ) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " a"], Float[np.ndarray, " a"]]:
        """What fires, as (rows int64, features int32, values float32), by row and in a row by feature.

        ``limit`` keeps that many of the largest magnitude in each row. Dense values exist for a piece at a time.
        """
        step = max(1, CHUNK_VALUES // self.size)
        pieces = [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))]
        for start in range(0, len(states), step):
            dense = self.encode(states[start : start + step])
            if limit is not None and limit < self.size:
                dense = keep_largest(dense, limit)
            rows, features = dense.nonzero(as_tuple=True)
            values = dense[rows, features].cpu().numpy()
            pieces.append((rows.cpu().numpy() + start, features.cpu().numpy().astype(np.int32), values))
        rows, features, values = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return rows, features, values

    def check(self, feature: int) -> int:
        """``feature`` itself if there is one of that number, else :class:`FeaturesMismatch`."""
        if not 0 <= feature < self.size:
            raise FeaturesMismatch(
                f"Feature {feature} was asked for, but {self.name} has features 0 to {self.size - 1}; choose one of these."
            )
        return feature


def keep_largest(values: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n m"]:
    """``values`` with all but the k of largest magnitude in each row set to 0."""
    chosen = values.abs().topk(k, dim=-1).indices
    return torch.zeros_like(values).scatter_(-1, chosen, values.gather(-1, chosen))
