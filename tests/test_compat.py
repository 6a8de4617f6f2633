"""rung.compat: every argument is translated or refused by name, and rewards mean what they mean in TRL."""

import math
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainingArguments

import rung
from rung.compat import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, rewards
from rung.compat.fields import DIFFERS, GONE, NOTED, ONLY, RENAMED
from rung.compat.listeners import Listener
from rung.compat.lora import LORA_ANY, LORA_NOTED, LORA_WHY, lora
from rung.compat.lora import settings as lora_settings
from rung.compat.trainer import EARLIER, NOT_TRANSLATED
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.models import starter
from rung.recipe_io import find, override
from rung.records import Completion, Group
from rung.tasks.environments.protocol import Conversational

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


def test_adam_has_trls_betas():
    settings = GRPOConfig(max_steps=3).settings()
    assert [settings[f"adam_{name}"] for name in ("beta1", "beta2", "epsilon")] == [0.9, 0.999, 1e-8]


def test_the_learning_rate_falls_after_the_warm_up_unless_it_is_constant():
    assert GRPOConfig(max_steps=9, warmup_steps=2).settings()["decay_steps"] == 7
    made = GRPOConfig(max_steps=9, lr_scheduler_type="constant_with_warmup", warmup_steps=2).settings()
    assert (made["decay_steps"], made["warmup_steps"]) == (0, 2)
    made = GRPOConfig(max_steps=9, lr_scheduler_type="constant", warmup_steps=2).settings()
    assert (made["decay_steps"], made["warmup_steps"]) == (0, 0), "transformers' constant schedule has no warm-up"
    made = GRPOConfig(max_steps=20, lr_scheduler_type="cosine", warmup_ratio=0.1).settings()
    assert (made["decay_steps"], made["warmup_steps"], made["decay_shape"]) == (18, 2, "cosine")


@pytest.mark.parametrize(
    ("arguments", "steps", "prompts", "minibatches"),
    [
        ({"max_steps": 10}, 10, 1, 1),
        ({"max_steps": 10, "num_iterations": 2}, 5, 1, 1),
        ({"max_steps": 10, "gradient_accumulation_steps": 2}, 10, 2, 1),
        ({"max_steps": 10, "steps_per_generation": 4}, 3, 4, 4),
        ({"max_steps": 10, "generation_batch_size": 16, "gradient_accumulation_steps": 2}, 10, 2, 1),
        ({"max_steps": 10, "gradient_accumulation_steps": 4, "steps_per_generation": 2}, 10, 4, 1),
        ({"num_train_epochs": 2}, 32, 1, 1),
        ({"num_train_epochs": 0.5, "gradient_accumulation_steps": 4}, 2, 4, 1),
        ({"num_train_epochs": 1, "num_iterations": 3}, 16, 1, 1),
    ],
)
def test_steps_are_generations_and_trl_counts_updates(arguments, steps, prompts, minibatches):
    """16 problems, 8 answers each, 8 answers a micro-batch."""
    made = GRPOConfig(**arguments).settings(16)
    assert (made["steps"], made["prompts_per_step"]) == (steps, prompts)
    assert made["overrides"]["update.minibatches"] == minibatches


def test_evaluations_and_checkpoints_come_where_trl_has_them():
    made = GRPOConfig(max_steps=40, eval_strategy="steps", eval_steps=0.25, save_strategy="epoch").settings(16)
    assert (made["eval_every"], made["save_every"]) == (10, 16)
    made = GRPOConfig(
        max_steps=40, eval_strategy="steps", logging_steps=5, num_iterations=2, save_strategy="no"
    ).settings(16)
    assert (made["eval_every"], made["save_every"]) == (3, 0)
    assert GRPOConfig(max_steps=40, eval_steps=5).settings(16)["eval_every"] == 0
    assert GRPOConfig(max_steps=40, eval_strategy="epoch").settings(16)["eval_every"] == 16


