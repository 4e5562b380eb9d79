"""The parts of a loaded model, found by its family's row in :mod:`lens.backend.families`.

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

from lens.backend.families import VISION_BLOCKS, Family, family_of
from lens.errors import CapabilityMissing, LayerMissing, ModelUnreadable


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of one loaded model.

    Attributes:
        family: the row of :data:`~lens.backend.families.FAMILIES` that fits.
        text_model: called with ``inputs_embeds``; owns embeddings, blocks and final norm.
        blocks, attentions, mlps, down_projections: one module per block, in order; block i of the layer convention is
            ``blocks[i - 1]``. The last two are empty where some block has none (say, a mixture of experts).
        unembedding: maps states after the final norm to vocabulary logits.
        vision_tower, vision_blocks, connector: ``None`` or empty for a text-only model, and where a family has none.
        image_token_id: the id that stands at visual positions in ``input_ids``; ``None`` for a text-only model.
    """

    family: Family
    text_model: nn.Module
    embeddings: nn.Embedding
    blocks: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    mlps: tuple[nn.Module, ...]
    down_projections: tuple[nn.Module, ...]
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
        return self.family.sees_images

    def neurons(self, block: int) -> int:
        """How many neurons the MLP of a block (counted from 1) has: the inputs of its down projection."""
        down: Any = self.numbered("down_projections", block)
        return int(down.in_features if isinstance(down, nn.Linear) else down.weight.shape[0])  # GPT-2's is transposed

    def require(self, part: str) -> Any:
        """The part of that name, or a :class:`CapabilityMissing` that says what this model is."""
        value = getattr(self, part)
        if value is None or value == ():
            raise CapabilityMissing(
                f"This model ({self.family.name} family) has no {part.replace('_', ' ')}, which this view needs; "
                "choose a model that has, such as demo."
            )
        return value

    def numbered(self, part: str, index: int) -> nn.Module:
        """One of ``blocks``, ``attentions``, ``mlps``, ``down_projections`` or ``vision_blocks``, counted from 1."""
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


def find_anatomy(model: nn.Module) -> Anatomy:
    """Locate every part of ``model`` by its family's row; :class:`ModelUnreadable` names the first that isn't there."""
    config: Any = model.config
    family = family_of(config.model_type)
    text = _part(model, (family.text,), family)
    blocks = tuple(_part(text, (family.blocks,), family))
    vision_tower = _part(model, (family.vision_tower,), family) if family.vision_tower else None
    return Anatomy(
        family=family,
        text_model=text,
        embeddings=_part(text, (family.embeddings,), family),
        blocks=blocks,
        attentions=tuple(_part(block, family.attention, family) for block in blocks),
        mlps=_where_all_have_it(blocks, family.mlp),
        down_projections=_where_all_have_it(blocks, tuple(f"{m}.{d}" for m in family.mlp for d in family.down)),
        final_norm=_part(text, (family.final_norm,), family),
        unembedding=_part(model, (family.unembedding,), family),
        vision_tower=vision_tower,
        vision_blocks=_vision_blocks(vision_tower) if vision_tower is not None else (),
        connector=_part(model, (family.connector,), family) if family.connector else None,
        image_token_id=getattr(config, family.image_token, None),
    )


def _found(root: nn.Module, paths: tuple[str, ...]) -> Any | None:
    """The first of ``paths`` that ``root`` has."""
    for path in paths:
        try:
            return root.get_submodule(path)
        except AttributeError:
            continue
    return None


def _part(root: nn.Module, paths: tuple[str, ...], family: Family) -> Any:
    part = _found(root, paths)
    if part is None:
        raise ModelUnreadable(
            f"A {family.name} model was expected to have a part {' or '.join(map(repr, paths))}, but "
            f"{type(root).__name__} has none; this checkpoint's layout is not supported."
        )
    return part


def _where_all_have_it(blocks: tuple[nn.Module, ...], paths: tuple[str, ...]) -> tuple[nn.Module, ...]:
    parts = [_found(block, paths) for block in blocks]
    return () if None in parts else tuple(part for part in parts if part is not None)


def _vision_blocks(tower: nn.Module) -> tuple[nn.Module, ...]:
    blocks = _found(tower, VISION_BLOCKS)
    return tuple(blocks) if isinstance(blocks, (nn.ModuleList, nn.Sequential)) else ()
