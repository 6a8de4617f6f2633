"""Our own defaults never refuse a task: what the user did not set is lowered, with a note; what was set is refused."""

import json
from dataclasses import replace

import pytest

from rung.cli import main
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.io.run_dir import RunDir
from rung.records import Task
from rung.tasks.environments.protocol import Splits
from rung.tasks.registry import load
from rung.training import defaults
from rung.training.config import TrainConfig


class Problems:
    """Problems with prompts of given lengths in words, which are tokens of the tiny model's."""

    def __init__(self, *lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        return Task(str(i), " ".join(["w5"] * self.lengths[i]))

    def score(self, group):
        return [{"right": 1.0} for _ in group.completions]


def rows(path, count=9):
    path.write_text("".join(json.dumps({"prompt": f"{i}+2=", "answer": str(i + 2)}) + "\n" for i in range(count)))
    return str(path)


def test_a_small_file_and_the_default_model_train_without_a_flag(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--task", rows(tmp_path / "rows.jsonl"), "--steps", "1", "--eval-problems", "4"]) == 0
    out = capsys.readouterr().out
    config = RunDir.open("runs/dr_grpo-starter-1").config()
    assert config["prompts_per_step"] < 9 and config["max_new_tokens"] < 128
    assert f"note: {config['prompts_per_step']} prompts a step and not 32" in out
    assert f"note: answers of at most {config['max_new_tokens']} tokens and not 256" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompts-per-step", "32"], "prompts_per_step is 32, but the task has only"),
        (["--max-new-tokens", "256"], "the answer may have 256"),
    ],
)
def test_what_the_user_set_is_refused_with_numbers(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--task", rows(tmp_path / "rows.jsonl"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "command", ["train --dry-run", "plan", "eval starter", "variance starter --batches 3 --recipes grpo"]
)
def test_every_command_lowers_alike(tmp_path, capsys, command):
    small = ["--prompts-per-step", "2"] if "variance" in command else []
    assert main([*command.split(), "--task", rows(tmp_path / "rows.jsonl"), *small]) == 0
    assert "and not 256, for the model's context holds" in capsys.readouterr().err


def test_one_long_prompt_does_not_cut_every_answer():
    codec = tiny("llama").codec
    splits = Splits("p", Problems(*[10] * 63), Problems(*[10] * 36, codec.context - 5), max_new_tokens=10**6)
    assert defaults.shortened(splits, codec).max_new_tokens == codec.context - len(codec.encode(splits.train[0].prompt))
    fits = replace(splits, max_new_tokens=7)
    assert defaults.shortened(fits, codec) is fits
    none = Splits("p", Problems(codec.context + 1), Problems(codec.context + 1))
    assert defaults.shortened(none, codec) is none, "that no prompt fits is said with numbers where it is met"


@pytest.mark.parametrize("sides", [((), (4,)), ((4,), ())])
def test_a_side_without_problems_is_one_message(sides):
    with pytest.raises(InputError, match=r"the task p has no (training|held-out) problems"):
        defaults.by_task(TrainConfig(), Splits("p", *(Problems(*side) for side in sides)))


def test_a_budget_of_tokens_counts_with_the_lowered_batch():
    config, _ = defaults.by_task(TrainConfig(tokens=800), Splits("p", Problems(*[4] * 10), Problems(4)))
    assert (config.prompts_per_step, config.steps) == (10, 10)


def test_all_rows_for_evaluation_leave_nothing_to_train_on(tmp_path):
    splits = load(rows(tmp_path / "rows.jsonl"), options={"eval_share": 1.0})
    with pytest.raises(InputError, match=r"no training problems.*eval_share"):
        defaults.by_task(TrainConfig(), splits)
