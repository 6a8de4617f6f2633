"""What becomes of the arguments of TRL 1.16's configs and trainers that are not translated. Each name stands once.

    ONLY    taken with these values alone, TRL's default first: with them TRL does what rung does. Others are refused.
    NOTED   taken with any value, and said: nothing that is learned depends on it, or what differs is said.
    EARLIER names that earlier versions of TRL and transformers had.
What is translated are the fields of rung.compat.GRPOConfig. A name in none of them is unknown.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from rung.errors import InputError, refused
from rung.settings import documents
from rung.settings.ranges import shown

Values = tuple[Any, ...]


def _because(why: str, **values: Values) -> dict[str, tuple[Values, str]]:
    return {name: (accepted, why) for name, accepted in values.items()}


_OFF: Values = (False, None)
_NONE: Values = (None, {}, [], ())
_LAW = "rung learns from the law that it samples, which is that of the full vocabulary"
_ONE = "rung runs in one process on one device"
_LOSS = "rung has no such loss"
_PART = "it has no counterpart among the parts that are translated; `rung recipes` may have a recipe with it"

ONLY: Mapping[str, tuple[Values, str]] = {
    **_because(_LAW, top_p=(1.0, None), top_k=(0, None, -1), min_p=(None, 0.0), repetition_penalty=(1.0, None),
               vllm_structured_outputs_regex=(None,)),
    **_because(
        _LOSS, vespo_k_pos=(2.0,),
        vespo_lambda_pos=(3.0,), vespo_k_neg=(3.0,), vespo_lambda_neg=(2.0,), top_entropy_quantile=(1.0,),
        label_smoothing_factor=(0.0,), neftune_noise_alpha=(None, 0.0),
        router_aux_loss_coef=(None, 0.0), multi_objective_aggregation=("sum_then_normalize",), reward_clip_range=(None,),
    ),
    **_because(
        _PART, entropy_coef=(0.0,), use_adaptive_entropy=_OFF, entropy_coef_min=(0.0,), entropy_coef_max=(1.0,),
        entropy_coef_delta=(0.005,), entropy_target=(0.2,), sync_ref_model=_OFF, ref_model_mixup_alpha=(0.6,),
        ref_model_sync_steps=(512,),
    ),
    **_because("rung whitens over tokens, TRL over answers", normalize_advantages=(False,)),
    **_because("a batch is as large as you say", auto_find_batch_size=_OFF),
    **_because("rung orders problems by its own seed, none twice before all were drawn",
               train_sampling_strategy=("random",), shuffle_dataset=(True, None)),
    **_because("rung gives all columns to reward functions", remove_unused_columns=_OFF, label_names=_NONE),
    **_because("log-probabilities must not depend on a draw, so dropout is always off", disable_dropout=(False, True)),
    **_because("the head computes in the model's dtype", cast_lm_head_to_fp32=_OFF),
    **_because("rung's optimizer is AdamW", optim_args=(None, ""), optim_target_modules=(None,)),
    **_because("the learning rate falls linearly or as a cosine, to zero", lr_scheduler_kwargs=_NONE),
    **_because(_ONE, fsdp=(None, "", [], False), fsdp_config=_NONE, deepspeed=_NONE, parallelism_config=(None,)),
    **_because("the newest model is the one that is kept", load_best_model_at_end=_OFF),
    **_because("it looks for bugs of other code", debug=("", [])),
}  # fmt: skip

_SHOWN = "every step is logged and every answer kept in any case"
_SPEED = "nothing that is learned depends on it"
_SAMPLER = "rung samples with the model that it trains, in the same process"
_PRECISION = "rung computes in float32 or, with bf16=True, in bfloat16; never in float16"
_EVAL = "rung's evaluations are its own: one before, one after, and where eval_strategy says"
_KEPT = "checkpoints hold everything"


def _said(why: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), why)


NOTED: Mapping[str, str] = {
    **_said(_SHOWN, """logging_steps logging_first_step logging_strategy logging_nan_inf_filter log_completions log_multimodal
        num_completions_to_print log_unique_prompts log_level log_level_replica log_on_each_node run_name disable_tqdm project
        trackio_space_id trackio_bucket_id trackio_static_space_id skip_memory_metrics include_num_input_tokens_seen
        log_completions_hub_repo"""),
    **_said(_SAMPLER, """use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_server_base_url vllm_server_host
        vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length
        vllm_tensor_parallel_size vllm_importance_sampling_correction vllm_importance_sampling_mode
        vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap
        use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged
        cache_implementation"""),
    **_said(_SPEED, """dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
        dataloader_multiprocessing_context dataloader_in_order dataloader_drop_last torch_empty_cache_steps pad_to_multiple_of
        gradient_checkpointing_kwargs length_column_name full_determinism torch_compile torch_compile_backend
        torch_compile_mode use_liger_kernel liger_kernel_config activation_checkpointing activation_checkpointing_kwargs
        use_cache data_seed"""),
    **_said(f"{_ONE}: {_SPEED}", """average_tokens_across_devices ds3_gather_for_generation ddp_find_unused_parameters
        ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout accelerator_config local_rank
        use_cpu"""),
    **_said(_PRECISION, "fp16 tf32 bf16_full_eval fp16_full_eval"),
    **_said(_EVAL, """eval_delay eval_on_start prediction_loss_only include_for_metrics batch_eval_metrics
        per_device_eval_batch_size eval_accumulation_steps eval_do_concat_batches eval_use_gather_object"""),
    **_said(_KEPT, "save_only_model save_on_each_node enable_jit_checkpoint"),
    **_said("a push sends the newest model, once", "hub_strategy hub_revision hub_always_push"),
    **_said("train() trains and evaluates in any case", "do_train do_eval do_predict"),
    **_said("train(resume_from_checkpoint=...) goes on with a run", """resume_from_checkpoint ignore_data_skip
        restore_callback_states_from_checkpoint"""),
}  # fmt: skip

# Names of earlier versions: what they are called now, or None and why nothing stands for them.
RENAMED: Mapping[str, str] = {
    "warmup_ratio": "warmup_steps", "evaluation_strategy": "eval_strategy", "rloo_k": "num_generations", "cliprange": "epsilon",
    "kl_coef": "beta", "init_kl_coef": "beta", "num_ppo_epochs": "num_iterations", "ppo_epochs": "num_iterations",
    "response_length": "max_completion_length", "max_new_tokens": "max_completion_length", "exp_name": "run_name",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex", "no_cuda": "use_cpu",
    "mask_truncated": "mask_truncated_completions",
}  # fmt: skip
GONE: Mapping[str, str] = {
    "max_prompt_length": "prompts are never cut, as in TRL 1.16; a problem that does not fit the model's context is passed over",
    **_said(_SHOWN, "logging_dir wandb_log_unique_prompts wandb_entity wandb_project log_with tracker_project_name"),
    **_said(_SAMPLER, "vllm_device vllm_dtype vllm_max_model_len vllm_enable_prefix_caching num_sample_generations"),
    **_said(_SPEED, "jit_mode_eval use_ipex group_by_length dataset_num_proc local_rollout_forward_batch_size save_safetensors"),
    **_said(_SPEED, "overwrite_output_dir half_precision_backend torchdynamo use_mps_device include_tokens_per_second"),
}  # fmt: skip

# TRL's defaults that are not rung's: said where the script does not set them.
DIFFERS = {
    "bf16": "bf16 is True there, False here",
    "gradient_checkpointing": "gradient_checkpointing is True there, False here",
    "disable_dropout": "a model's dropout is on there, off here",
}
GENERATION = {"do_sample": (True,), "num_beams": (1,), "top_p": (1, None), "top_k": (0, -1, None), "min_p": (0, None),
              "repetition_penalty": (1, None), "typical_p": (1, None), "num_return_sequences": (1,)}  # fmt: skip
GENERATION_NOTED = (
    "use_cache",
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "cache_implementation",
    "return_dict_in_generate",
)

ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_torch_xla", "adamw_apex_fused")
SMALL_ADAMW = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw", "paged_adamw_32bit", "adamw_torch_8bit",
               "adamw_torch_4bit")  # fmt: skip
INIT_NOTED = ("attn_implementation", "device_map", "use_cache", "low_cpu_mem_usage", "revision")
# The least that whole numbers may be; OPEN: what may be None, too.
COUNTS = {"max_steps": -1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "num_generations": 1,
          "num_iterations": 1, "max_completion_length": 1, "seed": 0, "steps_per_generation": 1, "generation_batch_size": 1,
          "num_generations_eval": 1, "save_total_limit": -1, "max_tool_calling_iterations": 0}  # fmt: skip
LENGTHS = ("num_train_epochs", "warmup_steps", "eval_steps", "save_steps", "logging_steps")  # numbers that are finite
NUMBERS = ("learning_rate", "temperature", "beta", "epsilon", "epsilon_high", "weight_decay", "max_grad_norm",
           "adam_beta1", "adam_beta2", "adam_epsilon", "delta", *LENGTHS,
           "sapo_temperature_pos", "sapo_temperature_neg", "off_policy_mask_threshold")  # fmt: skip
OPEN = ("steps_per_generation", "generation_batch_size", "num_generations_eval", "save_total_limit", "epsilon_high", "eval_steps",
        "max_tool_calling_iterations", "delta", "off_policy_mask_threshold")  # fmt: skip
# rung's settings as a script written for TRL says them; behind = comes the value.
WORDS: Mapping[str, str] = {
    "out": "output_dir=", "resume": "resume_from_checkpoint=", "samples_per_prompt": "num_generations=", "seed": "seed=",
    "max_new_tokens": "max_completion_length=", "temperature": "temperature=", "clip_norm": "max_grad_norm=",
    "learning_rate": "learning_rate=", "warmup_steps": "warmup_steps=",
    "keep_last": "save_total_limit=", "gradient_checkpointing": "gradient_checkpointing=", "eval_samples": "num_generations_eval=",
    "template_options": "chat_template_kwargs=", "tracker": "report_to=", "model": "model=", "reward": "reward_funcs",
    "task": "train_dataset", "environment": "environment_factory", "trust_remote_code": "trust_remote_code=",
    "lora_rank": "r of peft_config", "lora_targets": "target_modules of peft_config", "dtype": "bf16", "steps": "max_steps",
    "save_every": "save_steps", "eval_every": "eval_steps", "prompts_per_step": "per_device_train_batch_size",
    "decay_steps": "lr_scheduler_type",
    "recipe.update.minibatches": "steps_per_generation", "recipe.update.epochs": "num_iterations=",
    "recipe.surrogate.low": "epsilon=", "recipe.surrogate.high": "epsilon_high=", "recipe.surrogate.two_sided": "delta=",
    "recipe.surrogate.positive": "sapo_temperature_pos=", "recipe.surrogate.negative": "sapo_temperature_neg=",
    "recipe.kl.coef": "beta=", "recipe.data.drop_truncated": "mask_truncated_completions=",
    "recipe.correction.delta": "off_policy_mask_threshold=", "recipe.correction.cap": "vllm_importance_sampling_clip_max=",
    "recipe.correction.low": "vllm_importance_sampling_clip_min=", "recipe.correction.high": "vllm_importance_sampling_clip_max=",
    "task_options.on_error": "None in the list that it returns",
}  # fmt: skip
DICTS = ("chat_template_kwargs", "generation_kwargs", "model_init_kwargs")
KINDS: Mapping[str, tuple[Any, str]] = {  # what arguments that are no numbers must be, or None
    **dict.fromkeys(DICTS, (Mapping | str, "a table of names and values")), "report_to": (str | Sequence, "names of trackers"),
    **dict.fromkeys(("metric_for_best_model", "hub_model_id", "hub_token"), (str, "text")), "output_dir": (str | Path, "a path"),
}  # fmt: skip


def defaults() -> dict[str, Any]:
    """Every argument that is not translated, with TRL's default."""
    out: dict[str, Any] = {name: values[0] for name, (values, _) in ONLY.items()} | dict.fromkeys(NOTED)
    for f in fields(TrainingArguments):
        if f.name in out and f.name not in ONLY and f.default is not MISSING:
            out[f.name] = f.default
    return {**out, **OWN_DEFAULTS}


