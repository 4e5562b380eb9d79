"""Tiny models of families that take pictures of any size, with their processors."""

from __future__ import annotations

from typing import Any

import transformers as tf

from lens.backend.processors import NoVideos, without_videos
from tests.tinyparts import EXPERTS, MROPE, SPARE, TEXT, VISION, chat, family, ids, words


def qwen_words() -> Any:
    return words("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    return ids(
        tokenizer,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def qwen_images(maker: Any = None, **settings: Any) -> Any:
    size = {"shortest_edge": 32 * 32, "longest_edge": 112 * 112}
    return (maker or tf.Qwen2VLImageProcessorPil)(patch_size=8, merge_size=2, size=size, **settings)


def qwen_processor(maker: Any, tokenizer: Any, images: Any = None) -> Any:
    template = chat("<|vision_start|><|image_pad|><|vision_end|>")
    return without_videos(maker)(images or qwen_images(), tokenizer, NoVideos(), chat_template=template)


QWEN_VISION = {"depth": 2, "num_heads": 4, "patch_size": 8, "initializer_range": 0.3, "intermediate_size": 48}


@family
def qwen2_vl() -> tuple[Any, Any]:
    tokenizer = qwen_words()
    config = tf.Qwen2VLConfig(
        vision_config={"depth": 2, "num_heads": 4, "patch_size": 8, "embed_dim": 32, "hidden_size": 32},
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**MROPE}},
        **qwen_ids(tokenizer),
    )
    return config, qwen_processor(tf.Qwen2VLProcessor, tokenizer)


@family
def qwen2_5_vl() -> tuple[Any, Any]:
    tokenizer = qwen_words()
    vision = {**QWEN_VISION, "hidden_size": 32, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]}
    config = tf.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**MROPE}},
        **qwen_ids(tokenizer),
    )
    return config, qwen_processor(tf.Qwen2_5_VLProcessor, tokenizer)


QWEN3_VISION = {
    **QWEN_VISION,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0],
}


@family
def qwen3_vl() -> tuple[Any, Any]:
    tokenizer = qwen_words()
    config = tf.Qwen3VLConfig(
        vision_config=QWEN3_VISION,
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**MROPE}},
        **qwen_ids(tokenizer),
    )
    return config, qwen_processor(tf.Qwen3VLProcessor, tokenizer)


@family
def qwen3_5() -> tuple[Any, Any]:
    """One block with linear attention, one with full attention."""
    tokenizer = qwen_words()
    vision = {key: value for key, value in QWEN3_VISION.items() if key != "deepstack_visual_indexes"}
    linear = {"key_head_dim": 8, "value_head_dim": 8, "num_key_heads": 2, "num_value_heads": 4}
    rows = len(tokenizer) + SPARE
    text = {**TEXT, **{f"linear_{key}": value for key, value in linear.items()}, "vocab_size": rows}
    rope = {**MROPE, "partial_rotary_factor": 1.0}
    config = tf.Qwen3_5Config(
        vision_config=vision,
        text_config={**text, "rope_parameters": rope, "layer_types": ["linear_attention", "full_attention"]},
        **qwen_ids(tokenizer),
    )
    return config, qwen_processor(tf.Qwen3VLProcessor, tokenizer)


def _glm(config_maker: Any, processor_maker: Any, images: Any, **vision: Any) -> tuple[Any, Any]:
    tokens = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
    tokenizer = words(*(f"<|{token}|>" for token in tokens))
    keys = (
        "image_token",
        "video_token",
        "image_start_token",
        "image_end_token",
        "video_start_token",
        "video_end_token",
    )
    config = config_maker(
        vision_config={**QWEN_VISION, "hidden_size": 32, "out_hidden_size": 32, "image_size": 48, **vision},
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**MROPE}},
        **ids(tokenizer, **{f"{key}_id": f"<|{token}|>" for key, token in zip(keys, tokens, strict=True)}),
    )
    template = chat("<|begin_of_image|><|image|><|end_of_image|>")
    return config, without_videos(processor_maker)(qwen_images(images), tokenizer, NoVideos(), chat_template=template)


@family
def glm4v() -> tuple[Any, Any]:
    return _glm(tf.Glm4vConfig, tf.Glm4vProcessor, tf.Glm4vImageProcessorPil)


@family
def glm46v() -> tuple[Any, Any]:
    config, processor = _glm(tf.Glm46VConfig, tf.Glm46VProcessor, tf.Glm46VImageProcessorPil)
    return config, processor


