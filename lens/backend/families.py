"""One row of data per model family: where its parts are, what stands at visual positions, how its pictures are cut up.

A family is a row here and a line of ``docs/models.md``, never a branch in a lens. Rows are checked against the model when
it is loaded (:mod:`lens.backend.anatomy`) and, part by part, by ``python -m lens check``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lens.errors import ModelUnreadable


@dataclass(frozen=True)
class Family:
    """A row of the table: dotted paths of a family's parts.

    ``text`` is the module that is called with ``inputs_embeds``; ``embeddings``, ``blocks`` and ``final_norm`` are relative
    to it, ``attention`` and ``mlp`` to a block, ``down`` (the projection that reads the neurons) to the MLP, the others to
    the whole model. Where blocks differ, several paths are tried in order.

    ``image_token`` is the key of the configuration under which the id of the visual positions stands, ``geometry`` the
    rule in :mod:`lens.backend.views` that tells which pixels a visual token covers (``None``: text only), ``prompt`` what
    is asked where a model has no chat template or one for strings (without ``{image}`` where the processor puts the
    picture in by itself), and ``placeholder`` the processor's attribute that holds what stands there for a picture.
    """

    name: str
    model_types: tuple[str, ...]
    text: str
    embeddings: str = "embed_tokens"
    blocks: str = "layers"
    attention: tuple[str, ...] = ("self_attn",)
    mlp: tuple[str, ...] = ("mlp",)
    down: tuple[str, ...] = ("down_proj",)
    final_norm: str = "norm"
    unembedding: str = "lm_head"
    vision_tower: str | None = None
    connector: str | None = None
    geometry: str | None = None
    image_token: str = "image_token_id"
    prompt: str = "{image}\n{prompt}"
    placeholder: str = "image_token"

    @property
    def sees_images(self) -> bool:
        return self.geometry is not None


def _llava_like(name: str, *model_types: str, geometry: str, **others: Any) -> Family:
    """Tower, projector and language model side by side in ``model``, as in LLaVA and most families after it."""
    places = {
        "text": "model.language_model",
        "vision_tower": "model.vision_tower",
        "connector": "model.multi_modal_projector",
    }
    return Family(name, model_types, geometry=geometry, **{**places, **others})


def _qwen_like(name: str, *model_types: str, **others: Any) -> Family:
    """A tower that takes pictures of any size and merges 2 x 2 patches at its end, as in Qwen2-VL."""
    places = {"text": "model.language_model", "vision_tower": "model.visual", "connector": "model.visual.merger"}
    return Family(name, model_types, geometry="merged patches", **{**places, **others})


def _idefics_like(name: str, *model_types: str, geometry: str) -> Family:
    return Family(
        name,
        model_types,
        text="model.text_model",
        vision_tower="model.vision_model",
        connector="model.connector",
        geometry=geometry,
    )


def _janus_like(name: str, *model_types: str) -> Family:
    """The picture padded to a square; the connector is called an aligner."""
    return Family(
        name,
        model_types,
        text="model.language_model",
        vision_tower="model.vision_model",
        connector="model.aligner",
        geometry="padded square",
    )


def _blip_like(name: str, *model_types: str) -> Family:
    """A Q-Former's queries look at the whole picture; its output goes before an OPT language model, whose MLP is no
    module of its own. The processor puts the placeholders in."""
    return Family(
        name,
        model_types,
        text="language_model.model.decoder",
        mlp=(),
        final_norm="final_layer_norm",
        unembedding="language_model.lm_head",
        vision_tower="vision_model",
        connector="language_projection",
        geometry="no grid",
        prompt="{prompt}",
    )


FAMILIES: tuple[Family, ...] = (
    _llava_like("LLaVA", "llava", "vipllava", "tokenlens_demo", geometry="single view"),
    _llava_like("LLaVA-NeXT", "llava_next", geometry="unpadded tiles"),
    _llava_like("LLaVA-OneVision", "llava_onevision", geometry="unpadded tiles"),
    _qwen_like("Qwen2-VL", "qwen2_vl", "qwen2_5_vl"),
    _qwen_like("Qwen3-VL", "qwen3_vl", "qwen3_vl_moe"),
    _qwen_like("Qwen3.5", "qwen3_5", "qwen3_5_moe", attention=("self_attn", "linear_attn")),
    _qwen_like("GLM-4V", "glm4v", "glm4v_moe", "glm46v", "glm_ocr"),
    _qwen_like("EXAONE 4.5", "exaone4_5"),
    _qwen_like("PaddleOCR-VL", "paddleocr_vl", connector="model.projector"),
    _qwen_like("VideoLLaMA 3", "video_llama_3", vision_tower="model.vision_model", connector="model.projector"),
    _idefics_like("Idefics3", "idefics3", "smolvlm", geometry="split picture"),
    _idefics_like("Idefics2", "idefics2", geometry="no grid"),
    _llava_like("InternVL", "internvl", geometry="tiled canvas"),
    _llava_like("Qianfan-OCR", "qianfan_ocr", geometry="tiled canvas", placeholder="image_placeholder_token"),
    _llava_like("Aya Vision", "aya_vision", geometry="tiled canvas"),
    _llava_like("PaliGemma", "paligemma", geometry="single view", prompt="{image}{prompt}"),
    _llava_like("Gemma 3", "gemma3", geometry="single view"),
    _llava_like("Gemma 4", "gemma4", geometry="pooled patches", connector="model.embed_vision"),
    _llava_like("Ovis2", "ovis2", geometry="whole then tiles", connector="model.visual_embeddings_table"),
    _janus_like("Janus", "janus"),
    _janus_like("DeepSeek-VL", "deepseek_vl", "deepseek_vl_hybrid"),
    _blip_like("BLIP-2", "blip-2"),
    _blip_like("InstructBLIP", "instructblip"),
    Family(
        "Llama-like",
        (
            "llama",
            "mistral",
            "mixtral",
            "qwen2",
            "qwen3",
            "qwen3_moe",
            "gemma",
            "gemma2",
            "gemma3_text",
            "olmo",
            "olmo2",
            "phi3",
            "granite",
            "smollm3",
            "cohere",
            "cohere2",
            "glm4",
        ),
        text="model",
    ),
    Family(
        "GPT-NeoX",
        ("gpt_neox",),
        text="gpt_neox",
        embeddings="embed_in",
        attention=("attention",),
        down=("dense_4h_to_h",),
        final_norm="final_layer_norm",
    ),
    Family(
        "GPT-2",
        ("gpt2",),
        text="transformer",
        embeddings="wte",
        blocks="h",
        attention=("attn",),
        down=("c_proj",),
        final_norm="ln_f",
    ),
)

VISION_BLOCKS: tuple[str, ...] = tuple(
    prefix + path
    for prefix in ("", "vision_model.", "transformer.")
    for path in ("encoder.layers", "encoder.layer", "blocks", "layers")
)
"""Where vision towers keep their blocks; the first of these that a tower has."""


def family_of(model_type: str) -> Family:
    """The row for a configuration's ``model_type``; refuses an unknown one naming the families that are known."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    raise ModelUnreadable(
        f"TokenLens has no row for models of type {model_type!r}, only for {', '.join(f.name for f in FAMILIES)}; choose "
        "a model of one of these families (docs/models.md lists their types)."
    )
