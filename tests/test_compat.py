"""rung.compat: every argument is translated or refused by name, and rewards mean what they mean in TRL."""

import math
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from peft import IA3Config, LoraConfig
from transformers import TrainingArguments

from rung.compat import GRPOConfig, GRPOTrainer
from rung.compat.fields import DIFFERS, LORA_ANY, LORA_WHY, NOTED, ONLY, lora
from rung.compat.trainer import NOT_TRANSLATED
from rung.errors import InputError
from rung.recipe_io import find, override
from rung.records import Completion, Group
from rung.tasks.environment import talks

ROWS = [{"prompt": f"Say {i}.", "gold": str(i)} for i in range(16)]


def right(completions, gold, **columns):
    return [float(c == g) for c, g in zip(completions, gold, strict=True)]


def short(completions, **columns):
    return [None if c == "?" else -float(len(c)) for c in completions]


def recipe(**arguments):
    return override(find("grpo"), GRPOConfig(**arguments).overrides())


def test_defaults_are_trls():
    made = recipe()
    assert type(made.aggregate).__name__ == "TokenMean" and type(made.kl).__name__ == "NoKL"
    assert made.credit.scale == "group" and (made.surrogate.low, made.surrogate.high) == (0.2, 0.2)
    settings = GRPOConfig(max_steps=3).settings()
    assert (settings["learning_rate"], settings["samples_per_prompt"], settings["prompts_per_step"]) == (1e-6, 8, 1)
    assert settings["max_new_tokens"] == 512 and settings["steps"] == 3 and settings["decay_steps"] == 3


def test_the_learning_rate_falls_after_the_warm_up_unless_it_is_constant():
    assert GRPOConfig(max_steps=9, warmup_steps=2).settings()["decay_steps"] == 7
    assert GRPOConfig(max_steps=9, lr_scheduler_type="constant_with_warmup").settings()["decay_steps"] == 0


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        ({"loss_type": "grpo"}, "aggregate", "SequenceMean"),
        ({"loss_type": "dr_grpo"}, "aggregate", "FixedBudget"),
        ({"scale_rewards": False}, "credit.scale", "none"),
        ({"scale_rewards": "batch"}, "credit.scale", "batch"),
        ({"epsilon": 0.1}, "surrogate.high", 0.1),
        ({"epsilon": 0.1, "epsilon_high": 0.3}, "surrogate.high", 0.3),
        ({"beta": 0.02}, "kl.coef", 0.02),
        ({"importance_sampling_level": "sequence", "loss_type": "grpo"}, "ratio", "SequenceRatio"),
        ({"num_iterations": 3}, "update.epochs", 3),
        ({"mask_truncated_completions": True}, "data.drop_truncated", True),
    ],
)
def test_each_argument_changes_its_part(arguments, path, value):
    found = recipe(**arguments)
    for name in path.split("."):
        found = getattr(found, name)
    assert (type(found).__name__ if isinstance(value, str) and value[0].isupper() else found) == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vllm_mode": "server"}, "vllm_mode"),
        ({"learning_rte": 1e-5}, "Did you mean 'learning_rate'"),
        ({"repetition_penalty": True}, "repetition_penalty=True: rung learns"),
        ({"top_p": 0.9}, "top_p=0.9: rung learns from the law that it samples"),
        ({"adam_beta2": 0.999}, "adam_beta2=0.999: rung's optimizer is AdamW"),
        ({"report_to": "wandb"}, "report_to"),
        ({"use_vllm": True}, "use_vllm"),
    ],
)
def test_arguments_that_are_not_translated_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        GRPOConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "max_steps"),
        ({"max_steps": 1, "num_generations": 3}, "multiple of num_generations"),
        ({"max_steps": 1, "loss_type": "luspo"}, "loss_type='luspo': only 'grpo'"),
        ({"max_steps": 1, "save_strategy": "best"}, "save_strategy='best'"),
        ({"max_steps": 1, "lr_scheduler_type": "cosine"}, "cosine.*linear"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        GRPOConfig(**arguments).settings()


def trainer(**more):
    arguments = {"args": GRPOConfig(max_steps=1, output_dir="x"), "train_dataset": ROWS, "reward_funcs": right}
    return GRPOTrainer("some/model", **{**arguments, **more})


def test_rewards_are_weighted_and_none_is_left_out():
    args = GRPOConfig(max_steps=1, reward_weights=[2.0, 0.5])
    env = trainer(args=args, reward_funcs=[right, short]).splits.train
    task = env[0]
    gold = task.data["gold"]
    scores = env.score(Group(task, [Completion(gold), Completion("?")]))
    assert scores[0] == {"right": 2.0, "short": -0.5 * len(gold)}
    assert scores[1]["right"] == 0.0 and math.isnan(scores[1]["short"])


def test_rows_are_held_out_unless_there_are_others():
    splits = trainer().splits
    prompts = [{env[i].prompt for i in range(len(env))} for env in (splits.train, splits.eval)]
    assert len(prompts[0]) == 14 and len(prompts[1]) == 2 and not prompts[0] & prompts[1]
    other = trainer(eval_dataset=ROWS[:3]).splits
    assert len(other.train) == 16 and len(other.eval) == 3


class Room:
    def reset(self, gold, **row):
        self.open = False

    def push(self) -> str:
        self.open = True
        return "open"

    def get_reward(self):
        return float(self.open)


def test_an_environment_class_and_an_adapter_are_passed_on():
    made = trainer(
        args=GRPOConfig(max_steps=1, max_tool_calling_iterations=3), environment_factory=Room, reward_funcs=[right],
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    )  # fmt: skip
    env = made.splits.train
    session = env.session(env[0])
    session.reset()
    session.step(Completion('<tool_call>{"name": "push"}</tool_call>'))
    assert talks(env) and env.score(Group(env[0], [Completion("?", session=session)])) == [{"right": 0.0, "Room": 1.0}]
    assert made.settings["max_turns"] == 4
    assert (made.settings["lora_rank"], made.settings["lora_alpha"], made.settings["lora_targets"]) == (
        4,
        8.0,
        "q_proj,v_proj",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": [1]}, "callbacks"),
        ({"tools": [right]}, "tools"),
        ({"reward_funcs": "a/reward-model"}, "reward models|only functions"),
        ({"reward_funcs": []}, "needs reward_funcs"),
        ({"train_dataset": None}, "train_dataset"),
        ({"train_dataset": [{"question": "?"}] * 16}, "prompt"),
        ({"peft_config": LoraConfig(r=4, lora_dropout=0.1)}, "lora_dropout"),
        ({"peft_config": LoraConfig(r=4, target_modules=".*q_proj")}, "a pattern"),
        ({"peft_config": IA3Config()}, "of the kind IA3Config"),
        ({"environment_factory": {"a": right}}, "environment_factory"),
        ({"model_init": 1}, "model_init: there is no such argument"),
        ({"train_dataset": {"test": ROWS}}, "split of train_dataset 'train'. Known: test"),
        ({"train_dataset": []}, "0 rows to train on and 0 to evaluate on"),
        ({"train_dataset": ROWS[:1]}, "0 rows to train on and 1 to evaluate on"),
        ({"eval_dataset": []}, "16 rows to train on and 0 to evaluate on"),
        ({"train_dataset": ["a", "b"]}, "is a str; each row must be a dictionary"),
        ({"args": GRPOConfig(max_steps=1, reward_weights=[1.0, 2.0])}, "reward_weights"),
    ],
)
def test_trainer_arguments_that_are_not_translated_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        trainer(**arguments)


