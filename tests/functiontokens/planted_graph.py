"""A planted dictionary: features that fire on known tokens and on nothing else, so that the graph is known beforehand.

Its site is the input embeddings, where a state tells its token exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens.backend.loading import LoadedModel
from lens.functiontokens.basis import Features

SUBJECTS = ("A cat", "The old dog", "A white bird", "Nine red apples", "The motorcycle")
ENDINGS = ("sat on the mat.", "stands beside the river.", "was photographed yesterday, twice.", "isn't ice-cream.")
SENTENCES = [f"{subject} {ending}" for ending in ENDINGS for subject in SUBJECTS] * 3 + ["A.", "Nine white birds!"]


@dataclass(frozen=True, eq=False)
class Planted(Features):
    """``fires_on[f]``: the token ids on which feature f has the value f + 1, or -(f + 1) for an odd f."""

    embeddings: Tensor
    fires_on: Mapping[int, tuple[int, ...]]

    def encode(self, states: Tensor) -> Tensor:
        ids = torch.cdist(states.float(), self.embeddings).argmin(1)
        values = torch.zeros(len(states), self.size)
        for feature, tokens in self.fires_on.items():
            sign = -1 if feature % 2 else 1
            values[torch.isin(ids, torch.tensor(tokens)), feature] = float(sign * (feature + 1))
        return values

    def decode(self, values: Tensor) -> Tensor:
        return values @ torch.eye(self.size, self.embeddings.shape[1])

    def direction(self, feature: int) -> Tensor:
        return torch.eye(self.size, self.embeddings.shape[1])[self.check(feature)]


def planted(loaded: LoadedModel, fires_on: Mapping[int, tuple[int, ...]], size: int, name: str = "planted") -> Planted:
    place = {"layer": 0, "site": "hidden.0", "fires": "On its tokens.", "steerable": True}
    weight = loaded.anatomy.embeddings.weight.detach().float()
    return Planted(
        name=name,
        kind="sae",
        size=size,
        fingerprint=f"{name} {fires_on}",
        embeddings=weight,
        fires_on=fires_on,
        **place,
    )


@dataclass(frozen=True, eq=False)
class Noise(Features):
    """Features that fire by chance, whatever the token: what the null is about."""

    generator: np.random.Generator
    rate: float

    def encode(self, states: Tensor) -> Tensor:
        fired = self.generator.random((len(states), self.size)) < self.rate * np.linspace(0.01, 1, self.size)
        return torch.from_numpy(fired.astype(np.float32))

    def decode(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def direction(self, feature: int) -> Tensor:
        raise NotImplementedError


def noise(size: int = 400, rate: float = 0.02, seed: int = 0) -> Noise:
    place = {"layer": 0, "site": "hidden.0", "fires": "By chance.", "steerable": False, "fingerprint": f"noise {seed}"}
    return Noise(name="noise", kind="sae", size=size, generator=np.random.default_rng(seed), rate=rate, **place)
