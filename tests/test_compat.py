"""rung.compat: every argument is translated or refused by name, and rewards mean what they mean in TRL."""

import math
from pathlib import Path

import pytest
from peft import LoraConfig

from rung.compat import GRPOConfig, GRPOTrainer
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
        ({"learning_rte": 1e-5}, "learning_rate"),
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
        ({"max_steps": 1, "loss_type": "luspo"}, "luspo"),
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
        ({"args": GRPOConfig(max_steps=1, reward_weights=[1.0, 2.0])}, "reward_weights"),
    ],
)
def test_trainer_arguments_that_are_not_translated_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        trainer(**arguments)


def test_the_page_lists_what_is_translated():
    page = (Path(__file__).parents[1] / "docs" / "port_from_trl.md").read_text(encoding="utf-8")
    from dataclasses import fields

    missing = [f.name for f in fields(GRPOConfig) if f"`{f.name}`" not in page]
    assert not missing
