"""What the tiny models of tests/tiny*.py are made of: sizes, special tokens, chat templates, and their register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as tf

from tests.helpers import CHAT, tiny_tokenizer

SQUARE = {"height": 48, "width": 48}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 8,
    "initializer_range": 0.3,
}
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

SPARE = 8
"""Rows of an embedding matrix beyond the tokenizer's own: Qwen's tokenizers, say, add a token to those of their files."""

Maker = Callable[[], tuple[Any, Any]]
MAKERS: dict[str, Maker] = {}


def family(maker: Maker) -> Maker:
    """Register a function that gives a configuration and a processor."""
    MAKERS[maker.__name__] = maker
    return maker


def words(*special: str, **named: str) -> tf.PreTrainedTokenizerFast:
    """The tiny tokenizer with a family's special tokens; ``named`` ones are attributes of it, as ``image_token``."""
    core = tiny_tokenizer()._tokenizer
    core.add_special_tokens([*special, *named.values()])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", *special],
        extra_special_tokens=named or None,
        model_max_length=4096,
    )


def chat(image: str) -> str:
    """A chat template that writes a picture as ``image``."""
    return CHAT.replace("<image>", image)


def ids(tokenizer: Any, **tokens: str) -> dict[str, int]:
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()}