@pytest.mark.parametrize(
    "both",
    [{"beta": 0.1, "kl_coef": 0.2}, {"init_kl_coef": 0.1, "kl_coef": 0.2}, {"warmup_ratio": 0.1, "warmup_steps": 5}],
    ids=["the new name too", "two earlier ones", "steps and a ratio"],
)
def test_two_names_of_one_argument_with_two_values_are_refused(both):
    with pytest.raises(InputError, match=" and ".join(f"{n}={v}" for n, v in both.items())):
        RLOOConfig(max_steps=9, **both)


def test_two_names_that_agree_or_a_default_written_out_are_taken():
    assert RLOOConfig(max_steps=9, beta=0.3, kl_coef=0.3).beta == 0.3
    for both in ({"warmup_ratio": 0.1, "warmup_steps": 0}, {"warmup_steps": 0, "warmup_ratio": 0.1}):
        assert RLOOConfig(max_steps=9, **both).warmup_steps == 0.1


def test_names_of_earlier_versions_are_taken_and_said():
    made = RLOOConfig(max_steps=1, rloo_k=4, cliprange=0.1, kl_coef=0.3, response_length=9, max_prompt_length=5)
    assert (made.num_generations, made.epsilon, made.beta, made.max_completion_length) == (4, 0.1, 0.3, 9)
    assert any("rloo_k is called num_generations" in n for n in made.notes)
    assert any(n.startswith("max_prompt_length=5: prompts are never cut") for n in made.notes)