# -- every name of TRL's and PEFT's --------------------------------------------------------------------------------
# The fields of TRL 1.16.0's GRPOConfig that are its own; the others are those of transformers' TrainingArguments.
OWN = [
    "learning_rate", "model_init_kwargs", "trust_remote_code", "router_aux_loss_coef", "disable_dropout",
    "cast_lm_head_to_fp32", "remove_unused_columns", "num_generations", "num_generations_eval",
    "max_completion_length", "ds3_gather_for_generation", "shuffle_dataset", "pad_to_multiple_of",
    "generation_batch_size", "steps_per_generation", "temperature", "top_p", "top_k", "min_p", "generation_kwargs",
    "chat_template_kwargs", "repetition_penalty", "cache_implementation", "use_vllm", "vllm_mode",
    "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex", "vllm_server_base_url",
    "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port", "vllm_gpu_memory_utilization",
    "vllm_max_model_length", "vllm_tensor_parallel_size", "beta", "num_iterations", "epsilon", "delta",
    "epsilon_high", "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos",
    "vespo_k_neg", "vespo_lambda_neg", "importance_sampling_level", "reward_weights", "multi_objective_aggregation",
    "scale_rewards", "loss_type", "mask_truncated_completions", "sync_ref_model", "ref_model_mixup_alpha",
    "ref_model_sync_steps", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "entropy_coef_min",
    "entropy_coef_max", "entropy_coef_delta", "entropy_target", "max_tool_calling_iterations",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min", "off_policy_mask_threshold", "use_bias_correction_kl", "log_completions",
    "log_multimodal", "num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo",
    "use_transformers_continuous_batching", "transformers_continuous_batching_config", "use_transformers_paged",
    "vllm_importance_sampling_cap",
]  # fmt: skip
INHERITED = [f.name for f in fields(TrainingArguments) if f.init]
TRANSLATED = [f.name for f in fields(GRPOConfig)]
# A value of each translated argument that is not its default.
OTHER = {
    "output_dir": "there", "max_steps": 7, "learning_rate": 2e-5, "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 3, "num_generations": 4, "max_completion_length": 77, "temperature": 0.7,
    "chat_template_kwargs": {"enable_thinking": False}, "beta": 0.1, "use_bias_correction_kl": False, "epsilon": 0.3,
    "epsilon_high": 0.28, "num_iterations": 2, "loss_type": "dr_grpo", "scale_rewards": "batch",
    "importance_sampling_level": "sequence", "mask_truncated_completions": True, "max_tool_calling_iterations": 2,
    "weight_decay": 0.1, "max_grad_norm": 0.5, "warmup_steps": 0.1, "lr_scheduler_type": "constant", "save_strategy": "no",
    "save_steps": 50, "seed": 1, "bf16": True, "gradient_checkpointing": True, "trust_remote_code": True,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({*OWN, *INHERITED}))
