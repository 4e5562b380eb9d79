"""Parts found in every family, and a refusal that explains for what a model lacks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lens.backend.anatomy import find_anatomy
from lens.backend.families import FAMILIES, family_of
from lens.backend.loading import LoadedModel
from lens.errors import CapabilityMissing, LayerMissing, ModelUnreadable


def test_parts_are_the_models_own_modules(case):
    anatomy, model = case.loaded.anatomy, case.loaded.model
    assert anatomy.embeddings is model.get_input_embeddings()
    assert anatomy.unembedding is model.get_output_embeddings()
    assert anatomy.text_model is model.get_decoder()
    modules = set(model.modules())
    assert {*anatomy.blocks, *anatomy.attentions, *anatomy.mlps, anatomy.final_norm} <= modules
    assert len(anatomy.attentions) == len(anatomy.mlps) == anatomy.depth == len(set(anatomy.blocks))
    for block, attention, mlp in zip(anatomy.blocks, anatomy.attentions, anatomy.mlps, strict=True):
        assert {attention, mlp} <= set(block.children())


def test_sizes_are_the_configurations(case):
    config = case.loaded.model.config.get_text_config()
    anatomy = case.loaded.anatomy
    assert (anatomy.depth, anatomy.width, anatomy.vocab_size) == (
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
    )


def test_a_seeing_model_has_tower_blocks_and_connector(llava: LoadedModel, demo_like: LoadedModel):
    for loaded, blocks in ((llava, 3), (demo_like, 6)):
        anatomy = loaded.anatomy
        assert anatomy.sees_images
        assert len(anatomy.require("vision_blocks")) == blocks
        assert anatomy.require("connector") is loaded.model.model.multi_modal_projector
        assert anatomy.image_token_id == loaded.tokenizer.convert_tokens_to_ids("<image>")


@pytest.mark.parametrize("part", ["vision_tower", "vision_blocks", "connector"])
def test_a_text_model_refuses_what_it_lacks(llama: LoadedModel, part: str):
    assert not llama.anatomy.sees_images
    with pytest.raises(CapabilityMissing, match=rf"Llama-like.* has no {part.replace('_', ' ')}.*choose"):
        llama.anatomy.require(part)


def test_layers_outside_the_model_are_refused(case):
    anatomy = case.loaded.anatomy
    assert [anatomy.check_layer(layer) for layer in (0, anatomy.depth)] == [0, anatomy.depth]
    for layer in (-1, anatomy.depth + 1):
        with pytest.raises(LayerMissing, match=f"Layer {layer} .*to {anatomy.depth} "):
            anatomy.check_layer(layer)


def test_an_unknown_model_type_is_refused_by_name():
    with pytest.raises(ModelUnreadable, match=r"'mamba'.*LLaVA.*Llama-like"):
        family_of("mamba")


def test_no_model_type_belongs_to_two_families():
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))


def test_a_part_that_is_not_there_is_named():
    class Hollow(nn.Module):
        """A model that calls itself a Llama but has other parts."""

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"model_type": "llama"})()
            self.model = nn.Linear(2, 2)

    with pytest.raises(ModelUnreadable, match=r"'layers'.*Linear"):
        find_anatomy(Hollow())


def test_the_anatomy_is_frozen(llama: LoadedModel):
    with pytest.raises(dataclasses.FrozenInstanceError):
        llama.anatomy.unembedding = nn.Linear(1, 1)  # type: ignore[misc]


def test_the_final_norm_and_unembedding_give_the_models_logits(case):
    """The parts are not merely there: composed by hand they compute what the model computes."""
    anatomy = case.loaded.anatomy
    with torch.inference_mode():
        output = case.loaded.model(**case.encoded.inputs, use_cache=False, output_hidden_states=True)
        assert torch.equal(anatomy.unembedding(output.hidden_states[-1]), output.logits)
