"""The models that <SEG> is trained over: what is frozen, and what of the encoder the mask head reads."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from lens.demo.architecture import EfficientNetLite, Projector
from lens.demo.seg_head import LEVELS
from lens.demo.seg_language import SegLanguage


@dataclass(frozen=True)
class SegModels:
    """What is frozen, on one device, and the language model with its updates.

    Attributes:
        tower: the encoder in float32, as the app runs it.
        quick: the same in bfloat16, for training.
    """

    tower: EfficientNetLite
    quick: EfficientNetLite
    connector: Projector
    language: SegLanguage

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.language.seg.device

    @torch.no_grad()
    def cells(self, levels: dict[str, Tensor]) -> Tensor:
        """Visual tokens at layer 0, [b, 144, 576], from feature maps."""
        return self.connector(vision_states(self.tower, levels["deep"]))


def seg_models(tower: EfficientNetLite, connector: Projector, language: SegLanguage, device: torch.device) -> SegModels:
    """Frozen parts in float32 and the language model as it is, moved to a device."""
    cast(Any, tower.eval().requires_grad_(False)).to(device)
    quick = cast(Any, copy.deepcopy(tower)).to(torch.bfloat16, memory_format=torch.channels_last)
    return SegModels(tower, quick, connector.requires_grad_(False).to(device), language.to(device))


@torch.no_grad()
def feature_maps(tower: EfficientNetLite, pictures: Tensor) -> dict[str, Tensor]:
    """The feature maps of :data:`LEVELS`, [b, cells, channels] in float32, of pixels [b, 3, 384, 384]."""
    states = functional.relu6(tower.stem(pictures.to(tower.stem.weight.dtype, memory_format=torch.channels_last)))
    found = {}
    for number, block in enumerate(tower.blocks, 1):
        states = block(states)
        for name, wanted in LEVELS.items():
            if number == wanted:
                found[name] = states.flatten(2).transpose(1, 2).float()
    return found


def vision_states(tower: EfficientNetLite, deep: Tensor) -> Tensor:
    """What the connector reads, [b, 144, 1280], from the deepest feature map [b, 144, 352]."""
    weight = tower.head.weight.flatten(1)
    return functional.relu6(functional.linear(deep, weight, cast(Tensor, tower.head.bias)))
