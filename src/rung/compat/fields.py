"""What becomes of the arguments of TRL 1.16's GRPOConfig and PEFT's LoraConfig that are not translated. Each name stands once.

    ONLY    taken with these values alone, TRL's default first: with them TRL does what rung does. Others are refused.
    NOTED   taken with any value, and said: nothing that is learned depends on it.
What is translated are the fields of rung.compat.GRPOConfig. A name in none of the three is unknown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from rung.errors import InputError

Values = tuple[Any, ...]


def _because(why: str, **values: Values) -> dict[str, tuple[Values, str]]:
    return {name: (accepted, why) for name, accepted in values.items()}


_OFF: Values = (False, None)
_NONE: Values = (None, {}, [], ())
_LAW = "rung learns from the law that it samples, which is that of the full vocabulary"
_ONE = "rung runs in one process on one device"
_VLLM = "rung samples with the model that it trains, without a server"
_LOSS = "rung has no such loss"
_PART = "it has no counterpart among the parts that are translated; `rung recipes` may have a recipe with it"
_LATER = "rung evaluates before and after, on the eval_dataset"

ONLY: Mapping[str, tuple[Values, str]] = {
    **_because(_LAW, top_p=(1.0, None), top_k=(0, None), min_p=(None, 0.0), repetition_penalty=(1.0,)),
    **_because(_LAW, generation_kwargs=_NONE, cache_implementation=(None,)),
    **_because(
        _VLLM, use_vllm=_OFF, vllm_mode=("colocate",), vllm_model_impl=("vllm",), vllm_enable_sleep_mode=_OFF,
        vllm_structured_outputs_regex=(None,), vllm_server_base_url=(None,), vllm_server_host=("0.0.0.0",),
        vllm_server_port=(8000,), vllm_server_timeout=(240.0,), vllm_group_port=(51216,),
        vllm_gpu_memory_utilization=(0.3,), vllm_max_model_length=(None,), vllm_tensor_parallel_size=(1,),
        vllm_importance_sampling_correction=(True, False), vllm_importance_sampling_mode=("sequence_mask",),
        vllm_importance_sampling_clip_max=(3.0,), vllm_importance_sampling_clip_min=(None,),
        vllm_importance_sampling_cap=(None,), use_transformers_continuous_batching=_OFF,
        transformers_continuous_batching_config=_NONE, use_transformers_paged=_OFF,
    ),
    **_because(
        _LOSS, delta=(None,), sapo_temperature_neg=(1.05,), sapo_temperature_pos=(1.0,), vespo_k_pos=(2.0,),
        vespo_lambda_pos=(3.0,), vespo_k_neg=(3.0,), vespo_lambda_neg=(2.0,), top_entropy_quantile=(1.0,),
        off_policy_mask_threshold=(None,), label_smoothing_factor=(0.0,), neftune_noise_alpha=(None, 0.0),
        router_aux_loss_coef=(None, 0.0), multi_objective_aggregation=("sum_then_normalize",),
    ),
    **_because(
        _PART, entropy_coef=(0.0,), use_adaptive_entropy=_OFF, entropy_coef_min=(0.0,), entropy_coef_max=(1.0,),
        entropy_coef_delta=(0.005,), entropy_target=(0.2,), sync_ref_model=_OFF, ref_model_mixup_alpha=(0.6,),
        ref_model_sync_steps=(512,),
    ),
    **_because("a step's answers are per_device_train_batch_size x gradient_accumulation_steps, sampled for that step alone",
               generation_batch_size=(None,), steps_per_generation=(None,), auto_find_batch_size=_OFF),
    **_because("rung orders problems by its own seed, none twice before all were drawn",
               shuffle_dataset=(True, None), data_seed=(None,), train_sampling_strategy=("random",),
               dataloader_drop_last=_OFF),
    **_because("rung gives all columns to reward functions", remove_unused_columns=_OFF, label_names=_NONE),
    **_because("log-probabilities must not depend on a draw, so dropout is always off", disable_dropout=(True,)),
    **_because("the head computes in the model's dtype", cast_lm_head_to_fp32=_OFF),
    **_because("give the model's dtype with bf16, and trust_remote_code by its own name", model_init_kwargs=_NONE),
    **_because("rung's optimizer is AdamW, betas 0.9 and 0.95, epsilon 1e-8", optim=("adamw_torch_fused", "adamw_torch"),
               optim_args=(None, ""), optim_target_modules=(None,), adam_beta1=(0.9,), adam_beta2=(0.95,),
               adam_epsilon=(1e-8,)),
    **_because("the learning rate falls linearly, or not at all", lr_scheduler_kwargs=_NONE),
    **_because("rung computes in float32 or bfloat16 (bf16=True)", fp16=_OFF, tf32=_OFF, bf16_full_eval=_OFF, fp16_full_eval=_OFF),
    **_because("rung runs PyTorch as it is", torch_compile=_OFF, torch_compile_backend=(None,), torch_compile_mode=(None,),
               use_liger_kernel=_OFF, liger_kernel_config=_NONE, activation_checkpointing=_OFF,
               activation_checkpointing_kwargs=_NONE, use_cache=_OFF),
    **_because(_ONE, fsdp=(None, "", [], False), fsdp_config=_NONE, deepspeed=_NONE, parallelism_config=(None,),
               accelerator_config=_NONE, local_rank=(-1, 0), use_cpu=_OFF),
    **_because(_LATER, eval_strategy=("no",), eval_steps=(None,), eval_delay=(0,), eval_on_start=_OFF,
               num_generations_eval=(None,), prediction_loss_only=_OFF, include_for_metrics=_NONE,
               batch_eval_metrics=_OFF, load_best_model_at_end=_OFF, metric_for_best_model=(None,),
               greater_is_better=(None,)),
    **_because("a run goes on with `rung train --resume RUN`", resume_from_checkpoint=(None, False),
               ignore_data_skip=_OFF, restore_callback_states_from_checkpoint=_OFF),
    **_because("rung uploads nothing", push_to_hub=_OFF, log_completions_hub_repo=(None,), hub_always_push=_OFF),
    **_because("metrics.jsonl is written in any case; `rung train --tracker` shows them elsewhere", report_to=("none", None, [])),
    **_because("it looks for bugs of other code", debug=("", [])),
}  # fmt: skip

_SHOWN = "every step is logged and every answer kept in any case"
_SPEED = "nothing that is learned depends on it"
_EPOCHS = "max_steps decides, as in TRL"


def _said(why: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), why)


NOTED: Mapping[str, str] = {
    **_said(
        _SHOWN,
        "logging_steps logging_first_step logging_strategy logging_nan_inf_filter log_completions log_multimodal",
    ),
    **_said(
        _SHOWN, "num_completions_to_print log_unique_prompts log_level log_level_replica log_on_each_node run_name"
    ),
    **_said(
        _SHOWN, "disable_tqdm project trackio_space_id trackio_bucket_id trackio_static_space_id skip_memory_metrics"
    ),
    **_said(_SHOWN, "include_num_input_tokens_seen"),
    **_said(
        _SPEED, "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor"
    ),
    **_said(
        _SPEED, "dataloader_multiprocessing_context dataloader_in_order torch_empty_cache_steps pad_to_multiple_of"
    ),
    **_said(_SPEED, "gradient_checkpointing_kwargs length_column_name full_determinism per_device_eval_batch_size"),
    **_said(_SPEED, "eval_accumulation_steps eval_do_concat_batches eval_use_gather_object"),
    **_said(f"{_ONE}: {_SPEED}", "average_tokens_across_devices ds3_gather_for_generation ddp_find_unused_parameters"),
    **_said(f"{_ONE}: {_SPEED}", "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout"),
    **_said(
        "checkpoints hold everything, and all of them are kept", "save_total_limit save_only_model save_on_each_node"
    ),
    **_said("checkpoints hold everything, and all of them are kept", "enable_jit_checkpoint"),
    **_said("without push_to_hub it does nothing", "hub_token hub_private_repo hub_model_id hub_strategy hub_revision"),
    **_said("train() trains and evaluates in any case", "do_train do_eval do_predict"),
    **_said(_EPOCHS, "num_train_epochs"),
}
# TRL's defaults that are not rung's: said where the script does not set them. All but two cannot be set here.
DIFFERS = {
    "bf16": "bf16 is True there, False here",
    "gradient_checkpointing": "gradient_checkpointing is True there, False here",
    "adam_beta2": "adam_beta2 is 0.999 there, 0.95 here",
    "disable_dropout": "a model's dropout is on there, off here",
}

# -- PEFT: fields that are not translated, whose other values than PEFT's default are refused for this reason -----------
LORA = ("r", "lora_alpha", "target_modules")  # translated
LORA_ANY = {  # do nothing by themselves, or are read off the model
    "task_type", "peft_type", "peft_version", "base_model_name_or_path", "fan_in_fan_out", "megatron_core",
    "qalora_group_size", "runtime_config",
}  # fmt: skip
LORA_WHY: Mapping[str, str] = {
    "lora_dropout": "log-probabilities must not depend on a draw",
    "use_rslora": "rung scales by alpha / r; give lora_alpha * sqrt(r) as lora_alpha instead",
    "rank_pattern": "all layers have one rank",
    "alpha_pattern": "all layers have one alpha",
    "layers_to_transform": "adapters go into all layers; name modules with target_modules",
    "layers_pattern": "adapters go into all layers; name modules with target_modules",
    "exclude_modules": "name the modules that get an adapter with target_modules",
    "init_lora_weights": "A is drawn as PEFT's default draws it and B is zero",
    "modules_to_save": "an adapter trains nothing but itself",
    "bias": "an adapter trains nothing but itself",
}


# -- looking things up ---------------------------------------------------------------------------------------------
def refusals(given: Mapping[str, Any], translated: Iterable[str]) -> list[str]:
    """A sentence for each argument that is neither translated nor taken."""
    known, found = {*translated, *ONLY, *NOTED}, []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            found.append(f"{name}: there is no such argument." + (f" Did you mean {near[0]!r}?" if near else ""))
        elif name in ONLY and not any(_same(value, accepted) for accepted in ONLY[name][0]):
            found.append(f"{name}={value!r}: {ONLY[name][1]}. Only {name}={ONLY[name][0][0]!r} is taken.")
    return found


def notes(given: Mapping[str, Any]) -> list[str]:
    """A sentence for each argument that changes nothing, and for each default of TRL's that is not rung's."""
    said = [f"GRPOConfig({name}={value!r}): {NOTED[name]}" for name, value in given.items() if name in NOTED]
    differ = [text for name, text in DIFFERS.items() if name not in given]
    return [*said, "TRL's defaults that are not rung's: " + "; ".join(differ)] if differ else said


def lora(config: Any) -> tuple[list[str], list[str]]:
    """(refusals, notes) for a peft_config, whatever fields its PEFT has."""
    if not is_dataclass(config) or type(config).__name__ != "LoraConfig":
        return [f"peft_config of the kind {type(config).__name__}: only a LoraConfig is translated."], []
    found, said = [], []
    for f in fields(config):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        value = getattr(config, f.name)
        if f.name not in LORA and f.name not in LORA_ANY and not _same(value, default):
            why = LORA_WHY.get(f.name, "rung has no such adapter")
            found.append(f"peft_config with {f.name}={value!r}: {why}. Only {default!r} is taken.")
    targets: Any = vars(config)["target_modules"]
    if isinstance(targets, str) and targets != "all-linear":
        found.append(f"peft_config with target_modules={targets!r}, a pattern: give a list of names, or 'all-linear'.")
    if targets is None:
        said.append(
            "peft_config without target_modules: an adapter for every linear layer; PEFT chooses by the model's kind"
        )
    return found, said


def refuse(what: str, found: Sequence[str]) -> None:
    """One message with all that is refused."""
    if found:
        lines = "".join(f"\n  {line}" for line in found)
        raise InputError(
            f"{what}: {len(found)} refused, since nothing is ignored in silence.{lines}\nSee docs/port_from_trl.md."
        )


def _same(value: Any, accepted: Any) -> bool:
    """Equal, and not by True being 1."""
    return (
        isinstance(value, bool) == isinstance(accepted, bool) and type(value == accepted) is bool and value == accepted
    )
