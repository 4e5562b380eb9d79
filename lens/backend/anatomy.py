"""Where a model keeps its parts: one row of data per model family, checked when the model is loaded.

No lens reaches into a model; it asks an :class:`Anatomy` for a part. What a model lacks is refused with an explanation
(:meth:`Anatomy.require`), never returned as zeros.

The layer convention of the whole project is owned here: **layer 0 is the language model's input embeddings (for a visual
token: the connector's output), layer i is the output of block i (counted from 1), layer N is the state after the final
norm**, N being the number of blocks. It is the numbering of Hugging Face's ``output_hidden_states``, whose last entry has
the final norm applied already.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from torch import nn

from lens.errors import CapabilityMissing, LayerMissing, ModelUnreadable


@dataclass(frozen=True)
class Family:
    """A row of the table: dotted paths of a family's parts.

    ``text`` is the module that is called with ``inputs_embeds``; ``embeddings``, ``blocks`` and ``final_norm`` are relative
    to it, ``attention`` and ``mlp`` to a block, the others to the whole model. ``geometry`` names the rule in
    :mod:`lens.backend.geometry` that tells which pixels a visual token covers.
    """

    name: str
    model_types: tuple[str, ...]
    text: str
    embeddings: str = "embed_tokens"
    blocks: str = "layers"
    attention: str = "self_attn"
    mlp: str = "mlp"
    final_norm: str = "norm"
    unembedding: str = "lm_head"
    vision_tower: str | None = None
    connector: str | None = None
    geometry: str | None = None


FAMILIES: tuple[Family, ...] = (
    Family(
        name="LLaVA",
        model_types=("llava", "tokenlens_demo"),
        text="model.language_model",
        vision_tower="model.vision_tower",
        connector="model.multi_modal_projector",
        geometry="single view",
    ),
    Family(
        name="Llama-like", model_types=("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo", "phi3"), text="model"
    ),
    Family(
        name="GPT-2",
        model_types=("gpt2",),
        text="transformer",
        embeddings="wte",
        blocks="h",
        attention="attn",
        final_norm="ln_f",
    ),
)

VISION_BLOCKS: dict[str, str] = {
    "clip_vision_model": "encoder.layers",
    "siglip_vision_model": "encoder.layers",
    "efficientnet_lite": "blocks",
}
"""Where a vision tower keeps its blocks, by the ``model_type`` of its configuration."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of one loaded model.

    Attributes:
        family: the row of :data:`FAMILIES` that fits.
        text_model: called with ``inputs_embeds``; owns embeddings, blocks and final norm.
        blocks, attentions, mlps: one module per block, in order; block i of the layer convention is ``blocks[i - 1]``.
        unembedding: maps states after the final norm to vocabulary logits.
        vision_tower, vision_blocks, connector: ``None`` or empty for a text-only model.
        image_token_id: the id that stands at visual positions in ``input_ids``; ``None`` for a text-only model.
    """

    family: Family
    text_model: nn.Module
    embeddings: nn.Embedding
    blocks: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    mlps: tuple[nn.Module, ...]
    final_norm: nn.Module
    unembedding: nn.Module
    vision_tower: nn.Module | None
    vision_blocks: tuple[nn.Module, ...]
    connector: nn.Module | None
    image_token_id: int | None

    @property
    def depth(self) -> int:
        """N, the number of text blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """d, the width of the residual stream."""
        return int(self.embeddings.weight.shape[1])

    @property
    def vocab_size(self) -> int:
        return int(self.embeddings.weight.shape[0])

    @property
    def context(self) -> int:
        """The longest sequence, in tokens, that the language model has positions for."""
        return int(getattr(self.text_model.config, "max_position_embeddings", sys.maxsize))

    @property
    def sees_images(self) -> bool:
        return self.vision_tower is not None

    def require(self, part: str) -> Any:
        """The part of that name, or a :class:`CapabilityMissing` that says what this model is."""
        value = getattr(self, part)
        if value is None or value == ():
            raise CapabilityMissing(
                f"This model ({self.family.name} family) has no {part.replace('_', ' ')}, which this view needs; "
                "choose a vision-language model such as demo."
            )
        return value

    def numbered(self, part: str, index: int) -> nn.Module:
        """One of ``blocks``, ``attentions``, ``mlps`` or ``vision_blocks``, counted from 1."""
        modules = self.require(part)
        if not 1 <= index <= len(modules):
            raise LayerMissing(
                f"Block {index} of the {part.replace('_', ' ')} was asked for, but they are numbered 1 to "
                f"{len(modules)}; choose one of these."
            )
        return modules[index - 1]

    def check_layer(self, layer: int) -> int:
        """``layer`` itself if it is one of 0..N, else :class:`LayerMissing`."""
        if not 0 <= layer <= self.depth:
            raise LayerMissing(
                f"Layer {layer} was asked for, but this model has layers 0 (input embeddings) to {self.depth} "
                "(after the final norm); choose one of these."
            )
        return layer


def family_of(model_type: str) -> Family:
    """The row for a configuration's ``model_type``; refuses an unknown one naming those that are known."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted({t for f in FAMILIES for t in f.model_types}))
    raise ModelUnreadable(
        f"TokenLens has no row for models of type {model_type!r} (it has {known}); choose a model of one of these types."
    )


def find_anatomy(model: nn.Module) -> Anatomy:
    """Locate every part of ``model`` by its family's row; :class:`ModelUnreadable` names the first that isn't there."""
    config: Any = model.config
    family = family_of(config.model_type)
    text = _part(model, family.text, family)
    blocks = tuple(_part(text, family.blocks, family))
    vision_tower = _part(model, family.vision_tower, family) if family.vision_tower else None
    return Anatomy(
        family=family,
        text_model=text,
        embeddings=_part(text, family.embeddings, family),
        blocks=blocks,
        attentions=tuple(_part(block, family.attention, family) for block in blocks),
        mlps=tuple(_part(block, family.mlp, family) for block in blocks),
        final_norm=_part(text, family.final_norm, family),
        unembedding=_part(model, family.unembedding, family),
        vision_tower=vision_tower,
        vision_blocks=_vision_blocks(vision_tower, config) if vision_tower is not None else (),
        connector=_part(model, family.connector, family) if family.connector else None,
        image_token_id=getattr(config, "image_token_id", None),
    )


def _part(root: nn.Module, path: str, family: Family) -> Any:
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise ModelUnreadable(
            f"A {family.name} model was expected to have a part {path!r}, but {type(root).__name__} has none; "
            "this checkpoint's layout is not supported."
        ) from error


def _vision_blocks(tower: nn.Module, config: Any) -> tuple[nn.Module, ...]:
    path = VISION_BLOCKS.get(config.vision_config.model_type)
    if path is None:
        return ()
    for root in ("", "vision_model."):
        try:
            return tuple(tower.get_submodule(root + path))  # type: ignore[arg-type]
        except AttributeError:
            continue
    return ()
