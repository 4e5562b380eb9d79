"""Sa2VA's layout (InternVL's, with SAM 2 beside it) → ``InternVLForConditionalGeneration``, without the authors' code.

Left out are SAM 2 (``grounding_encoder``) and the projection that prompts it (``text_hidden_fcs``): Sa2VA steers SAM 2's
video tracker, which transformers' model takes no text embedding for, so that a converted Sa2VA has maps and no mask
head. The picture is one view of the whole, squeezed into the encoder's square, as Sa2VA sees a frame of a video; its up to
12 further tiles of a photograph are left out. Names: OpenGVLab's ``modeling_intern_vit.py`` and bytedance/Sa2VA's
``modeling_sa2va_chat.py``, and transformers' own conversion of InternVL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPImageProcessorPil,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaProcessor,
)
from transformers.image_utils import PILImageResampling

from lens.errors import ConversionFailed
from lens.segmaps.checkpointfiles import Checkpoint, check_complete, shapes_in, short, write_index
from lens.segmaps.checkpointtokens import SEG

FILE = "model-{:05d}.safetensors"
VISION = "model.vision_tower."
_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
NAMES = (
    (r"vision_model\.embeddings\.class_embedding", VISION + "embeddings.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", VISION + "embeddings.position_embeddings"),
    (r"vision_model\.embeddings\.patch_embedding\.(.+)", VISION + r"embeddings.patch_embeddings.projection.\1"),
    (_LAYER + r"ls([12])", VISION + r"encoder.layer.\1.lambda_\2"),
    (_LAYER + r"attn\.proj\.(.+)", VISION + r"encoder.layer.\1.attention.projection_layer.\2"),
    (_LAYER + r"attn\.([qk]_norm\..+)", VISION + r"encoder.layer.\1.attention.\2"),
    (_LAYER + r"norm1\.(.+)", VISION + r"encoder.layer.\1.layernorm_before.\2"),
    (_LAYER + r"norm2\.(.+)", VISION + r"encoder.layer.\1.layernorm_after.\2"),
    (_LAYER + r"mlp\.(.+)", VISION + r"encoder.layer.\1.mlp.\2"),
    (r"language_model\.lm_head\.(.+)", r"lm_head.\1"),
    (r"language_model\.model\.(.+)", r"model.language_model.\1"),
    (r"mlp1\.0\.(.+)", r"model.multi_modal_projector.layer_norm.\1"),
    (r"mlp1\.1\.(.+)", r"model.multi_modal_projector.linear_1.\1"),
    (r"mlp1\.3\.(.+)", r"model.multi_modal_projector.linear_2.\1"),
)
JOINT = _LAYER + r"attn\.qkv\.(weight|bias)"
"""Queries, keys and values as one tensor, in this order; there they are three."""
LEFT_OUT = r"(grounding_encoder|text_hidden_fcs)\..+"
LANGUAGE = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "LlamaForCausalLM": "llama"}
"""Language models that transformers has itself, by the architecture in ``llm_config``."""
TEMPLATES = {
    "qwen_chat": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "internlm2_chat": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "phi3_chat": ("<|user|>\n{}<|end|>\n<|assistant|>\n", "<|end|>"),
}
"""Question and end of an answer, by the ``template`` that a checkpoint was trained with (xtuner's)."""
IMAGE, START, END = "<IMG_CONTEXT>", "<img>", "</img>"
MEAN, SPREAD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_TEXT_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "head_dim", "rms_norm_eps", "max_position_embeddings", "rope_theta", "rope_scaling", "attention_bias", "bos_token_id",
    "eos_token_id", "initializer_range",
)  # fmt: skip
_VISION_KEYS = {
    key: key
    for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps",
        "norm_type", "patch_size", "image_size",
    )
} | {"qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm"}  # fmt: skip