@family
def glm_ocr() -> tuple[Any, Any]:
    return _glm(tf.GlmOcrConfig, tf.Glm46VProcessor, tf.Glm46VImageProcessorPil)


@family
def exaone4_5() -> tuple[Any, Any]:
    tokenizer = qwen_words()
    vision = {**QWEN_VISION, "hidden_size": 32, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]}
    config = tf.Exaone4_5_Config(
        vision_config={**vision, "num_key_value_heads": 2},
        text_config={**TEXT, "model_type": "exaone4", "vocab_size": len(tokenizer)},
        **ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    )
    return config, qwen_processor(tf.Exaone4_5_Processor, tokenizer)


@family
def paddleocr_vl() -> tuple[Any, Any]:
    tokenizer = words("<|video_pad|>", "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>")
    config = tf.PaddleOCRVLConfig(
        vision_config={**VISION, "spatial_merge_size": 2},
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**MROPE}},
        **qwen_ids(tokenizer),
    )
    images = qwen_images(tf.PaddleOCRVLImageProcessorPil)
    return config, tf.PaddleOCRVLProcessor(images, tokenizer, chat_template=chat("<|image_pad|>"))


@family
def video_llama_3() -> tuple[Any, Any]:
    tokenizer = qwen_words()
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = tf.VideoLlama3Config(
        vision_config=vision,
        text_config=tf.Qwen2Config(vocab_size=len(tokenizer), **TEXT),
        **ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    )
    return config, qwen_processor(tf.VideoLlama3Processor, tokenizer, qwen_images(tf.VideoLlama3ImageProcessorPil))


@family
def gemma4() -> tuple[Any, Any]:
    """Pictures of up to 70 tokens, each pooled from 3 x 3 patches of 16."""
    named = {
        "image": "<|image|>",
        "boi": "<|image>",
        "eoi": "<image|>",
        "audio": "<|audio|>",
        "boa": "<|a>",
        "eoa": "<a|>",
    }
    tokenizer = words(**{f"{key}_token": token for key, token in named.items()})
    images = tf.Gemma4ImageProcessorPil(patch_size=8, max_soft_tokens=70, pooling_kernel_size=3)
    processor = without_videos(tf.Gemma4Processor)(
        tf.Gemma4AudioFeatureExtractor(),
        images,
        tokenizer,
        NoVideos(),
        chat_template=chat("<|image|>"),
        image_seq_length=70,
    )
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    text = {**TEXT, "hidden_size_per_layer_input": 0, "layer_types": ["sliding_attention", "full_attention"]}
    config = tf.Gemma4Config(
        vision_config={**vision, "num_key_value_heads": 4, "head_dim": 8, "position_embedding_size": 128},
        text_config={**text, "vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer)},
        audio_config=None,
        **ids(tokenizer, image_token_id="<|image|>", boi_token_id="<|image>", eoi_token_id="<image|>"),
        **ids(
            tokenizer,
            video_token_id="<|video|>",
            audio_token_id="<|audio|>",
            boa_token_id="<|a>",
            eoa_token_index="<a|>",
        ),
    )
    return config, processor


@family
def qwen3_vl_moe() -> tuple[Any, Any]:
    tokenizer = qwen_words()
    config = tf.Qwen3VLMoeConfig(
        vision_config=QWEN3_VISION,
        text_config={**TEXT, **EXPERTS, "vocab_size": len(tokenizer), "rope_parameters": {**MROPE}},
        **qwen_ids(tokenizer),
    )
    return config, qwen_processor(tf.Qwen3VLProcessor, tokenizer)


@family
def qwen3_5_moe() -> tuple[Any, Any]:
    dense, processor = qwen3_5()
    text = {key: value for key, value in dense.text_config.to_dict().items() if key != "model_type"}
    config = tf.Qwen3_5MoeConfig(
        vision_config={key: value for key, value in QWEN3_VISION.items() if key != "deepstack_visual_indexes"},
        text_config={**text, **EXPERTS, "shared_expert_intermediate_size": 16},
        **qwen_ids(processor.tokenizer),
    )
    return config, processor


@family
def glm4v_moe() -> tuple[Any, Any]:
    """The first block has one MLP, the second a mixture of experts."""
    config, processor = _glm(tf.Glm4vMoeConfig, tf.Glm4vProcessor, tf.Glm4vImageProcessorPil)
    text = config.text_config
    text.n_routed_experts, text.n_shared_experts, text.num_experts_per_tok, text.moe_intermediate_size = 4, 1, 2, 16
    text.first_k_dense_replace, text.head_dim = 1, 16  # half of it is rotated
    return config, processor
