"""Tiny models of families with one view of the picture, or none that is a grid, with their processors."""

from __future__ import annotations

from typing import Any

import transformers as tf

from tests.helpers import CHAT
from tests.tinyparts import SQUARE, TEXT, VISION, chat, family, ids, words


@family
def paligemma() -> tuple[Any, Any]:
    tokenizer = words(image_token="<picture>")
    processor = tf.PaliGemmaProcessor(tf.SiglipImageProcessorPil(size=SQUARE, image_seq_length=36), tokenizer)
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False, projection_dim=32),
        text_config=tf.GemmaConfig(vocab_size=len(tokenizer), **TEXT),
        vocab_size=len(tokenizer),
        projection_dim=32,
        hidden_size=32,
        **ids(tokenizer, image_token_index="<picture>"),
    )
    return config, processor


@family
def gemma3() -> tuple[Any, Any]:
    tokenizer = words(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=tf.Gemma3TextConfig(vocab_size=len(tokenizer), **TEXT),
        mm_tokens_per_image=9,
        **ids(
            tokenizer,
            image_token_index="<image_soft_token>",
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
        ),
    )
    images = tf.Gemma3ImageProcessorPil(size=SQUARE)
    template = chat("<start_of_image>")
    return config, tf.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=9)


@family
def llava() -> tuple[Any, Any]:
    """With a picture padded to a square, as LLaVA's own processor does it."""
    tokenizer = words()
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**VISION),
        text_config=tf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        **ids(tokenizer, image_token_id="<image>"),
    )
    images = tf.LlavaImageProcessorPil(size={"shortest_edge": 48}, crop_size=SQUARE, do_pad=True)
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return config, tf.LlavaProcessor(images, tokenizer, **settings, chat_template=CHAT)


@family
def vipllava() -> tuple[Any, Any]:
    _, processor = llava()
    config = tf.VipLlavaConfig(
        vision_config=tf.CLIPVisionConfig(**VISION),
        text_config=tf.LlamaConfig(vocab_size=len(processor.tokenizer), **TEXT),
        vision_feature_layers=[-1, -2],
        **ids(processor.tokenizer, image_token_id="<image>"),
    )
    processor.image_processor = tf.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=SQUARE)
    return config, processor


@family
def janus() -> tuple[Any, Any]:
    tokenizer = words(image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>")
    quantiser = {"embed_dim": 4, "num_embeddings": 8, "latent_channels": 32, "base_channels": 32, "num_patches": 6}
    config = tf.JanusConfig(
        vision_config={**VISION, "mlp_ratio": 2.0, "projection_dim": 32, "num_image_tokens": 36},
        text_config=tf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        vq_config={**quantiser, "channel_multiplier": [1, 1], "num_res_blocks": 1, "projection_dim": 32},
        **ids(tokenizer, image_token_id="<image_placeholder>"),
    )
    images = tf.JanusImageProcessorPil(size=SQUARE)
    template = chat("<image_placeholder>")
    return config, tf.JanusProcessor(images, tokenizer, num_image_tokens=36, chat_template=template)


@family
def deepseek_vl() -> tuple[Any, Any]:
    tokenizer = words(image_token="<image_placeholder>")
    config = tf.DeepseekVLConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=tf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        **ids(tokenizer, image_token_id="<image_placeholder>"),
    )
    images = tf.DeepseekVLImageProcessorPil(size=SQUARE)
    template = chat("<image_placeholder>")
    return config, tf.DeepseekVLProcessor(images, tokenizer, num_image_tokens=36, chat_template=template)


OPT = {"word_embed_proj_dim": 32, "ffn_dim": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
QUERIES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "encoder_hidden_size": 32,
    "initializer_range": 0.3,
}


def _blip(config_maker: Any, queries: Any, vision: Any, tokenizer: Any) -> Any:
    return config_maker(
        vision_config=vision(**VISION),
        qformer_config=queries(**QUERIES, vocab_size=len(tokenizer)),
        text_config=tf.OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=512, init_std=0.3, **OPT),
        num_query_tokens=8,
        **ids(tokenizer, image_token_index="<image>"),
    )


@family
def blip_2() -> tuple[Any, Any]:
    tokenizer = words()
    processor = tf.Blip2Processor(tf.BlipImageProcessorPil(size=SQUARE), tokenizer, num_query_tokens=8)
    return _blip(tf.Blip2Config, tf.Blip2QFormerConfig, tf.Blip2VisionConfig, tokenizer), processor


@family
def instructblip() -> tuple[Any, Any]:
    tokenizer = words()
    images = tf.BlipImageProcessorPil(size=SQUARE)
    processor = tf.InstructBlipProcessor(images, tokenizer, words(), num_query_tokens=8)
    makers = (tf.InstructBlipConfig, tf.InstructBlipQFormerConfig, tf.InstructBlipVisionConfig)
    return _blip(*makers, tokenizer), processor


@family
def idefics2() -> tuple[Any, Any]:
    processor = tf.Idefics2Processor(
        tf.Idefics2ImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48}),
        words(),
        image_seq_len=8,
        chat_template=CHAT,
    )
    perceiver = {"resampler_n_latents": 8, "resampler_depth": 1, "resampler_n_heads": 4, "resampler_head_dim": 8}
    config = tf.Idefics2Config(
        vision_config=tf.Idefics2VisionConfig(**VISION),
        perceiver_config={**perceiver, "num_key_value_heads": 2, "hidden_size": 32},
        text_config=tf.MistralConfig(vocab_size=len(processor.tokenizer), **TEXT),
        **ids(processor.tokenizer, image_token_id="<image>"),
    )
    return config, processor


@family
def deepseek_vl_hybrid() -> tuple[Any, Any]:
    """A second tower (SAM's) sees the picture at 64 x 64."""
    tokenizer = words(image_token="<image_placeholder>")
    sam = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 48}
    high_res = tf.SamVisionConfig(**sam, image_size=64, patch_size=8, global_attn_indexes=[1], window_size=4)
    config = tf.DeepseekVLHybridConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        high_res_vision_config=high_res,
        text_config=tf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        **ids(tokenizer, image_token_id="<image_placeholder>"),
    )
    images = tf.DeepseekVLHybridImageProcessorPil(size=SQUARE, high_res_size={"height": 64, "width": 64})
    template = chat("<image_placeholder>")
    return config, tf.DeepseekVLHybridProcessor(images, tokenizer, num_image_tokens=36, chat_template=template)
