"""The original layout of LISA, SESAME and READ: what each tensor is called there and here, and what the settings say.

The language model is a Llama whose tensors lie beside those of the connector (``mm_projector``), of the projection from
<SEG>'s state to a prompt (``text_hidden_fcs``) and of SAM (``visual_model``); the CLIP tower isn't stored. Names are those
of the published code: dvlab-research/LISA (``model/LISA.py``, ``model/llava``, ``model/segment_anything``, ``chat.py``),
see-say-segment/sesame, rui-qian/READ and haotian-liu/LLaVA. No real checkpoint was at hand: what is here has run on tiny
checkpoints that tests write in this layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, LlavaConfig, SamConfig

from lens.errors import ConversionFailed

MODEL, PROJECTION, SAM = "model", "text_hidden_fcs", "sam"
"""The parts that a checkpoint is sorted into."""


NAMES = (
    (r"lm_head\.(.+)", MODEL, r"lm_head.\1"),
    (r"model\.(embed_tokens|layers|norm)\.(.+)", MODEL, r"model.language_model.\1.\2"),
    (r"model\.mm_projector\.0\.(.+)", MODEL, r"model.multi_modal_projector.linear_1.\1"),
    (r"model\.mm_projector\.2\.(.+)", MODEL, r"model.multi_modal_projector.linear_2.\1"),
    (r"model\.mm_projector\.(weight|bias)", MODEL, r"model.multi_modal_projector.linear_1.\1"),
    (r"model\.text_hidden_fcs\.0\.(.+)", PROJECTION, r"\1"),
    (r"model\.visual_model\.(.+)", SAM, r"\1"),
)
"""Original name, part, and the name there."""
DROPPED = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|model\.visual_model\.pixel_(mean|std)"
"""Buffers that older versions stored; they follow from the settings."""
_MLP = r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\."
SAM_NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d|_)", r".layer_norm\1"),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (_MLP + r"0\.", r"\1.proj_in."),
    (_MLP + r"1\.", r"\1.layers.0."),
    (_MLP + r"2\.", r"\1.proj_out."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
)
"""Segment-anything's names into those of transformers' ``SamModel``, one after the other."""

DECODER_HEADS = 8
"""Attention heads of SAM's mask decoder: what no tensor's shape tells (``build_sam.py``)."""
PROJECTORS = {"linear": "linear", "mlp2x_gelu": "gelu"}
"""By ``mm_projector_type``: the activation between the connector's two layers. A connector of one layer gets an identity
as its second."""
SELECTED: dict[str, Any] = {"patch": "default", "cls_patch": "full"}
"""By ``mm_vision_select_feature``: transformers' word for it."""
_TEXT_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "rms_norm_eps", "max_position_embeddings", "rope_theta", "rope_scaling", "initializer_range", "bos_token_id",
    "eos_token_id",
)  # fmt: skip

IMAGE, START, END = "<image>", "<im_start>", "<im_end>"
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions."
)


def place(name: str) -> tuple[str, str] | None:
    """The part that a tensor belongs to and its name there; ``None`` for what isn't needed."""
    if re.fullmatch(DROPPED, name):
        return None
    for pattern, part, new in NAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return part, sam_name(match.expand(new)) if part == SAM else match.expand(new)
    raise ConversionFailed(
        f"The checkpoint holds a tensor {name[:120]!r}, which the original LLaVA layout doesn't have; give a checkpoint of "
        "LISA, SESAME or READ."
    )


def sam_name(name: str) -> str:
    for pattern, new in SAM_NAMES:
        name = re.sub(pattern, new, name)
    return name


def llava_config(config: Mapping[str, Any], vision: Any, vocabulary: int, image_token: int) -> LlavaConfig:
    """Settings of the converted model; ``vision``: the tower's, ``vocabulary``: rows of the embedding table."""
    text = {key: config[key] for key in _TEXT_KEYS if config.get(key) is not None}
    projector = config.get("mm_projector_type") or "linear"
    selected = config.get("mm_vision_select_feature") or "patch"
    if projector not in PROJECTORS or selected not in SELECTED:
        raise ConversionFailed(
            f"The checkpoint has a connector of type {projector!r} on the features {selected!r}, but only "
            f"{', '.join(PROJECTORS)} on {', '.join(SELECTED)} are converted; give another."
        )
    cells = (vision.image_size // vision.patch_size) ** 2
    made = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text, vocab_size=vocabulary, pad_token_id=0, tie_word_embeddings=False),
        image_token_index=image_token,
        image_seq_length=cells,
        projector_hidden_act=PROJECTORS[projector],
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=SELECTED[selected],
        architectures=["LlavaForConditionalGeneration"],
    )
    made.dtype = config.get("torch_dtype")
    return made


def sam_config(shapes: Mapping[str, tuple[int, ...]]) -> SamConfig:
    """Settings of SAM from the shapes of its tensors, by transformers' names; KeyError for a tensor that isn't there."""
    width, _, patch, _ = shapes["vision_encoder.patch_embed.projection.weight"]
    side = shapes["vision_encoder.pos_embed"][1]
    layers = _count(shapes, r"vision_encoder\.layers\.(\d+)\.")
    reach = [shapes[f"vision_encoder.layers.{i}.attn.rel_pos_h"] for i in range(layers)]
    whole = [i for i, (length, _) in enumerate(reach) if length == 2 * side - 1]
    windows = {(length + 1) // 2 for i, (length, _) in enumerate(reach) if i not in whole}
    narrow = shapes["vision_encoder.neck.conv1.weight"][0]
    decoder = "mask_decoder.transformer.layers"
    within = shapes[f"{decoder}.0.cross_attn_token_to_image.q_proj.weight"][0]
    vision = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // reach[0][1],
        "image_size": side * patch,
        "patch_size": patch,
        "output_channels": narrow,
        "window_size": windows.pop() if windows else 0,
        "global_attn_indexes": whole,
        "mlp_dim": shapes["vision_encoder.layers.0.mlp.lin1.weight"][0],
        "num_pos_feats": shapes["shared_image_embedding.positional_embedding"][1],
    }
    prompt = {
        "hidden_size": narrow,
        "image_size": side * patch,
        "patch_size": patch,
        "mask_input_channels": shapes["prompt_encoder.mask_embed.conv3.weight"][1],
    }
    masks = {
        "hidden_size": narrow,
        "mlp_dim": shapes[f"{decoder}.0.mlp.lin1.weight"][0],
        "num_hidden_layers": _count(shapes, decoder.replace(".", r"\.") + r"\.(\d+)\."),
        "num_attention_heads": DECODER_HEADS,
        "attention_downsample_rate": narrow // within,
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.proj_in.weight"][0],
    }
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=masks)


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in shapes if (match := re.match(pattern, name))), default=-1)


def chat_template(marked: bool) -> str:
    """LLaVA's ``llava_v1`` conversation, the picture first; ``marked``: between <im_start> and <im_end>."""
    picture = (START + IMAGE + END if marked else IMAGE) + r"\n"
    said = (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'image' %}" + picture + "{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    )
    return (
        SYSTEM
        + " {% for message in messages %}{% if message['role'] == 'user' %}USER: "
        + said
        + " {% else %}ASSISTANT: "
        "" + said + "</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ).replace(r"\n", "\n")