def test_rloo_is_trls():
    """The whole answer's ratio, clipped; the KL in the reward; leave one out; the mean over answers."""
    made = override(find("rloo"), RLOOConfig(max_steps=1, epsilon_high=0.3).overrides())
    parts = [
        type(x).__name__ for x in (made.ratio, made.surrogate, made.kl, made.credit, made.aggregate, made.normalize)
    ]
    assert parts == ["SequenceProduct", "Clip", "K1", "LeaveOneOut", "SequenceSum", "AsIs"]
    assert (made.kl.coef, made.kl.where, made.surrogate.low, made.surrogate.high) == (0.05, "reward", 0.2, 0.3)
    assert type(override(find("rloo"), RLOOConfig(beta=0.0).overrides()).kl).__name__ == "NoKL"
    assert (RLOOConfig().num_generations, RLOOConfig().settings()["recipe"]) == (2, "rloo")
    for name, value in (("loss_type", "grpo"), ("scale_rewards", False), ("normalize_advantages", True)):
        with pytest.raises(InputError, match=name):
            RLOOConfig(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        ({"loss_type": "grpo"}, "aggregate", "SequenceMean"),
        ({"loss_type": "dr_grpo"}, "aggregate", "FixedBudget"),
        ({"loss_type": "luspo"}, "aggregate", "SequenceSum"),
        ({"loss_type": "bnpo"}, "aggregate", "TokenMean"),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, "surrogate", "CISPO"),
        ({"loss_type": "cispo", "epsilon_high": 4.0}, "surrogate.high", 4.0),
        ({"loss_type": "cispo", "epsilon_high": 4.0}, "aggregate", "TokenMean"),
        ({"loss_type": "sapo"}, "surrogate", "SAPO"),
        ({"loss_type": "sapo", "sapo_temperature_neg": 1.2}, "surrogate.negative", 1.2),
        ({"loss_type": "sapo", "sapo_temperature_pos": 0.9}, "surrogate.positive", 0.9),
        ({"loss_type": "sapo"}, "aggregate", "SequenceMean"),
        ({"delta": 4.0}, "surrogate.two_sided", 4.0),
        ({"off_policy_mask_threshold": 0.3}, "correction.delta", 0.3),
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
        ({"deepspeed": "zero3.json"}, "deepspeed"),
        ({"learning_rte": 1e-5}, "Did you mean 'learning_rate'"),
        ({"repetition_penalty": True}, "repetition_penalty=True: rung learns"),
        ({"top_p": 0.9}, "top_p=0.9: rung learns from the law that it samples"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end"),
        ({"lr_scheduler_kwargs": {"min_lr": 1e-7}}, "lr_scheduler_kwargs"),
    ],
)
def test_arguments_that_are_not_translated_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        GRPOConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train_epochs": 0}, "no step would be taken"),
        ({"max_steps": 1, "num_generations": 3}, "multiple of num_generations"),
        ({"max_steps": 1, "loss_type": "vespo"}, "loss_type='vespo': only 'grpo'"),
        ({"max_steps": 1, "loss_type": "cispo"}, "the cap on the ratio itself, which is 1 on policy"),
        (
            {"max_steps": 1, "importance_sampling_level": "sequence", "beta": 0.1},
            "the whole answer's ratio, rung by the token's own",
        ),
        ({"max_steps": 1, "delta": "much"}, "delta='much': give a number"),
        ({"max_steps": 1, "save_strategy": "best"}, "save_strategy='best'"),
        ({"max_steps": 1, "lr_scheduler_type": "polynomial"}, "polynomial.*linear"),
        ({"max_steps": 1, "optim": "adafactor"}, "optim='adafactor': only 'adamw_torch'"),
        (
            {"max_steps": 1, "generation_kwargs": {"top_k": 5}},
            "generation_kwargs with top_k=5: rung learns from the law",
        ),
        ({"max_steps": 1, "generation_kwargs": {"temperature": 0.5}}, "generation_kwargs with temperature=0.5"),
        (
            {"max_steps": 1, "model_init_kwargs": {"quantization_config": 4}},
            "model_init_kwargs with quantization_config",
        ),
        ({"max_steps": 1, "model_init_kwargs": {"revision": "v2"}}, "model_init_kwargs with revision"),
        ({"max_steps": 1, "steps_per_generation": 3, "gradient_accumulation_steps": 2}, "a multiple of the other"),
        ({"max_steps": 1, "steps_per_generation": 2, "generation_batch_size": 16}, "give one"),
        ({"max_steps": 1, "max_completion_length": None}, "max_completion_length=None: give a whole number"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        GRPOConfig(**arguments).settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, "each of the 2 micro-batches by itself"),
        (
            {"loss_type": "dapo", "steps_per_generation": 2},
            "with 2 updates of a generation: TRL divides each by the mean",
        ),
        ({"loss_type": "dapo", "mask_truncated_completions": True}, "does not count the tokens of the answers"),
        ({"loss_type": "sapo", "delta": 2.0}, "delta=2.0: loss_type='sapo' does not read it"),
    ],
)
def test_where_trl_computes_something_else_by_the_same_words_is_said(arguments, message):
    assert any(message in note for note in GRPOConfig(max_steps=1, **arguments).notes)
    assert not any(message in note for note in GRPOConfig(max_steps=1, loss_type="grpo").notes)
    assert not any("loss_type" in note for note in RLOOConfig(max_steps=1, mask_truncated_completions=True).notes)


