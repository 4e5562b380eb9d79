"""Tiny language models of many families."""

from __future__ import annotations

from typing import Any

import transformers as tf

from tests.tinyparts import EXPERTS, MAKERS, SPARE, TEXT, words

SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *(
                "llama",
                "mistral",
                "qwen2",
                "qwen3",
                "gemma",
                "gemma2",
                "gemma3_text",
                "olmo",
                "olmo2",
                "phi3",
                "granite",
            ),
            *("smollm3", "cohere", "cohere2", "glm4", "gpt_neox"),
        ),
        TEXT,
    ),
    "mixtral": {**TEXT, **EXPERTS},
    "qwen3_moe": {**TEXT, **EXPERTS},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.3},
}
"""Settings of the configuration, by model type."""


def _maker(model_type: str) -> Any:
    rows = len(words()) + SPARE
    return lambda: (tf.AutoConfig.for_model(model_type, vocab_size=rows, **SETTINGS[model_type]), None)


MAKERS.update({model_type: _maker(model_type) for model_type in SETTINGS})
