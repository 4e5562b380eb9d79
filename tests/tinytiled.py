"""Tiny models of families that cut a picture into tiles, with their processors."""

from __future__ import annotations

from typing import Any

import transformers as tf

from lens.backend.processors import NoVideos, without_videos
from tests.helpers import CHAT
from tests.tinyparts import SQUARE, TEXT, VISION, chat, family, ids, words


@family
def llava_next() -> tuple[Any, Any]:
    tokenizer = words()
    pinpoints = [[48, 96], [96, 48], [96, 96], [48, 144], [144, 48]]
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**VISION),
        text_config=tf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        image_grid_pinpoints=pinpoints,
        **ids(tokenizer, image_token_id="<image>"),
    )
    images = tf.LlavaNextImageProcessorPil(size={"shortest_edge": 48}, crop_size=SQUARE, image_grid_pinpoints=pinpoints)
    return config, tf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def _onevision(limit: str, patch: int) -> tuple[Any, Any]:
    tokenizer = words("<video>")
    pinpoints = [[h, w] for h in (48, 96, 144) for w in (48, 96, 144)]
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**{**VISION, "patch_size": patch}),
        text_config=tf.Qwen2Config(vocab_size=len(tokenizer), **TEXT),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio=limit,
        **ids(tokenizer, image_token_id="<image>", video_token_id="<video>"),
    )
    return config, without_videos(tf.LlavaOnevisionProcessor)(
        tf.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=pinpoints),
        tokenizer,
        NoVideos(),
        num_image_tokens=36,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=limit,
        chat_template=CHAT,
    )


@family
def llava_onevision() -> tuple[Any, Any]:
    """Patches of 7 in tiles of 48: the last 6 pixels of each tile belong to no token."""
    return _onevision("anyres_max_9", 7)


@family
def llava_onevision_thinned() -> tuple[Any, Any]:
    return _onevision("anyres_max_2", 8)


def _split_words() -> Any:
    cells = [f"<row_{row}_col_{col}>" for row in range(1, 4) for col in range(1, 4)]
    return words("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *cells)


def _split_config(maker: Any, vision_maker: Any, tokenizer: Any) -> Any:
    return maker(
        vision_config=vision_maker(**VISION),
        text_config=tf.LlamaConfig(vocab_size=len(tokenizer), **TEXT),
        scale_factor=2,
        pad_token_id=0,
        **ids(tokenizer, image_token_id="<image>"),
    )


SPLIT: dict[str, Any] = {"size": {"longest_edge": 144}, "max_image_size": {"longest_edge": 48}}


@family
def idefics3() -> tuple[Any, Any]:
    images = tf.Idefics3ImageProcessorPil(**SPLIT)
    processor = tf.Idefics3Processor(images, _split_words(), image_seq_len=9, chat_template=CHAT)
    return _split_config(tf.Idefics3Config, tf.Idefics3VisionConfig, processor.tokenizer), processor


@family
def smolvlm() -> tuple[Any, Any]:
    """Needs the package num2words, which its processor uses for videos alone."""
    tokenizer, images = _split_words(), tf.SmolVLMImageProcessorPil(**SPLIT)
    maker = without_videos(tf.SmolVLMProcessor)
    processor = maker(images, tokenizer, NoVideos(), image_seq_len=9, chat_template=CHAT)
    return _split_config(tf.SmolVLMConfig, tf.SmolVLMVisionConfig, tokenizer), processor


@family
def internvl() -> tuple[Any, Any]:
    tokenizer = words(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = tf.InternVLConfig(
        vision_config={**VISION, "image_size": [48, 48], "patch_size": [8, 8]},
        text_config=tf.Qwen2Config(vocab_size=len(tokenizer), **TEXT),
        image_seq_length=9,
        **ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )
    return config, without_videos(tf.InternVLProcessor)(
        tf.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=6),
        tokenizer,
        NoVideos(),
        image_seq_length=9,
        chat_template=chat("<IMG_CONTEXT>"),
    )


@family
def qianfan_ocr() -> tuple[Any, Any]:
    config, processor = internvl()
    tokenizer = processor.tokenizer
    config = tf.QianfanOCRConfig(
        vision_config={**VISION, "image_size": [48, 48], "patch_size": [8, 8], "drop_path_rate": 0.0},
        text_config=tf.Qwen3Config(vocab_size=len(tokenizer), **TEXT),
        image_seq_length=9,
        **ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )
    images = processor.image_processor
    return config, tf.QianfanOCRProcessor(images, tokenizer, image_seq_length=9, chat_template=CHAT)


@family
def aya_vision() -> tuple[Any, Any]:
    ends = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
    tokenizer = words(*ends)
    config = tf.AyaVisionConfig(
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=tf.Cohere2Config(vocab_size=len(tokenizer), **TEXT),
        downsample_factor=2,
        **ids(tokenizer, image_token_index="<|IMG_PATCH|>"),
    )
    images = tf.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=6)
    return config, tf.AyaVisionProcessor(
        images, tokenizer, patch_size=8, img_size=48, downsample_factor=2, chat_template=CHAT
    )


@family
def ovis2() -> tuple[Any, Any]:
    parts = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = words("<IMG_ATOM>", *parts)
    config = tf.Ovis2Config(
        vision_config={**VISION, "vocab_size": 64, "hidden_stride": 2},
        text_config=tf.Qwen2Config(vocab_size=len(tokenizer), **TEXT),
        visual_indicator_token_ids=[tokenizer.convert_tokens_to_ids(part) for part in parts],
        vocab_size=len(tokenizer),
        hidden_size=32,
        **ids(tokenizer, image_token_id="<IMG_ATOM>"),
    )
    images = tf.Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=6)
    return config, tf.Ovis2Processor(images, tokenizer, image_seq_length=9, chat_template=CHAT)
