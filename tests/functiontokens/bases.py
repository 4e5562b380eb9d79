"""A sparse autoencoder of random weights for a tiny model, for tests of what is done with features."""

from __future__ import annotations

import torch

from lens.backend.loading import LoadedModel
from lens.functiontokens.features import SaeFeatures, bind
from lens.functiontokens.formats import Stored
from lens.functiontokens.sae import Autoencoder


def random_sae(loaded: LoadedModel, layer: int = 2, size: int = 96, k: int = 6, seed: int = 0) -> SaeFeatures:
    """TopK with a decoder of unit norm, tied to the encoder."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(size, loaded.anatomy.width, generator=generator), dim=-1)
    zeros = torch.zeros(size), torch.zeros(loaded.anatomy.width)
    weights = Autoencoder(decoder.T.contiguous(), zeros[0], decoder, zeros[1], "topk", k=k)
    return bind(loaded, Stored(weights, layer, f"block.{layer}"), "random")