class InternvlLayout:
    """One checkpoint; a :class:`lens.segmaps.checkpoints.Layout`."""

    def __init__(self, checkpoint: Checkpoint, vision: str | None) -> None:
        """Raises ConversionFailed for a language model, template or tokenizer that isn't known; ``vision``: must be
        ``None``, since the tower is in the checkpoint."""
        if vision is not None:
            raise ConversionFailed(
                f"A {checkpoint.row.name} checkpoint has a vision tower of its own; leave out --vision."
            )
        self.checkpoint, self.vision = checkpoint, ""
        config = checkpoint.config
        language = (config.get("llm_config", {}).get("architectures") or ["none"])[0]
        for what, found, known in (
            ("language model", language, LANGUAGE),
            ("template", config.get("template"), TEMPLATES),
            ("pixel shuffle", config.get("ps_version"), ("v2",)),
            ("feature layer", config.get("select_layer"), (-1,)),
        ):
            if found not in known:
                raise ConversionFailed(
                    f"The checkpoint's {what} is {str(found)[:60]!r}, but only {', '.join(map(str, known))} can be "
                    "converted; give another checkpoint."
                )
        self.language = LANGUAGE[language]
        self.words = _read_tokenizer(checkpoint.folder)

    def placed(self, name: str, tensor: Tensor) -> Iterator[tuple[str, str, Tensor]]:
        """One place for every tensor, three for queries, keys and values that are one."""
        if re.fullmatch(LEFT_OUT, name):
            return
        joint = re.fullmatch(JOINT, name)
        if joint:
            for letter, share in zip("qkv", tensor.chunk(3), strict=True):
                yield FILE, f"{VISION}encoder.layer.{joint[1]}.attention.{letter}_proj.{joint[2]}", share.clone()
            return
        new = next((match.expand(new) for old, new in NAMES if (match := re.fullmatch(old, name))), None)
        if new is None:
            raise ConversionFailed(
                f"The checkpoint holds a tensor {name[:120]!r}, which Sa2VA's layout doesn't have; give a checkpoint of "
                "Sa2VA."
            )
        yield FILE, new, tensor

    def finish(self, work: Path) -> None:
        """Settings, tokenizer and processor."""
        write_index(work)
        shapes = shapes_in(work)
        config = self._config(shapes)
        with torch.device("meta"):
            wanted = InternVLForConditionalGeneration(config).state_dict()
        tied = "lm_head.weight" not in shapes
        check_complete({k: v for k, v in wanted.items() if not (tied and k == "lm_head.weight")}, shapes)
        config.save_pretrained(work)
        question, end = TEMPLATES[self.checkpoint.config["template"]]
        ends = self.words(end, add_special_tokens=False)["input_ids"]
        stop = {self.words.eos_token_id, *(ends if len(ends) == 1 else [])}
        GenerationConfig(
            bos_token_id=self.words.bos_token_id, eos_token_id=sorted(stop), pad_token_id=self.words.pad_token_id
        ).save_pretrained(work)
        _processor(config, self.words, question, end).save_pretrained(work)

    def _config(self, shapes: dict[str, tuple[int, ...]]) -> InternVLConfig:
        config = self.checkpoint.config
        text = {key: config["llm_config"][key] for key in _TEXT_KEYS if config["llm_config"].get(key) is not None}
        tower = {
            new: config["vision_config"][old] for old, new in _VISION_KEYS.items() if old in config["vision_config"]
        }
        tied = "lm_head.weight" not in shapes
        rows = shapes.get("model.language_model.embed_tokens.weight", (0,))[0]
        made = InternVLConfig(
            text_config=AutoConfig.for_model(self.language, **text, vocab_size=rows, tie_word_embeddings=tied),
            vision_config=InternVLVisionConfig(**tower),
            image_token_id=self.words.get_vocab()[IMAGE],
            downsample_ratio=config.get("downsample_ratio", 0.5),
            tie_word_embeddings=tied,
            architectures=["InternVLForConditionalGeneration"],
        )
        made.image_seq_length = int((_side(made) / _patch(made)) ** 2)
        return made


def _side(config: Any) -> int:
    return int(config.vision_config.image_size[0])


def _patch(config: Any) -> int:
    """Pixels of a visual token's side: some patches of the encoder together."""
    return int(config.vision_config.patch_size[0] / config.downsample_ratio)


def _processor(config: Any, words: Any, question: str, end: str) -> LlavaProcessor:
    """LLaVA's processor, which puts one placeholder for every visual token: the picture squeezed into a square."""
    side = _side(config)
    said = (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'image' %}" + START + IMAGE + END + "{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    )
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}" + question.format(said) + "{% else %}"
        "" + said + end + "\n{% endif %}{% endfor %}"
    )
    pictures = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,
        resample=PILImageResampling.BICUBIC,
        image_mean=MEAN,
        image_std=SPREAD,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=words,
        patch_size=_patch(config),
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # taken off again by the strategy
        image_token=IMAGE,
        chat_template=template,
    )


def _read_tokenizer(folder: Path) -> Any:
    try:
        words = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers and transformers each raise their own kinds
        raise ConversionFailed(
            f"The tokenizer in {folder} can't be read ({short(error)}); fetch the checkpoint again."
        ) from error
    missing = [token for token in (SEG, IMAGE, START, END) if token not in words.get_vocab()]
    if missing:
        raise ConversionFailed(
            f"The tokenizer in {folder} has no token {missing[0]}, so that this is no checkpoint of Sa2VA; give one."
        )
    return words