def trainer(**more):
    arguments = {"args": GRPOConfig(max_steps=1, output_dir="x"), "train_dataset": ROWS, "reward_funcs": right}
    return GRPOTrainer(**{"model": "some/model", **arguments, **more})


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
    assert isinstance(env, Conversational)
    assert env.score(Group(env[0], [Completion("?", session=session)])) == [{"right": 0.0, "Room": 1.0}]
    assert made.settings["max_turns"] == 4
    assert (made.settings["lora_rank"], made.settings["lora_alpha"], made.settings["lora_targets"]) == (
        4,
        8.0,
        "q_proj,v_proj",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rollout_func": right}, "rollout_func"),
        ({"tools": [right], "environment_factory": Room}, "tools and environment_factory"),
        ({"model": None}, "model is missing"),
        ({"reward_funcs": "a/reward-model"}, "reward models|only functions"),
        ({"reward_funcs": []}, "needs reward_funcs"),
        ({"train_dataset": None}, "train_dataset"),
        ({"train_dataset": [{"question": "?"}] * 16}, "prompt"),
        ({"peft_config": LoraConfig(r=4, use_dora=True)}, "use_dora"),
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
    "normalize_advantages", "reward_clip_range",  # RLOOConfig's own
]  # fmt: skip
INHERITED = [f.name for f in fields(TrainingArguments) if f.init]
TRANSLATED = [f.name for f in fields(GRPOConfig) if f.name not in ONLY and f.name not in NOTED]
# A value of each translated argument that is not its default.
OTHER = {
    "output_dir": "there", "max_steps": 7, "learning_rate": 2e-5, "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 3, "num_generations": 4, "max_completion_length": 77, "temperature": 0.7,
    "chat_template_kwargs": {"enable_thinking": False}, "beta": 0.1, "use_bias_correction_kl": False, "epsilon": 0.3,
    "epsilon_high": 0.28, "num_iterations": 2, "loss_type": "dr_grpo", "scale_rewards": "batch",
    "importance_sampling_level": "sequence", "mask_truncated_completions": True, "max_tool_calling_iterations": 2,
    "weight_decay": 0.1, "max_grad_norm": 0.5, "warmup_steps": 0.1, "lr_scheduler_type": "constant", "save_strategy": "no",
    "save_steps": 20, "seed": 1, "num_train_epochs": 1, "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6,
    "steps_per_generation": 2, "generation_batch_size": 16, "num_generations_eval": 2, "generation_kwargs": {"max_new_tokens": 9},
    "model_init_kwargs": {"dtype": "bfloat16"}, "eval_strategy": "epoch", "eval_steps": 3, "report_to": "wandb",
    "save_total_limit": 2, "bf16": True, "gradient_checkpointing": True, "trust_remote_code": True, "delta": 3.0,
    "sapo_temperature_pos": 0.9, "sapo_temperature_neg": 1.1, "off_policy_mask_threshold": 0.2,
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
        assert f"no effect here: {name}='x' ({NOTED[name]})" in GRPOConfig(**{name: "x"}).notes


def test_nothing_is_listed_that_trl_does_not_have():
    assert {*TRANSLATED, *ONLY, *NOTED} == {*OWN, *INHERITED}
    assert not {*RENAMED, *GONE} & {*OWN, *INHERITED} and {*RENAMED.values()} <= {*TRANSLATED, *ONLY, *NOTED}


TRAINERS = {
    "reward_weights",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "hub_private_repo",
    "optim",
    "metric_for_best_model",
    "greater_is_better",
}  # read by the trainer


@pytest.mark.parametrize("name", sorted({*TRANSLATED} - TRAINERS))
def test_every_translated_argument_changes_the_run(name):
    more = {"use_bias_correction_kl": {"beta": 0.2}, "eval_steps": {"eval_strategy": "steps"}}
    more["num_train_epochs"] = {"max_steps": -1}
    more |= {f"sapo_temperature_{end}": {"loss_type": "sapo"} for end in ("pos", "neg")}
    base = {"max_steps": 40, **more.get(name, {})}
    assert GRPOConfig(**{**base, name: OTHER[name]}).settings(99) != GRPOConfig(**base).settings(99)


def test_trls_defaults_are_taken_or_said_to_differ():
    """An argument that is given as TRL has it anyway is no reason to refuse, but where rung's way is another one."""
    defaults = {f.name: f.default for f in fields(TrainingArguments) if f.init and f.default is not MISSING}
    for name in set(INHERITED) & set(ONLY) - set(DIFFERS) - set(OWN):
        GRPOConfig(**{name: defaults.get(name)})
    (said,) = GRPOConfig().notes
    assert all(text in said for text in DIFFERS.values())
    given = {"bf16": False, "gradient_checkpointing": True, "disable_dropout": True}
    assert not GRPOConfig(**given).notes


def test_a_share_of_the_steps():
    settings = GRPOConfig(max_steps=25, warmup_steps=0.1, save_steps=0.5).settings()
    assert (settings["warmup_steps"], settings["decay_steps"], settings["save_every"]) == (3, 22, 13)


@pytest.mark.parametrize("name", sorted(f.name for f in fields(LoraConfig)))
def test_every_field_of_an_adapter_is_translated_refused_or_without_effect(name):
    config = LoraConfig(target_modules=["q_proj"])
    setattr(config, name, "other")
    found, _ = lora(config)
    if name in ("r", "lora_alpha", "use_rslora") or name in LORA_ANY or name in LORA_NOTED:
        assert not found
    else:
        assert len(found) == 1 and f"{name}='other'" in found[0]
    assert not lora(LoraConfig(target_modules=["q_proj"]))[0]
    assert set(LORA_WHY) <= {f.name for f in fields(LoraConfig)}


def test_everything_is_refused_at_once():
    with pytest.raises(InputError) as error:
        GRPOConfig(fsdp="full_shard", top_p=0.9, deepspeed="zero3.json", learning_rte=1)
    assert all(word in str(error.value) for word in ("4 refused", "fsdp=", "top_p=", "deepspeed=", "learning_rte"))
    with pytest.raises(InputError) as error:
        trainer(
            args=GRPOConfig(num_generations=3, loss_type="vespo", num_train_epochs=0), rollout_func=right, optimizers=(1, 2),
            peft_config=LoraConfig(use_dora=True, rank_pattern={"q_proj": 4}),
        )  # fmt: skip
    words = ("rollout_func", "optimizers", "use_dora", "rank_pattern", "num_generations", "vespo", "max_steps")
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
    names = {*TRANSLATED, *ONLY, *NOTED, *RENAMED, *GONE, *NOT_TRANSLATED, *EARLIER, *LORA_WHY, *LORA_ANY, *LORA_NOTED}
    assert not [name for name in names if f"`{name}`" not in page]


# -- the rewards that TRL brings, by their documentation ---------------------------------------------------------------
def said(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_right_answers_are_found_as_mathematics():
    third = r"\frac{1}{3}"
    answers = said(rf"My answer is \boxed{{{third}}}", r"My answer is \boxed{\frac{1}{2}}", r"\boxed{1/3}")
    assert rewards.accuracy_reward(answers, [third] * 3) == [1.0, 0.0, 1.0]
    thought = said(
        rf"<think> a </think> \boxed{{{third}}}",
        rf"<think> \boxed{{{third}}} </think> \boxed{{2}}",
        rf"\boxed{{{third}}}",
    )
    assert rewards.reasoning_accuracy_reward(thought, [third] * 3) == [1.0, 0.0, 0.0]


def test_rewards_of_form_and_length_are_as_documented():
    thoughts = said("<think>\na\n</think>\nb", "<think>\na\nb", "a <think>b</think>", "<think><think>a</think>")
    assert rewards.think_format_reward(thoughts) == [1.0, 0.0, 0.0, 0.0]
    ids = [[1] * n for n in (80, 90, 100, 101)]
    assert rewards.get_soft_overlong_punishment(100, 20)(completion_ids=ids) == [0.0, -0.5, -1.0, -1.0]
    repeated = rewards.get_repetition_penalty_reward(ngram_size=2)
    assert repeated(completion_ids=[[1, 2, 3, 4], [5] * 5, [5]]) == [0.0, -0.75, 0.0]
    cosine = rewards.get_cosine_scaled_reward(max_len=100)
    answers, gold = said(r"\boxed{3}", r"\boxed{2}", r"\boxed{3}", r"\boxed{2}"), ["3"] * 4
    lengths = [[1] * n for n in (50, 50, 200, 0)]
    assert cosine(answers, gold, lengths) == pytest.approx([0.75, -0.75, 0.5, -1.0])
    with pytest.raises(InputError, match="at most 0"):
        rewards.get_repetition_penalty_reward(max_penalty=1.0)


def test_rslora_is_a_larger_alpha():
    made = lora_settings(LoraConfig(r=16, lora_alpha=8, use_rslora=True))
    assert (made["lora_rank"], made["lora_alpha"]) == (16, 32.0)


def test_a_trained_adapter_is_not_thrown_away():
    model = get_peft_model(tiny("llama").hf, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.1)
    with pytest.raises(InputError, match=r"has been trained\. Merge it first"):
        trainer(model=model)


def test_functions_are_tools():
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    env = trainer(tools=[add]).splits.train
    session = env.session(env[0])
    session.reset()
    step = session.step(Completion('<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'))
    assert "5" in step.messages[0]["content"] and "Adds." in env[0].prompt


def test_a_callback_may_not_steer(tmp_path):
    class Saver(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = True

    listener = Listener(GRPOConfig(), [Saver()], 1, 1, {})
    with pytest.raises(InputError, match=r"Saver set control.should_save in on_step_end.*save_steps"):
        listener.tell("on_step_end")


def test_each_trainer_wants_its_names():
    made = RLOOTrainer(config=RLOOConfig(max_steps=1), policy="some/model", reward_funcs=right, train_dataset=ROWS)
    assert made.settings["recipe"] == "rloo"
    with pytest.raises(InputError, match=r"Import GRPOConfig from rung\.compat"):
        trainer(args=TrainingArguments("x"))


@pytest.mark.parametrize(("trains", "with_"), [(GRPOTrainer, RLOOConfig), (RLOOTrainer, GRPOConfig)])
def test_a_config_of_the_other_trainer_decides_nothing_in_silence(trains, with_):
    wanted = rf"args is a {with_.__name__}, .* Give a {trains.config.__name__}, or use {with_.recipe.upper()}Trainer"
    with pytest.raises(InputError, match=wanted):
        trains("some/model", right, with_(max_steps=1), ROWS)


class Hears(TrainerCallback):
    """Hears, and does nothing."""


def test_a_model_that_is_named_stays_named_with_callbacks(tmp_path):
    rows = [{"prompt": f"{i}+1=", "gold": str(i + 1)} for i in range(8)]

    def made(steps, **more):
        args = GRPOConfig(str(tmp_path / "run"), max_steps=steps, per_device_train_batch_size=2, num_generations=2,
                          max_completion_length=4, save_steps=1, save_total_limit=1, lr_scheduler_type="constant")  # fmt: skip
        return GRPOTrainer(str(starter.path()), right, args, rows, **more)

    first = made(2, callbacks=[Hears()])
    first.train()
    assert first.run.config["model"] == str(starter.path()) and first.model is first._pair[0]
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]
    reply = rung.load(first.run.path).ask("1+1=", max_new_tokens=2)
    assert reply.before and not reply.missing, "what it was before can be asked: its name is known"
    for steps, more in ((3, {}), (4, {"callbacks": [Hears()]})):  # with callbacks or without, it is the same run
        again = made(steps, **more)
        again.train(resume_from_checkpoint=True)
        assert again.run.steps == steps
    assert first.run.resume(5, quiet=True).steps == 5


def test_no_account_no_push(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    with pytest.raises(InputError, match="no account to push to"):
        trainer(args=GRPOConfig(max_steps=1, push_to_hub=True))
    trainer(args=GRPOConfig(max_steps=1, push_to_hub=True, hub_token="t"))


def test_what_is_set_on_a_finished_config_is_refused_too():
    args = GRPOConfig(max_steps=1)
    args.deepspeed = "zero3.json"
    with pytest.raises(InputError, match=r"deepspeed='zero3\.json': rung runs in one process"):
        trainer(args=args)
