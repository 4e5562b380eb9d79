"""Fields of autoencoder configurations that are known not to change what an autoencoder computes or where it stands.

Whatever stands in a configuration and is neither computed with nor listed here is refused by name: a field that nobody has
looked at can turn an autoencoder into another one. The lists are from the sources of SAELens 0.5 to 6.22 and of sparsify 1.0
to 1.3 (November 2026): training, its data, logging, provenance, and how weights were first drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SAELENS_COMPUTED = _names(
    "architecture d_in d_sae activation_fn activation_fn_str activation_fn_kwargs k apply_b_dec_to_input "
    "normalize_activations reshape_activations rescale_acts_by_decoder_norm hook_name hook_point hook_head_index "
    "hook_point_head_index hook_layer hook_point_layer metadata meta model_from_pretrained_kwargs model_kwargs "
    "language_fingerprint"
)
SAELENS_HARMLESS = _names(
    """
    dtype device act_store_device seed verbose resume autocast autocast_lm compile_llm llm_compilation_mode compile_sae
    sae_compilation_mode logger model_name model_class_name hook_eval hook_point_eval neuronpedia_id sae_lens_version
    sae_lens_training_version prepend_bos exclude_special_tokens seqpos_slice context_size dataset_path
    dataset_trust_remote_code streaming is_dataset_tokenized use_cached_activations cached_activations_path
    from_pretrained_path n_batches_in_buffer tokens_per_buffer training_tokens total_training_tokens finetuning_tokens
    store_batch_size store_batch_size_prompts train_batch_size train_batch_size_tokens disable_concat_sequences
    sequence_separator_token activations_mixing_fraction b_dec_init_method expansion_factor decoder_init_norm
    decoder_orthogonal_init decoder_heuristic_init decoder_heuristic_init_norm init_encoder_as_decoder_transpose
    normalize_sae_decoder noise_scale mse_loss_normalization l1_coefficient l1_loss_type l1_warm_up_steps
    l0_coefficient l0_warm_up_steps lp_norm scale_sparsity_penalty_by_decoder_norm pre_act_loss_coefficient
    aux_loss_coefficient use_ghost_grads jumprelu_init_threshold jumprelu_bandwidth
    jumprelu_sparsity_loss_mode jumprelu_tanh_scale topk_threshold_lr matryoshka_widths adam_beta1 adam_beta2 lr lr_end
    lr_scheduler_name lr_warm_up_steps lr_decay_steps n_restart_cycles finetuning_method feature_sampling_method
    feature_sampling_window feature_reinit_scale resample_batches dead_feature_window dead_feature_threshold
    dead_feature_estimation_method n_eval_batches eval_batch_size_prompts log_to_wandb log_activations_store_to_wandb
    log_optimizer_state_to_wandb wandb_project wandb_id wandb_entity wandb_log_frequency eval_every_n_wandb_logs run_name
    n_checkpoints checkpoint_path save_final_checkpoint output_path layer title note
    """
)
SAELENS_ONLY = {
    "finetuning_scaling_factor": (False,),
    "is_transcoder": (False,),
    "out_hook_point": ("",),
    "hook_name_out": ("",),
}
"""Fields that change something unless they have one of these values (or none)."""

SPARSIFY_COMPUTED = _names("activation k d_in")
SPARSIFY_HARMLESS = _names(
    "dtype expansion_factor normalize_decoder num_latents multi_topk lookup_max_order gram_table_hash"
)
SPARSIFY_ONLY = dict.fromkeys(
    _names("signed transcode skip_connection embed_skip gram_lookup batch_topk sample_topk input_unit_norm"), (False,)
)

LOADING_HARMLESS = _names(
    "dtype torch_dtype device device_map n_devices low_cpu_mem_usage trust_remote_code local_files_only token "
    "fold_ln fold_value_biases center_unembed attn_implementation"
)
"""Options with which a model was loaded for training that leave its residual stream as it is."""


def changing(
    fields: Mapping[str, Any], harmless: frozenset[str], only: Mapping[str, tuple[Any, ...]]
) -> Iterator[tuple[str, Any]]:
    """The fields, with their values, that aren't known to be harmless; one of no value says nothing."""
    for name, value in fields.items():
        if value is None or name in harmless or any(_same(value, allowed) for allowed in only.get(name, ())):
            continue
        yield name, value


def loading(options: Any) -> Iterator[tuple[str, Any]]:
    """Options of loading a model, SAELens's ``model_from_pretrained_kwargs``, under which its states may be others:
    ``center_writing_weights``, say, takes the mean off them."""
    if not isinstance(options, dict):
        yield from [("model_from_pretrained_kwargs", options)] if options else []
        return
    yield from ((name, value) for name, value in options.items() if value and name not in LOADING_HARMLESS)


def _same(value: Any, allowed: Any) -> bool:
    """Equal and of one type: 0 is not False."""
    return type(value) is type(allowed) and value == allowed
