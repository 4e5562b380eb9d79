"""Published weights into the demo model's own tensors, configuration, tokenizer and processor.

Invariants: the language model's weights and vocabulary are those of the GGUF file, de-quantised and rounded to bfloat16,
with the ids untouched; the image placeholder is the renamed special token ``<reponame>``, which no chat ever uses. The
tower computes what the published network computes, with the batch norms folded into the convolutions.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import PILImageResampling

from lens.demo.architecture import DemoConfig, EfficientNetLiteConfig

IMAGE_TOKEN = "<image>"
RENAMED_TOKEN = "<reponame>"
IMAGE_SIZE = 384
PATCH_SIZE = 32
CELLS = (IMAGE_SIZE // PATCH_SIZE) ** 2
BATCH_NORM_EPSILON = 1e-3
"""Of the published EfficientNet-lite checkpoints (TensorFlow's default)."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's ChatML without its default system message, image first: what the connector is trained with."""


def language_model(gguf: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """De-quantise a GGUF file: a plain Llama configuration and its bfloat16 tensors (the tied head left out)."""
    with redirect_stderr(io.StringIO()):  # the converter draws a progress bar of its own, which can't be turned off
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    keep = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "dtype", "architectures", "transformers_version"):
        keep.pop(key, None)
    tensors = {k: v.to(torch.bfloat16) for k, v in loaded.state_dict().items() if k != "lm_head.weight"}
    return LlamaConfig(**keep), tensors


def tower(checkpoint: Path) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Read the published network: the tower's float32 tensors, and the ImageNet head's weight [1000, 1280] and bias."""
    published = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors: dict[str, Tensor] = {}
    fold(published, "_conv_stem", "_bn0", tensors, "stem")
    index = 0
    while f"_blocks.{index}._depthwise_conv.weight" in published:
        old, new = f"_blocks.{index}.", f"blocks.{index}."
        if f"{old}_expand_conv.weight" in published:
            fold(published, f"{old}_expand_conv", f"{old}_bn0", tensors, f"{new}expand")
        fold(published, f"{old}_depthwise_conv", f"{old}_bn1", tensors, f"{new}depthwise")
        fold(published, f"{old}_project_conv", f"{old}_bn2", tensors, f"{new}project")
        index += 1
    fold(published, "_conv_head", "_bn1", tensors, "head")
    return tensors, published["_fc.weight"], published["_fc.bias"]


def fold(source: dict[str, Tensor], conv: str, norm: str, target: dict[str, Tensor], name: str) -> None:
    """Put ``conv`` followed by batch norm ``norm`` into ``target`` as one convolution with a bias, computed in float64."""
    part = {k: source[f"{norm}.{k}"].double() for k in ("weight", "bias", "running_mean", "running_var")}
    scale = part["weight"] / (part["running_var"] + BATCH_NORM_EPSILON).sqrt()
    target[f"{name}.weight"] = (source[f"{conv}.weight"].double() * scale[:, None, None, None]).float()
    target[f"{name}.bias"] = (part["bias"] - part["running_mean"] * scale).float()


def tokenizer(gguf: Path, scratch: Path) -> PreTrainedTokenizerFast:
    """The GGUF file's tokenizer with ``<reponame>`` renamed to ``<image>``; ``scratch`` is a folder for the detour."""
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(scratch)
    path = scratch / "tokenizer.json"
    path.write_text(json.dumps(renamed(json.loads(path.read_text("utf-8"))), ensure_ascii=False), "utf-8")
    return PreTrainedTokenizerFast.from_pretrained(scratch)


def renamed(description: dict[str, Any]) -> dict[str, Any]:
    """A ``tokenizer.json`` with the spare special token renamed, its id kept."""
    vocabulary = description["model"]["vocab"]
    description["model"]["vocab"] = {IMAGE_TOKEN if k == RENAMED_TOKEN else k: v for k, v in vocabulary.items()}
    for token in description["added_tokens"]:
        if token["content"] == RENAMED_TOKEN:
            token["content"] = IMAGE_TOKEN
    return description


def image_processor() -> CLIPImageProcessorPil:
    """Shorter side to 384, centre square, then (value - 127) / 128: the scaling the encoder was measured with."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=PILImageResampling.BICUBIC,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )


def processor(words: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The stock LLaVA processor: an image becomes 144 placeholders."""
    words.chat_template = CHAT_TEMPLATE
    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=words,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    )


def configuration(text: LlamaConfig, image_token_id: int) -> DemoConfig:
    """The assembled model's configuration; the folder's main data type is bfloat16."""
    config = DemoConfig(
        vision_config=EfficientNetLiteConfig(image_size=IMAGE_SIZE, patch_size=PATCH_SIZE),
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=CELLS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        architectures=["DemoForConditionalGeneration"],
    )
    config.dtype = torch.bfloat16
    return config
