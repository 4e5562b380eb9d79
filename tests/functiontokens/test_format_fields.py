"""What an autoencoder's files say and isn't known to be harmless is refused by its name; published ones open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lens.errors import FeaturesUnreadable
from lens.functiontokens.formats import read
from tests.functiontokens.test_formats import (
    SIZE,
    WIDTH,
    assert_one_sentence,
    gemma_scope,
    plain,
    saelens,
    sparsify,
    weights,
)

# cfg.json of published autoencoders, with this file's sizes; sources: SAELens' and sparsify's own tests and repositories.
OLD_SAELENS = {
    "model_name": "tiny", "hook_point": "blocks.1.hook_resid_pre", "hook_point_layer": 1, "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": False, "context_size": 128,
    "use_cached_activations": False, "cached_activations_path": "activations/x", "d_in": WIDTH, "n_batches_in_buffer": 128,
    "total_training_tokens": 300000000, "store_batch_size": 32, "device": "mps", "seed": 42, "dtype": "torch.float32",
    "b_dec_init_method": "geometric_median", "expansion_factor": 32, "from_pretrained_path": None, "l1_coefficient": 8e-05,
    "lr": 0.0004, "lr_scheduler_name": None, "lr_warm_up_steps": 5000, "train_batch_size": 4096, "use_ghost_grads": False,
    "feature_sampling_window": 1000, "finetuning_scaling_factor": False, "feature_sampling_method": None,
    "resample_batches": 1028, "feature_reinit_scale": 0.2, "dead_feature_window": 5000,
    "dead_feature_estimation_method": "no_fire", "dead_feature_threshold": 1e-08, "log_to_wandb": True,
    "wandb_project": "mats", "wandb_entity": None, "wandb_log_frequency": 100, "n_checkpoints": 10,
    "checkpoint_path": "checkpoints/y1t51byy", "d_sae": SIZE, "tokens_per_buffer": 67108864, "run_name": "24576-L1",
}  # fmt: skip
SAELENS_5 = {
    "architecture": "jumprelu", "d_in": WIDTH, "d_sae": SIZE, "activation_fn_str": "relu", "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False, "context_size": 1024, "model_name": "tiny", "hook_name": "blocks.1.hook_resid_post",
    "hook_layer": 1, "hook_head_index": None, "prepend_bos": True, "dataset_path": "x", "dataset_trust_remote_code": True,
    "normalize_activations": "none", "dtype": "float32", "device": "cuda", "sae_lens_training_version": "5.3.3",
    "activation_fn_kwargs": {}, "neuronpedia_id": None, "seqpos_slice": [None],
    "model_from_pretrained_kwargs": {"center_writing_weights": False},
}  # fmt: skip
SAELENS_6 = {
    "d_in": WIDTH, "d_sae": SIZE, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
    "normalize_activations": "none", "reshape_activations": "none", "architecture": "jumprelu",
    "metadata": {
        "sae_lens_version": "6.22.0", "sae_lens_training_version": "6.22.0", "dataset_path": "x", "context_size": 1024,
        "hook_name": "blocks.1.hook_resid_post", "hook_head_index": None, "model_name": "tiny", "seqpos_slice": [None],
        "model_class_name": "HookedTransformer", "prepend_bos": True, "exclude_special_tokens": [0, 1],
        "model_from_pretrained_kwargs": {"center_writing_weights": False}, "sequence_separator_token": "bos",
        "disable_concat_sequences": False,
    },
}  # fmt: skip
SPARSIFY = {
    "2024": {"expansion_factor": 32, "normalize_decoder": True, "num_latents": SIZE, "k": 5, "signed": False, "d_in": WIDTH},
    "2025": {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": 5,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": WIDTH,
    },
    "2026": {
        "dtype": "none", "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": 5,
        "multi_topk": True, "skip_connection": False, "embed_skip": False, "gram_lookup": False, "lookup_max_order": 4,
        "gram_table_hash": None, "transcode": False, "d_in": WIDTH,
    },
}  # fmt: skip


def written(folder: Path, cfg: dict[str, Any]) -> Path:
    """A folder with just this configuration, its weights as they are there."""
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


@pytest.mark.parametrize(("cfg", "layer"), [(OLD_SAELENS, 1), (SAELENS_5, 2), (SAELENS_6, 2)])
def test_published_saelens_configurations_open(cfg: dict[str, Any], layer: int, tmp_path: Path):
    tensors = weights() if cfg.get("architecture") == "jumprelu" else plain(weights())
    stored = read(written(saelens(tmp_path / "a", tensors | {"scaling_factor": torch.ones(SIZE)}), cfg))
    assert (stored.layer, stored.site) == (layer, f"block.{layer}")


@pytest.mark.parametrize("year", SPARSIFY)
def test_published_sparsify_configurations_open(year: str, tmp_path: Path):
    assert read(written(sparsify(tmp_path / "layers.2"), SPARSIFY[year])).site == "block.3"


CHANGED = {
    "is_transcoder": {"is_transcoder": True, "out_hook_point": "blocks.3.hook_mlp_out"},
    "out_hook_point": {"out_hook_point": "blocks.3.hook_mlp_out"},
    "hook_name_out": {"metadata": {"hook_name": "blocks.1.hook_resid_post", "hook_name_out": "blocks.1.hook_mlp_out"}},
    "hook_layer": {"hook_layer": 7},
    "hook_point_layer": {"hook_point_layer": 7},
    "d_out": {"d_out": WIDTH},
    "finetuning_scaling_factor": {"finetuning_scaling_factor": True},
    "center_writing_weights": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
    "checkpoint_index": {
        "metadata": {"hook_name": "blocks.1.hook_resid_post", "model_kwargs": {"checkpoint_index": 3}}
    },
    "of nobody's": {"of nobody's": 1},
    "apply_b_dec_to_input": {"apply_b_dec_to_input": "false"},
    "rescale_acts_by_decoder_norm": {"rescale_acts_by_decoder_norm": 1},
    "k to 4": {"k": 4},
    "heads": {"hook_point_head_index": 3},
    "postact_fn": {"activation_fn_kwargs": {"k": 4, "postact_fn": "abs"}},
    "'topk'": {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
    "[]": {"architecture": []},
    "'transcoder'": {"architecture": "transcoder"},
}


@pytest.mark.parametrize("word", CHANGED)
def test_a_saelens_field_that_may_change_something_is_refused_by_name(word: str, tmp_path: Path):
    folder = saelens(tmp_path / "a", weights(), **{"architecture": "jumprelu", **CHANGED[word]})
    assert_refused(folder, word)


@pytest.mark.parametrize(
    ("name", "architecture", "tensors"),
    [
        ("W_skip", "jumprelu", weights() | {"W_skip": torch.zeros(WIDTH, WIDTH)}),
        ("b_dec_out", "jumprelu", weights() | {"b_dec_out": torch.zeros(WIDTH)}),
        ("r_mag", "jumprelu", weights() | {"r_mag": torch.zeros(SIZE)}),
        ("threshold", "standard", weights()),
        ("log_threshold", "jumprelu", weights() | {"log_threshold": torch.zeros(SIZE)}),
        ("finetuning_scaling_factor", "jumprelu", weights() | {"finetuning_scaling_factor": torch.full((SIZE,), 2.0)}),
    ],
)
def test_a_tensor_without_a_use_is_refused_by_name(name: str, architecture: str, tensors: dict, tmp_path: Path):
    assert_refused(saelens(tmp_path / "a", tensors, architecture=architecture), name)


@pytest.mark.parametrize("k", [True, 4.5, "4", [4], 0, -1, None])
def test_k_is_a_whole_number(k: Any, tmp_path: Path):
    assert_refused(saelens(tmp_path / "a", plain(weights()), architecture="topk", k=k), "k = ")
    assert_refused(sparsify(tmp_path / "layers.2", k=k), "k = ")


@pytest.mark.parametrize(
    "cfg",
    [{"signed": True}, {"embed_skip": True}, {"gram_lookup": True}, {"batch_topk": True}, {"hook_name": "blocks.2"}],
)
def test_a_sparsify_field_that_may_change_something_is_refused_by_name(cfg: dict[str, Any], tmp_path: Path):
    assert_refused(sparsify(tmp_path / "layers.2", **cfg), next(iter(cfg)))


def test_a_sparsify_tensor_without_a_use_is_refused_by_name(tmp_path: Path):
    folder, w = sparsify(tmp_path / "layers.2"), weights()
    tensors = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"], "W_dec": w["W_dec"]}
    save_file(tensors | {"b_dec": w["b_dec"], "W_skip": torch.zeros(WIDTH, WIDTH)}, folder / "sae.safetensors")
    assert_refused(folder, "W_skip")


@pytest.mark.parametrize("kind", ["att", "mlp", "transcoders"])
def test_gemma_scope_in_a_folder_of_ones_own_is_asked_for_its_layer(kind: str, tmp_path: Path):
    folder = gemma_scope(tmp_path, f"my-{kind}/layer_3/width_16k/average_l0_71")
    assert_refused(folder, "--layer")
    stored = read(folder, layer=4)
    assert (stored.layer, stored.site) == (4, "block.4")
    assert_refused(gemma_scope(tmp_path, f"gemma-scope-2b-pt-{kind}/layer_3/w"), "residual", layer=4)
    assert_refused(gemma_scope(tmp_path, "gemma-scope-2b-pt-res/layer_3/layer_5/w"), "--layer")


def test_gemma_scope_in_the_hubs_cache_is_found(tmp_path: Path):
    below = "models--google--gemma-scope-9b-pt-res/snapshots/0ab1/layer_20/width_16k/average_l0_71"
    assert read(gemma_scope(tmp_path, below)).site == "block.21"
    below = "models--google--gemma-scope-9b-it-mlp/snapshots/0ab1/layer_20/width_16k/average_l0_71"
    assert_refused(gemma_scope(tmp_path, below), "residual")


@pytest.mark.parametrize("extra", [{"W_skip": np.zeros((2, 2))}, {"k": np.array(3)}, {"note": np.array("of a text")}])
def test_a_gemma_scope_member_without_a_use_is_refused_by_name(extra: dict[str, Any], tmp_path: Path):
    assert_refused(gemma_scope(tmp_path, **extra), next(iter(extra)))


def test_a_place_that_is_not_stated_is_asked_for(tmp_path: Path):
    nowhere = saelens(tmp_path / "a", weights(), architecture="jumprelu", metadata={"model_name": "tiny"})
    assert_refused(nowhere, "--layer")
    assert read(nowhere, layer=3).site == "block.3"
    assert_refused(sparsify(tmp_path / "mine"), "--layer")
    assert read(tmp_path / "mine", layer=0).site == "hidden.0"
    assert_refused(sparsify(tmp_path / "layers.2.mlp"), "mlp.3", layer=3)


def assert_refused(folder: Path, word: str, layer: int | None = None) -> None:
    with pytest.raises(FeaturesUnreadable) as caught:
        read(folder, layer)
    assert word in str(caught.value)
    assert_one_sentence(caught.value)
