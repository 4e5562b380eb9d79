"""A sparse autoencoder as plain arithmetic: the forward of each published variant, on one set of weights.

With pre = (x - b_dec, if ``centred``, else x) @ w_enc + b_enc, the values z of the latents are

============  ==========================================================================================
``relu``      z = relu(pre)
``jumprelu``  z = relu(pre) where pre > threshold, else 0 (arXiv 2407.14435); BatchTopK is saved as this too
``topk``      z = relu(pre) at the k largest pre of each state, else 0 (arXiv 2406.04093)
``groupmax``  the latents stand in k groups of neighbours; z = relu(pre) at the largest of each group, else 0
============  ==========================================================================================

and the reconstruction is z @ w_dec + b_dec. Invariants: everything is float32; z >= 0; states go in, and reconstructions
come out, in the residual stream's own units, so that any scaling used in training is folded into the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Rule = Literal["relu", "jumprelu", "topk", "groupmax"]


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """Weights and the rule by which a latent fires.

    Attributes:
        threshold: of ``jumprelu``, one per latent; else ``None``.
        k: latents (``topk``) or groups (``groupmax``) that may fire in a state; else 0.
        centred: whether b_dec is taken off a state before it is encoded.
    """

    w_enc: Float[Tensor, "d m"]
    b_enc: Float[Tensor, " m"]
    w_dec: Float[Tensor, "m d"]
    b_dec: Float[Tensor, " d"]
    rule: Rule
    threshold: Float[Tensor, " m"] | None = None
    k: int = 0
    centred: bool = True

    @property
    def width(self) -> int:
        """d, the width of the states it reads and rebuilds."""
        return int(self.w_enc.shape[0])

    @property
    def size(self) -> int:
        """m, the number of latents."""
        return int(self.w_enc.shape[1])

    def preactivations(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """What the rule decides on."""
        x = states.to(self.w_enc.device, torch.float32)
        return torch.addmm(self.b_enc, x - self.b_dec if self.centred else x, self.w_enc)

    def encode(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """The values of all latents, 0 where silent."""
        pre = self.preactivations(states)
        if self.threshold is not None:
            return pre.relu() * (pre > self.threshold)
        if self.rule == "relu":
            return pre.relu()
        if self.rule == "topk":
            chosen = pre.topk(self.k, dim=-1).indices
        else:
            groups = pre.unflatten(-1, (self.k, -1))
            start = torch.arange(self.k, device=pre.device) * groups.shape[-1]
            chosen = groups.argmax(-1) + start
        return torch.zeros_like(pre).scatter_(-1, chosen, pre.gather(-1, chosen).relu())

    def decode(self, values: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """The states that these values stand for."""
        return torch.addmm(self.b_dec, values.to(self.w_dec.device, torch.float32), self.w_dec)

    def to(self, device: torch.device | str) -> Autoencoder:
        """The same on another device."""
        threshold = None if self.threshold is None else self.threshold.to(device)
        moved = {name: getattr(self, name).to(device) for name in ("w_enc", "b_enc", "w_dec", "b_dec")}
        return replace(self, threshold=threshold, **moved)

    def rounded(self) -> Autoencoder:
        """With matrices rounded to float16, as they are when read back from a file that keeps them so."""
        return replace(self, w_enc=self.w_enc.half().float(), w_dec=self.w_dec.half().float())

    def digest(self, *salt: str) -> str:
        """SHA-256 (hex) of the weights, the rule and ``salt``."""
        digest = hashlib.sha256("\0".join([self.rule, str(self.k), str(self.centred), *salt]).encode())
        for tensor in self._tensors():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _tensors(self) -> Sequence[Tensor]:
        tensors = [self.w_enc, self.b_enc, self.w_dec, self.b_dec]
        return tensors if self.threshold is None else [*tensors, self.threshold]
