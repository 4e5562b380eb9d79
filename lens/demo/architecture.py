"""The demo model's shape: LLaVA with a convolutional vision tower.

Stock ``transformers`` but for two small parts. The vision tower is EfficientNet-lite2 without its classification head:
fully convolutional, one cell per 32 x 32 pixels of its input. The projector has the stock parameter names and its own
hidden width. Importing this module registers both with the Auto classes, so that the assembled folder is loaded by
``AutoModelForImageTextToText`` like any other.

Invariants: hidden states are ``[batch, cells, hidden]`` with cells in reading order (left to right, top to bottom), and
only the final ones are returned; ``blocks`` hold feature maps ``[batch, channels, rows, columns]`` whose resolution falls
from block to block. Batch norms are folded into the convolutions before them, so the tower has no running statistics.
"""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling

LITE2_STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
"""(blocks, kernel, stride of the first block, expansion, output channels) of each stage of EfficientNet-lite2: the
B0 table of Tan & Le 2019 (arXiv 1905.11946, table 1), width 1.1, depth 1.2, first and last stage not deepened."""


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    """Configuration of :class:`EfficientNetLite`; ``patch_size`` is the tower's total stride in pixels."""

    model_type = "efficientnet_lite"
    base_config_key = "vision_config"

    stem_channels: int = 32
    stages: list | tuple = LITE2_STAGES
    hidden_size: int = 1280
    image_size: int = 384
    patch_size: int = 32
    num_channels: int = 3


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's ``SAME``: ceil(size / stride) outputs, an odd pixel of padding going last."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=True)

    def forward(self, states: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map ``[batch, inputs, h, w]`` to ``[batch, outputs, ceil(h / stride), ceil(w / stride)]``."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel > 1:
            down, across = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in states.shape[-2:])
            states = functional.pad(states, (across // 2, across - across // 2, down // 2, down - down // 2))
        return super().forward(states)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; with a residual connection where the shapes allow it. ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width) if expansion > 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, states: Tensor) -> Tensor:
        """Map ``[batch, inputs, h, w]`` to ``[batch, outputs, h / stride, w / stride]``."""
        inner = states if self.expand is None else functional.relu6(self.expand(states))
        inner = self.project(functional.relu6(self.depthwise(inner)))
        return states + inner if self.residual else inner


class EfficientNetLite(PreTrainedModel):
    """EfficientNet-lite as a vision tower: pixels ``[batch, 3, h, w]`` to states ``[batch, (h/32)(w/32), 1280]``."""

    config: EfficientNetLiteConfig
    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # pyright: ignore[reportAssignmentType]

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        channels = config.stem_channels
        self.stem = SameConv(config.num_channels, channels, 3, 2)
        blocks = []
        for repeats, kernel, stride, expansion, outputs in config.stages:
            for i in range(repeats):
                blocks.append(InvertedBottleneck(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(channels, config.hidden_size)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the final states ``[batch, cells, 1280]`` (after ReLU6) and their mean over the cells."""
        states = functional.relu6(self.stem(pixel_values.to(self.stem.weight.dtype)))
        for block in self.blocks:
            states = block(states)
        cells = functional.relu6(self.head(states)).flatten(2).transpose(1, 2)
        return BaseModelOutputWithPooling(
            last_hidden_state=cells, pooler_output=cells.mean(1), hidden_states=(cells,), attentions=None
        )


class Projector(nn.Module):
    """The connector: linear, activation, linear; the stock LLaVA one with a hidden width of its own."""

    def __init__(self, inputs: int, hidden: int, outputs: int, activation: str = "gelu") -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, hidden)
        self.act = ACT2FN[activation]
        self.linear_2 = nn.Linear(hidden, outputs)

    def forward(self, image_features: Tensor) -> Tensor:
        """Map vision states ``[..., inputs]`` to the language model's input space ``[..., outputs]``."""
        return self.linear_2(self.act(self.linear_1(image_features.to(self.linear_1.weight.dtype))))


@strict
class DemoConfig(LlavaConfig):
    """LLaVA's configuration with the projector's hidden width."""

    model_type = "tokenlens_demo"

    projector_hidden_size: int = 1152


class DemoModel(LlavaModel):
    """LLaVA without its language model head, with :class:`Projector` as ``multi_modal_projector``."""

    config_class = DemoConfig

    def __init__(self, config: DemoConfig) -> None:
        super().__init__(config)
        vision: Any = config.vision_config
        text: Any = config.text_config
        self.multi_modal_projector = Projector(
            vision.hidden_size, config.projector_hidden_size, text.hidden_size, config.projector_hidden_act
        )
        self.post_init()


class DemoForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA with :class:`DemoModel` inside; everything else is stock."""

    config_class = DemoConfig

    def __init__(self, config: DemoConfig) -> None:
        super().__init__(config)
        self.model = DemoModel(config)
        self.post_init()


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLite, exist_ok=True)
AutoConfig.register(DemoConfig.model_type, DemoConfig, exist_ok=True)
AutoModel.register(DemoConfig, DemoModel, exist_ok=True)
AutoModelForImageTextToText.register(DemoConfig, DemoForConditionalGeneration, exist_ok=True)
