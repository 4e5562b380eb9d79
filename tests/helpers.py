"""Tiny randomly initialised models of several families, for tests of plumbing alone.

Each is written to a folder and loaded by the project's own loader, as any other model is. Their weights are random:
nothing they compute means anything, but every identity must hold on them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lens.backend.catalog import ModelSpec
from lens.backend.folders import write_manifest
from lens.backend.loading import LoadedModel, load

TEXT = """A cat sat on the red mat. Two dogs run over wet sand. The tall tower stands beside a river.
A bowl of green apples on a wooden table. She reads an old book under the warm lamp. Describe the image.
What is this? the unbelievable motorcycles were photographed yesterday. Nine white birds fly above the sea."""

CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_tokenizer(bos: bool = False, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 entries, with ``<image>``; with ``bos`` it puts ``<s>`` before every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT], trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side=padding_side,
        model_max_length=512,
    )


def llama_config(vocab: int) -> LlamaConfig:
    """Four blocks of width 32."""
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        # Large enough that random states differ from one another well beyond rounding.
        initializer_range=0.3,
    )


def tiny_llama(folder: Path, seed: int = 0, bos: bool = False, padding_side: str = "right") -> LoadedModel:
    """Four blocks of width 32 with a tokenizer of its own."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(bos, padding_side)
    LlamaForCausalLM(llama_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(ModelSpec(name="tiny-llama", source=str(folder)))


def tiny_gpt2(folder: Path, seed: int = 0) -> LoadedModel:
    """Three blocks of width 32; absolute position embeddings, tied unembedding."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(ModelSpec(name="tiny-gpt2", source=str(folder)))


def tiny_llava(folder: Path, seed: int = 0, chat: bool = True, **image_processor: object) -> LoadedModel:
    """LLaVA-1.5 in small: CLIP tower (patch 8, input 48 x 48: 6 x 6 visual tokens, CLS dropped), MLP connector, Llama.

    ``image_processor`` overrides settings of the processor (resize 48 shortest edge, centre crop 48).
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=48,
        patch_size=8,
        initializer_range=0.3,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=llama_config(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    settings = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}, **image_processor}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**settings),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    ).save_pretrained(folder)
    return load(ModelSpec(name="tiny-llava", source=str(folder)))


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change the manifest of an index or a graph and make its checksum right again."""
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del content["checksum"]
    write_manifest(folder, {**content, **changes})
