"""The command that trains <SEG>: what it opens."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig

from lens.demo.provision import LANGUAGE
from lens.demo.train_seg import open_language

WIDTH, HEADS = 64, 2


def test_the_language_model_is_bfloat16_and_its_rotary_frequencies_are_not(tmp_path: Path) -> None:
    text = LlamaConfig(
        vocab_size=32, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlavaConfig(text_config=text.to_dict()).save_pretrained(tmp_path)
    saved = LlamaForCausalLM(text).model.state_dict()
    save_file(
        {f"model.language_model.{name}": tensor.bfloat16() for name, tensor in saved.items()}, tmp_path / LANGUAGE
    )
    language = open_language(tmp_path)
    assert {parameter.dtype for parameter in language.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(language.model.embed_tokens.weight, saved["embed_tokens.weight"].bfloat16())
    wanted = 10_000.0 ** -(torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    torch.testing.assert_close(language.model.rotary_emb.inv_freq, wanted, rtol=1e-6, atol=0.0)