def test_every_argument_of_trls_is_translated_noted_or_refused(name):
    assert (name in TRANSLATED) + (name in ONLY) + (name in NOTED) == 1
    if name in ONLY:
        with pytest.raises(InputError, match=rf"\n  {name}=.*: {re.escape(ONLY[name][1])}\. Only"):
            GRPOConfig(**{name: "something else"})
        for value in ONLY[name][0]:
            GRPOConfig(**{name: value})
    if name in NOTED:
        assert f"GRPOConfig({name}='x'): {NOTED[name]}" in GRPOConfig(**{name: "x"}).notes


def test_nothing_is_listed_that_trl_does_not_have():
    assert {*TRANSLATED, *ONLY, *NOTED} <= {*OWN, *INHERITED}


@pytest.mark.parametrize("name", sorted({*TRANSLATED} - {"reward_weights"}))
def test_every_translated_argument_changes_the_run(name):
    base = {"max_steps": 40, **({"beta": 0.2} if name == "use_bias_correction_kl" else {})}
    assert GRPOConfig(**{**base, name: OTHER[name]}).settings() != GRPOConfig(**base).settings()


def test_trls_defaults_are_taken_or_said_to_differ():
    """An argument that is given as TRL has it anyway is no reason to refuse, but where rung's way is another one."""
    defaults = {f.name: f.default for f in fields(TrainingArguments) if f.init and f.default is not MISSING}
    for name in set(INHERITED) & set(ONLY) - set(DIFFERS) - set(OWN):
        GRPOConfig(**{name: defaults.get(name)})
    (said,) = GRPOConfig().notes
    assert all(text in said for text in DIFFERS.values())
    given = {"bf16": False, "gradient_checkpointing": True, "adam_beta2": 0.95, "disable_dropout": True}
    assert not GRPOConfig(**given).notes


def test_a_share_of_the_steps():
    settings = GRPOConfig(max_steps=25, warmup_steps=0.1, save_steps=0.5).settings()
    assert (settings["warmup_steps"], settings["decay_steps"], settings["save_every"]) == (3, 22, 13)


@pytest.mark.parametrize("name", sorted(f.name for f in fields(LoraConfig)))
def test_every_field_of_an_adapter_is_translated_refused_or_without_effect(name):
    config = LoraConfig(target_modules=["q_proj"])
    setattr(config, name, "other")
    found, _ = lora(config)
    if name in ("r", "lora_alpha") or name in LORA_ANY:
        assert not found
    else:
        assert len(found) == 1 and f"{name}='other'" in found[0]
    assert not lora(LoraConfig(target_modules=["q_proj"]))[0]
    assert set(LORA_WHY) <= {f.name for f in fields(LoraConfig)}


def test_everything_is_refused_at_once():
    with pytest.raises(InputError) as error:
        GRPOConfig(use_vllm=True, top_p=0.9, deepspeed="zero3.json", learning_rte=1)
    assert all(word in str(error.value) for word in ("4 refused", "use_vllm=", "top_p=", "deepspeed=", "learning_rte"))
    with pytest.raises(InputError) as error:
        trainer(
            args=GRPOConfig(num_generations=3, loss_type="vespo"), callbacks=[1], tools=[right],
            peft_config=LoraConfig(use_rslora=True, rank_pattern={"q_proj": 4}),
        )  # fmt: skip
    words = ("callbacks", "tools", "use_rslora", "rank_pattern", "num_generations", "vespo", "max_steps")
    assert all(word in str(error.value) for word in words)


def test_what_stands_for_not_given_is_not_refused():
    trainer(callbacks=[], tools=None, optimizers=(None, None), processing_class=None, quantization_config=None)


def test_a_dictionary_of_splits_is_taken_apart():
    splits = trainer(train_dataset={"train": ROWS, "validation": ROWS[:2]}).splits
    assert (len(splits.train), len(splits.eval)) == (16, 2)


def test_notes_go_with_the_run():
    notes = trainer(args=GRPOConfig("x", max_steps=1, logging_steps=5), peft_config=LoraConfig(r=4)).splits.notes
    assert any("logging_steps=5" in n for n in notes) and any("without target_modules" in n for n in notes)


def test_the_page_lists_every_name():
    page = (Path(__file__).parents[1] / "docs" / "port_from_trl.md").read_text(encoding="utf-8")
    names = {*TRANSLATED, *ONLY, *NOTED, *NOT_TRANSLATED, *LORA_WHY, *LORA_ANY}
    assert not [name for name in names if f"`{name}`" not in page]
