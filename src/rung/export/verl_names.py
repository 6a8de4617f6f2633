"""The names of verl 0.9.1's configuration: which are read, which must hold one value, and which change no mathematics.

DEFAULTS  what is read, with verl's own values; KINDS: what a value may be besides.
ONLY      taken with these values alone, and why.
NOTED     taken with any value: nothing that is learned depends on it, or it is no part of what rung takes from there.
BRANCHES  the same of everything below a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTOR, ROLLOUT, OPTIM = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.actor.optim"
CORRECTION = "algorithm.rollout_correction"

DEFAULTS: Mapping[str, Any] = {
    "algorithm.adv_estimator": "gae", "algorithm.gamma": 1.0, "algorithm.lam": 1.0, "algorithm.norm_adv_by_std_in_grpo": True,
    "algorithm.use_kl_in_reward": False, "algorithm.kl_penalty": "kl", "algorithm.kl_ctrl.type": "fixed",
    "algorithm.kl_ctrl.kl_coef": 0.001, f"{CORRECTION}.rollout_is": None, f"{CORRECTION}.rollout_is_threshold": 2.0,
    f"{ACTOR}.policy_loss.loss_mode": "vanilla", f"{ACTOR}.clip_ratio": 0.2, f"{ACTOR}.clip_ratio_low": 0.2,
    f"{ACTOR}.clip_ratio_high": 0.2, f"{ACTOR}.clip_ratio_c": 3.0, f"{ACTOR}.tau_pos": 1.0, f"{ACTOR}.tau_neg": 1.05,
    f"{ACTOR}.loss_agg_mode": "token-mean", f"{ACTOR}.loss_scale_factor": None, f"{ACTOR}.entropy_coeff": 0,
    f"{ACTOR}.use_kl_loss": False, f"{ACTOR}.kl_loss_coef": 0.001, f"{ACTOR}.kl_loss_type": "low_var_kl",
    f"{ACTOR}.ppo_epochs": 1, f"{ACTOR}.ppo_mini_batch_size": 256, f"{ACTOR}.grad_clip": 1.0, f"{OPTIM}.lr": 1e-6,
    f"{OPTIM}.weight_decay": 0.01, f"{OPTIM}.betas": [0.9, 0.999], f"{OPTIM}.lr_warmup_steps": -1,
    f"{ROLLOUT}.n": 1, f"{ROLLOUT}.temperature": 1.0, "data.train_batch_size": 1024, "data.max_response_length": 512,
    "actor_rollout_ref.model.path": None, "critic.cliprange_value": 0.5, "trainer.total_training_steps": None,
}  # fmt: skip

# What a value may be where verl's own does not show it.
KINDS: Mapping[str, Any] = {
    f"{ACTOR}.entropy_coeff": float, f"{OPTIM}.betas": list,
    **dict.fromkeys((f"{ACTOR}.clip_ratio_low", f"{ACTOR}.clip_ratio_high"), float | None),
    **dict.fromkeys((f"{CORRECTION}.rollout_is", "actor_rollout_ref.model.path"), str | None),
    **dict.fromkeys(
        (f"{ACTOR}.loss_scale_factor", f"{OPTIM}.lr_warmup_steps", "trainer.total_training_steps"), int | None
    ),
    f"{CORRECTION}.rollout_is_threshold": float | str,
}  # fmt: skip

# rung's settings in verl's words; behind = comes the value.
WORDS: Mapping[str, str] = {
    "samples_per_prompt": f"{ROLLOUT}.n=", "temperature": f"{ROLLOUT}.temperature=", "steps": "trainer.total_training_steps=",
    "prompts_per_step": "data.train_batch_size=", "max_new_tokens": "data.max_response_length=",
    "learning_rate": f"{OPTIM}.lr=", "weight_decay": f"{OPTIM}.weight_decay=", "warmup_steps": f"{OPTIM}.lr_warmup_steps=",
    "adam_beta1": f"{OPTIM}.betas[0]=", "adam_beta2": f"{OPTIM}.betas[1]=", "clip_norm": f"{ACTOR}.grad_clip=",
    "model": "actor_rollout_ref.model.path=", "recipe.update.minibatches": f"{ACTOR}.ppo_mini_batch_size",
}  # fmt: skip

_LAW = "rung learns from the law that it samples, which is that of the full vocabulary"
_NO_PART = "no part of rung's computes it"
ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    f"{ROLLOUT}.top_k": ((-1, 0), _LAW), f"{ROLLOUT}.top_p": ((1, 1.0), _LAW), f"{ROLLOUT}.do_sample": ((True,), _LAW),
    f"{ROLLOUT}.ignore_eos": ((False,), "an answer ends with the end token"),
    "algorithm.use_pf_ppo": ((False, None), _NO_PART), "algorithm.filter_groups.enable": (
        (False, None), "verl draws until a batch is full, rung (data.resample) as often as it says and keeps the rest"),
    f"{CORRECTION}.rollout_rs": ((None,), _NO_PART), f"{CORRECTION}.bypass_mode": ((False, None), _NO_PART),
    f"{CORRECTION}.rollout_is_batch_normalize": ((False, None), _NO_PART),
    f"{OPTIM}.optimizer": (("AdamW",), "rung's optimizer is AdamW"),
    f"{OPTIM}.lr_scheduler_type": (("constant",), "set --decay-shape and --decay-steps in rung"),
    f"{OPTIM}.lr_warmup_steps_ratio": ((0.0, 0, None), "set --warmup-steps in rung, which counts steps"),
    "distillation.enabled": ((False, None), "rung has no teacher"), "trainer.critic_warmup": (
        (0,), "set --recipe.credit.critic.warmup in rung, which counts its own steps"),
}  # fmt: skip

_BELOW: Mapping[str, str] = {
    "": "hydra defaults model_engine",
    "actor_rollout_ref.": "hybrid_engine nccl_timeout",
    "algorithm.": """filter_groups.metric filter_groups.max_num_gen_batches filter_groups.max_inflight_gen_batches kl_ctrl.horizon
        kl_ctrl.target_kl rollout_correction.rollout_rs_threshold rollout_correction.loss_type""",
    f"{ACTOR}.": """rollout_n strategy ppo_micro_batch_size ppo_micro_batch_size_per_gpu use_dynamic_bsz
        ppo_max_token_len_per_gpu freeze_vision_tower policy_loss.clip_cov_ratio policy_loss.clip_cov_lb policy_loss.clip_cov_ub
        policy_loss.kl_cov_ratio policy_loss.ppo_kl_coef policy_loss.dro_beta calculate_entropy calculate_sum_pi_squared
        use_prefix_grouper use_torch_compile shuffle data_loader_seed use_fused_kernels ulysses_sequence_parallel_size
        entropy_from_logits_with_chunking entropy_from_logits_chunk_size entropy_checkpointing pad_to_length
        use_remove_padding""",
    f"{OPTIM}.": """optimizer_impl total_training_steps clip_grad min_lr_ratio num_cycles zero_indexed_step warmup_style
        override_optimizer_config""",
    f"{ROLLOUT}.": """name mode nnodes n_gpus_per_node full_determinism seed prompt_length response_length dtype
        gpu_memory_utilization enforce_eager cudagraph_capture_sizes free_cache_engine tensor_model_parallel_size
        data_parallel_size expert_parallel_size pipeline_model_parallel_size max_num_batched_tokens max_model_len max_num_seqs
        enable_chunked_prefill enable_prefix_caching logprobs_mode scheduling_policy load_format layered_summon
        log_prob_micro_batch_size log_prob_micro_batch_size_per_gpu log_prob_use_dynamic_bsz log_prob_max_token_len_per_gpu
        disable_log_stats over_sample_rate multi_stage_wake_up router_config_path calculate_log_probs skip_tokenizer_init
        enable_rollout_routing_replay moe_load_balance_metrics_interval quantization quantization_config_file mtp qat""",
    "data.": """tokenizer use_shm train_files val_files train_max_samples val_max_samples prompt_key reward_fn_key
        max_prompt_length gen_batch_size val_batch_size tool_config_path function_tool_path return_raw_input_ids return_raw_chat
        return_full_prompt shuffle seed dataloader_num_workers image_patch_size validation_shuffle filter_overlong_prompts
        filter_overlong_prompts_workers truncation image_key video_key audio_key trust_remote_code return_multi_modal_inputs""",
    "trainer.": """balance_batch total_epochs project_name experiment_name logger log_val_generations rollout_data_dir
        validation_data_dir nnodes n_gpus_per_node save_freq esi_redundant_time resume_mode resume_from_path
        checkpoint_callback_class val_before_train val_only test_freq default_hdfs_dir del_local_ckpt_after_load
        default_local_dir max_actor_ckpt_to_keep max_critic_ckpt_to_keep ray_wait_register_center_timeout device use_v1""",
    "actor_rollout_ref.model.": """hf_config_path tokenizer_path use_shm trust_remote_code custom_chat_template external_lib
        enable_gradient_checkpointing enable_activation_offload use_remove_padding lora_rank lora_alpha target_modules
        exclude_modules lora_adapter_path use_liger use_fused_kernels""",
}
NOTED = frozenset(above + name for above, names in _BELOW.items() for name in names.split())

BRANCHES: tuple[str, ...] = (
    "hydra", "actor_rollout_ref.ref", "critic", "custom_reward_function", "reward_model", "sandbox_fusion", "reward",
    "distillation",
    "transfer_queue", "global_profiler", "skip", "ray_kwargs", "trainer.v1", "algorithm.pf_ppo", f"{ACTOR}.fsdp_config",
    f"{ACTOR}.checkpoint", f"{ACTOR}.profiler", f"{ACTOR}.qat", f"{ACTOR}.megatron", f"{ROLLOUT}.engine_kwargs",
    f"{ROLLOUT}.val_kwargs", f"{ROLLOUT}.multi_turn", f"{ROLLOUT}.agent", f"{ROLLOUT}.checkpoint_engine", f"{ROLLOUT}.trace",
    f"{ROLLOUT}.profiler", f"{ROLLOUT}.prometheus", f"{ROLLOUT}.disaggregation", "data.custom_cls",
    "data.apply_chat_template_kwargs", "data.mm_processor_kwargs", "actor_rollout_ref.model.override_config",
    "actor_rollout_ref.model.fused_kernel_options", "actor_rollout_ref.model.tiled_mlp", "actor_rollout_ref.model.mtp",
    "actor_rollout_ref.model.lora",
)  # fmt: skip


def known() -> set[str]:
    """Every name that is not below a branch."""
    return {*DEFAULTS, *ONLY, *NOTED}


def in_branch(name: str) -> bool:
    """Whether a name, which stands in no list of its own, lies in or below a branch."""
    return any(name == branch or name.startswith(f"{branch}.") for branch in BRANCHES) or name.endswith("_target_")
