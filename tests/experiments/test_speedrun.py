"""The clock of `rung speedrun`: what stops it, what it counts, what a broken run does to it, and the control beside it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import rung.experiments.speedrun as speedrun
from rung.cli import main
from rung.experiments.shuffled import Shuffled
from rung.experiments.speedrun import LOOKED_AT, Timed
from rung.experiments.speedrun_row import apart_in_words, busy, markdown, outside
from rung.io.held_out import evaluations
from rung.io.run_dir import RunDir
from rung.records import Completion, Group
from rung.settings.speedrun import Speedrun
from rung.tasks.problems import load_problems

FLAGS = [
    "dr_grpo", "--model", "starter", "--target", "0.55", "--steps", "30", "--decay-steps", "0", "--prompts-per-step", "16",
    "--samples-per-prompt", "8", "--learning-rate", "1e-3", "--max-new-tokens", "24", "--threads", "1",
]  # fmt: skip
ARGS = Speedrun("dr_grpo", model="starter", steps=30, decay_steps=0, prompts_per_step=16, samples_per_prompt=8,
                learning_rate=1e-3, max_new_tokens=24, threads=1, target=0.55)  # fmt: skip
DONE = {
    "seed": 0, "control": False, "reached": True, "steps": 40, "seconds": 366.0, "tokens": 9, "accuracy": 0.91, "low": 0.85,
    "high": 0.97, "dtype": "bfloat16", "cpu": "A Chip", "cores": 2, "threads": 2, "gpu": None, "version": "1.0",
    "started": "2026-01-02T03:04:05+0000", "commit": "0123456789", "dirty": False,
}  # fmt: skip


def test_the_seeds_are_timed_once_and_the_row_is_the_tables(tmp_path, capsys, monkeypatch):
    words = ["speedrun", *FLAGS, "--seeds", "2", "--out", str(tmp_path)]
    assert main([*words, "--json", "-"]) == 0
    table = json.loads(capsys.readouterr().out)
    found = json.loads((tmp_path / "speedrun.json").read_text())["runs"]
    assert [row["seed"] for row in table] == [row["seed"] for row in found] == [0, 1]
    for row in found:
        run = RunDir.open(tmp_path / f"seed-{row['seed']}")
        steps = [r for r in run.metrics() if "step_time" in r]
        last = evaluations(run.metrics())[-1]
        (asked,) = row["confirmations"][-1:]
        assert row["reached"] and row["steps"] == last["step"] == asked["step"] < 30
        assert row["seconds"] == pytest.approx(sum(r["step_time"] for r in steps))
        assert asked["looked"] == last["eval/accuracy"] >= 0.55 and row["accuracy"] == asked["accuracy"] >= 0.55
        assert asked["answers"] == 4 * LOOKED_AT * last["eval/accuracy_n"], "four times as many answers confirm it"
        assert asked["accuracy"] != asked["looked"], "they are others"
        assert row["cpu_seconds"] > 0 and (row["waited"] is None or 0 <= row["waited"] < 1)
    outside = json.loads((tmp_path / "speedrun.json").read_text())["outside"]
    assert outside[:3] == ["the model is starter", "answers have up to 24 tokens", "the target is 0.55"]
    monkeypatch.setattr(speedrun, "train", lambda *a, **b: pytest.fail("trained again"))
    assert main(words) == 0
    said = capsys.readouterr().out
    line = (tmp_path / "row.md").read_text()
    assert (
        said.endswith(line) and "`rung speedrun dr_grpo --target 0.55 --model starter" in line and "--seeds 2`" in line
    )
    assert main([*words[:-4], "--steps", "29", *words[-4:]]) == 2  # a flag given twice
    assert main([*words, "--lora-rank", "2"]) == 2
    assert "lora_rank is 0, not 2" in capsys.readouterr().err


def rewards(path):
    return [row["reward"] for row in RunDir.open(path).metrics() if "reward" in row]


def test_what_was_luck_is_not_believed_and_a_broken_run_goes_on(tmp_path, monkeypatch):
    """The first confirmation fails and the run goes on, exactly as if nobody had asked; in between it is broken off twice."""
    plain = Timed(replace(ARGS, out=tmp_path / "plain", target=1.0, steps=15), 0).timed()
    assert not plain["reached"] and plain["steps"] == 15 and plain["confirmations"] == []

    timed = Timed(replace(ARGS, out=tmp_path / "broken", steps=15), 0)
    real, said, calls = speedrun.evaluated, [], []

    def asked(*args):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("the power failed")
        measured = real(*args)
        wrong = replace(measured.result, answers=[replace(a, reward=0.0) for a in measured.result.answers])
        return measured if len(calls) > 2 else replace(measured, result=wrong)

    def heard(self, evaluation):
        said.append(evaluation.step)
        if evaluation.step == 10 and said.count(10) == 1:
            raise RuntimeError("the power failed")

    monkeypatch.setattr(speedrun, "evaluated", asked)
    monkeypatch.setattr(speedrun.Telling, "on_evaluate", heard)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the power failed"):
            timed.timed()
    row = timed.timed()
    first, second = row["confirmations"]
    assert (
        first["accuracy"] == 0
        and first["looked"] >= 0.55
        and first["step"] == 5
        and second["step"] == row["steps"] == 10
    )
    assert row["reached"] and row["accuracy"] == second["accuracy"] >= 0.55
    assert rewards(tmp_path / "broken/seed-0") == rewards(tmp_path / "plain/seed-0")[:10], "as if nobody had asked"
    steps = [r["step"] for r in RunDir.open(tmp_path / "broken/seed-0").metrics() if "step_time" in r]
    assert steps == list(range(1, 11)), "each step is on the clock once"


def test_shuffled_rewards_teach_nothing_though_each_group_earns_what_it_earned(tmp_path, capsys):
    splits = load_problems("chained_arithmetic")
    task = splits.train[0]
    gold = str(task.data["answer"])
    group = Group(task, [Completion(f"#{gold}")] * 4 + [Completion(f"#{i}") for i in range(8)])
    before, after = splits.train.score(group), Shuffled(splits.train).score(group)
    assert after != before and sorted(map(str, after)) == sorted(map(str, before))
    assert Shuffled(splits.train).score(group) == after, "a run can be repeated"

    words = ["speedrun", *FLAGS, "--control", "--seeds", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    (row,) = json.loads((tmp_path / "speedrun.json").read_text())["control"]
    assert row["steps"] == 30 and not row["reached"] and row["before"] > 0.2
    assert row["accuracy"] < row["before"] + 0.1, "rewards that say nothing teach nothing"
    assert "rewards shuffled" in RunDir.open(tmp_path / "control-0").config()["task"]
    assert " in 30 steps |" in capsys.readouterr().out

    slow = tmp_path / "seed-0"  # where a seed is there, the control takes as long as it did
    slow.mkdir()
    (slow / "result.json").write_text(json.dumps({**DONE, "steps": 3}))
    assert Timed(replace(ARGS, out=tmp_path, control=True), 7).timed()["steps"] == 3


def test_a_seed_that_is_not_at_the_target_takes_longer_than_any():
    late = {**DONE, "seed": 2, "reached": False, "seconds": 700.0}
    rows = [DONE, {**DONE, "seed": 1, "seconds": 240.0, "dirty": True}, late]
    line = markdown(rows, [], Speedrun(out=Path("x"), seeds=3))
    assert line == (
        "| 2026-01-02 | `rung speedrun` | 1.0 (0123456), 1.0 (0123456+) | A Chip, 2 cores, 2 threads | bfloat16 "
        "| 6.1, 4.0, not in 11.7 | 6.1 | 0.910 (0.85 to 0.97); 0.910 (0.85 to 0.97); 0.910 (0.85 to 0.97) |  |\n"
    )
    assert "| - |" in markdown([DONE, late, late], [], Speedrun())
    control = {**DONE, "control": True, "before": 0.1, "accuracy": 0.11, "low": 0.05, "high": 0.2}
    assert markdown([], [control], Speedrun()).endswith("|  | - |  | 0.100 to 0.110 (0.05 to 0.20) in 40 steps |\n")


CONTROL = {**DONE, "control": True, "before": 0.1}
RUNS = [{**DONE, "seed": seed} for seed in range(3)]


@pytest.mark.parametrize(
    ("changed", "runs", "control", "why"),
    [
        ({"model": "starter"}, RUNS, [CONTROL], "the model is starter"),
        ({"task": "gsm8k"}, RUNS, [CONTROL], r"the problems are others \(task\)"),
        ({"task_options": {"max_digits": 2}}, RUNS, [CONTROL], r"others \(task_options.max_digits\)"),
        ({"system": "Calculate.", "reward": "r.py:f"}, RUNS, [CONTROL], r"others \(reward, system\)"),
        ({"target": 0.75}, RUNS, [CONTROL], "the target is 0.75"),
        ({"max_new_tokens": 17}, RUNS, [CONTROL], "up to 17 tokens"),
        ({}, RUNS[:2], [CONTROL], "the seeds are 0, 1, not 0, 1, 2"),
        ({}, [{**run, "seed": run["seed"] + 1000} for run in RUNS], [CONTROL], "the seeds are 1000, 1001, 1002"),
        ({}, RUNS, [], "no control"),
        ({}, RUNS, [{**CONTROL, "steps": 39}], "no control of as many steps"),
    ],
)
def test_a_row_that_breaks_a_rule_says_which(changed, runs, control, why):
    (found,) = outside(runs, control, Speedrun(**changed))
    assert re.search(why, found) and apart_in_words([found])[0].startswith("not the table's")


def test_what_the_rules_leave_open_keeps_nobody_out():
    free = {
        "task": "chain_sum", "task_options": {"train_size": 100}, "lora_rank": 8, "learning_rate": 1e-3, "threads": 1,
        "dtype": "float32", "steps": 90, "prompts_per_step": 4, "max_new_tokens": 12, "overrides": {"data.resample": 1},
    }  # fmt: skip
    assert outside(RUNS, [CONTROL], Speedrun("grpo", **free)) == [] == apart_in_words([])


def test_a_machine_that_had_other_work_is_told():
    rows = [{**DONE, "waited": 0.31}, {**DONE, "seed": 1, "waited": 0.01}, {**DONE, "seed": 2, "waited": None}, DONE]
    assert busy(rows) == ["the machine was busy: in 31% of the time of seed 0 other work had the processor"]


def test_a_recipe_that_is_named_is_taken_as_it_is():
    usual, named = (Timed(Speedrun(recipe), 0).settings.build_recipe() for recipe in (None, "dapo"))
    assert usual.name == named.name == "dapo" and (usual.data.resample, named.data.resample) == (2, 3)
    assert Timed(Speedrun(overrides={"data.resample": 5}), 0).settings.build_recipe().data.resample == 5


@pytest.mark.parametrize(
    ("given", "decay"), [({}, 60), ({"steps": 90}, 60), ({"steps": 3}, 3), ({"steps": 3, "decay_steps": 2}, 2)]
)
def test_the_learning_rate_falls_over_no_more_steps_than_there_are(given, decay):
    args = Speedrun(**given)
    config = Timed(args, 0).settings
    config.resolved()
    assert config.decay_steps == decay
    assert config.eval_every == (2 if "steps" in given and given["steps"] == 3 else 5)