OWN_DEFAULTS: Mapping[str, Any] = {
    "logging_steps": 10, "log_completions": False, "log_multimodal": True, "log_unique_prompts": False, "use_vllm": False,
    "vllm_mode": "colocate", "vllm_model_impl": "vllm", "vllm_enable_sleep_mode": False, "vllm_server_host": "0.0.0.0",
    "vllm_server_port": 8000, "vllm_server_timeout": 240.0, "vllm_group_port": 51216, "vllm_gpu_memory_utilization": 0.3,
    "vllm_tensor_parallel_size": 1, "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_clip_max": 3.0,
    "use_transformers_continuous_batching": False, "pad_to_multiple_of": "auto", "ds3_gather_for_generation": True,
    "disable_dropout": False, "include_for_metrics": None,
}  # fmt: skip


def from_text(name: str, text: str) -> Any:
    """One of DICTS as scripts write it on a command line: as JSON."""
    try:
        return documents.from_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{name} is {text[:80]!r}, which is no JSON: {error}. Write {{"name": value}}.') from error


# -- looking things up ---------------------------------------------------------------------------------------------
def renamed(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments under the names of today, and what is to be said about those of earlier versions.

    Raises:
        InputError: two names of one argument, with two values.
    """
    out: dict[str, Any] = {}
    said = []
    for name, value in given.items():
        if name in RENAMED:
            new = RENAMED[name]
            others = {n: v for n, v in given.items() if n == new or RENAMED.get(n) == new}
            if name == "warmup_ratio" and not given.get(new):
                others.pop(new, None)  # 0 steps beside a ratio are their default, written out
            if not all(same(value, v) for v in others.values()):
                names = " and ".join(f"{n}={v!r}" for n, v in others.items())
                raise InputError(f"{names} are one argument, which TRL 1.16 calls {new}. Give one of them.")
            out[new] = value
            said.append(f"{name} is called {RENAMED[name]} in TRL 1.16, and is taken as that")
        elif name in GONE:
            said.append(f"{name}={value!r}: {GONE[name]}")
        else:
            out.setdefault(name, value)
    return out, said


def refusals(given: Mapping[str, Any], translated: Iterable[str]) -> list[str]:
    """A sentence for each argument that is neither translated nor taken."""
    known, found = {*translated, *ONLY, *NOTED}, []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            found.append(f"{name}: there is no such argument." + (f" Did you mean {near[0]!r}?" if near else ""))
        elif name in ONLY and not any(same(value, accepted) for accepted in ONLY[name][0]):
            found.append(f"{name}={value!r}: {ONLY[name][1]}. Only {name}={ONLY[name][0][0]!r} is taken.")
    return found


def notes(given: Mapping[str, Any]) -> list[str]:
    """One sentence a reason for the arguments that change nothing, and one for the defaults of TRL's that are not rung's."""
    by_reason: dict[str, list[str]] = {}
    for name, value in given.items():
        if name in NOTED:
            by_reason.setdefault(NOTED[name], []).append(f"{name}={value!r}")
    said = [f"no effect here: {', '.join(names)} ({why})" for why, names in by_reason.items()]
    differ = [text for name, text in DIFFERS.items() if name not in given]
    return [*said, "TRL's defaults that are not rung's: " + "; ".join(differ)] if differ else said


def no_numbers(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each argument that must be a number and is none, or a count that is too small."""
    found = []
    for name in (*COUNTS, *NUMBERS):
        value, whole = values[name], name in COUNTS
        if value is None and name in OPEN:
            continue
        fits = isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value  # NaN is none
        if not fits or (whole and value % 1 != 0) or (name in LENGTHS and math.isinf(value)):
            found.append(f"{name}={value!r}: give a {'whole ' if whole else ''}number.")
        elif whole and value < COUNTS[name]:
            found.append(f"{name}={value!r}: give at least {COUNTS[name]}.")
    return found


def of_another_type(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each argument that must be text, a list of names or a table and is something else."""
    found = []
    for name, value in values.items():
        kinds, what = KINDS.get(name, (object, ""))
        if value is not None and not isinstance(value, kinds):
            found.append(f"{name}={shown(value)}: give {what}.")
        elif name == "report_to" and not isinstance(value, str) and not all(isinstance(x, str) for x in value or []):
            found.append(f"{name}={shown(value)}: give names of trackers.")
    return found


def generation(options: Mapping[str, Any], temperature: float) -> list[str]:
    """A sentence for each of generation_kwargs that would change the law that is sampled."""
    found = []
    for name, value in options.items():
        accepted = (temperature,) if name == "temperature" else GENERATION.get(name, ())
        if name not in (*GENERATION_NOTED, "max_new_tokens") and value not in accepted:
            found.append(f"generation_kwargs with {name}={value!r}: {_LAW}.")
    return found


def refuse(what: str, found: Sequence[str]) -> None:
    """One message with all that is refused."""
    if found:
        raise refused(what, found, "\nSee docs/port_from_trl.md.")


def same(value: Any, accepted: Any) -> bool:
    """Equal, and not by True being 1."""
    return (
        isinstance(value, bool) == isinstance(accepted, bool) and type(value == accepted) is bool and value == accepted
    )
