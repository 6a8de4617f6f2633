"""A run's evaluations: of one kind, each written once, and a resumed run has the same first one."""

import json
import math

import pytest

import rung
from rung.io.held_out import evaluations, kind
from rung.io.run_dir import RunDir
from rung.records import Task
from rung.tasks.environments.protocol import Splits

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "max_new_tokens": 6, "threads": 1}


class Paid:
    """Sums whose answers earn what `pay(text)` says."""

    def __init__(self, pay):
        self.pay = pay

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return Task(str(i), f"{i % 10}+{i // 10}=")

    def score(self, group):
        return [{"r": self.pay(c.text)} for c in group.completions]


def train(out, pay, eval_pay=None, **more):
    splits = Splits("paid", Paid(pay), Paid(eval_pay or pay), 6)
    return rung.train(**{**SMALL, "recipe": "dr_grpo", "task": splits, "steps": 2, "out": out, **more})


def odd(text):
    return float(len(text) % 2)


def test_a_reward_that_declares_nothing_is_found_out(tmp_path, capsys):
    run = train(tmp_path / "run", lambda text: 2.0 + len(text) % 3)
    said = " ".join(capsys.readouterr().out.split())
    assert "held-out mean reward" in said and "accuracy" not in said and "right" not in said and "wrong" not in said
    assert math.isnan(run.before.accuracy) and 2 <= run.before.reward <= 4
    for row in evaluations(run.metrics):
        assert not any(name.startswith("eval/accuracy") for name in row)
        low, high = row["eval/reward_ci_low"], row["eval/reward_ci_high"]
        assert low is None or 2 <= low <= row["eval/reward"] <= high <= 4


def test_rewards_of_zero_and_one_are_an_accuracy(tmp_path, capsys):
    run = train(tmp_path / "run", odd)
    said = capsys.readouterr().out
    assert "held-out accuracy" in said and ("right" in said or "wrong" in said)
    assert run.before.accuracy == run.before.reward == run.metrics[0]["eval/accuracy"]


def test_a_kind_that_becomes_known_later_holds_for_all_that_is_shown(tmp_path, capsys):
    """Nothing earns anything before training; then some answers earn 12.5."""
    calls = iter(range(10_000))
    run = train(tmp_path / "run", odd, lambda text: 0.0 if next(calls) < 8 else 12.5 * odd(text))
    said = capsys.readouterr().out
    assert "held-out at step 0: accuracy 0.000" in said, "true when it was written"
    later = said.partition("held-out at step 2: reward")[2]
    assert "held-out mean reward" in later and "accuracy" not in later
    assert math.isnan(run.before.accuracy) and run.before.reward == 0.0
    first, last = evaluations(run.metrics)
    assert first["eval/accuracy"] == 0.0, "true when it was written: all rewards were 0 or 1 so far"
    assert "eval/accuracy" not in last and kind([first, last]) == "reward" and kind([first]) == "accuracy"


def test_held_out_answers_without_a_score_are_said_and_in_no_mean(tmp_path, capsys):
    calls = iter(range(10_000))
    run = train(tmp_path / "run", odd, lambda text: math.nan if next(calls) % 8 < 3 else 1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("3 held-out answers could not be scored; they are in no mean. Likely cause") == 1
    assert "n = 5, 3 of 8 answers not scored" in said and run.before.accuracy == 1.0
    assert run.metrics[0]["eval/unscored"] == 3 and run.metrics[0]["eval/accuracy"] == 1.0


def test_held_out_answers_of_which_none_is_scored_have_no_accuracy(tmp_path, capsys):
    run = train(tmp_path / "run", odd, lambda text: math.nan)
    said = " ".join(capsys.readouterr().out.split())
    assert "no held-out answer could be scored, so there is no accuracy and no mean" in said
    assert (
        "none of the 8 answers could be scored, so there is no number" in said
        and "0.000" not in said.split("held-out")[1]
    )
    assert math.isnan(run.before.accuracy) and "eval/accuracy" not in run.metrics[0]


def files(run):
    return {p.name: p.read_bytes() for p in sorted((run / "evaluations").iterdir())}


@pytest.mark.parametrize("pay", [odd, lambda text: 3.0 * (len(text) % 3)], ids=["binary", "graded"])
def test_before_of_a_resumed_run_is_the_runs_before(tmp_path, pay, capsys):
    whole = train(tmp_path / "whole", pay, steps=4)
    train(tmp_path / "part", pay, steps=2)
    kept = files(tmp_path / "part")["step_000000.jsonl"]
    capsys.readouterr()
    done = train(tmp_path / "part", pay, steps=4, resume=True)
    assert done.before.means == whole.before.means and done.after.means == whole.after.means
    assert [a.text for a in done.before.answers] == [a.text for a in whole.before.answers]
    assert files(tmp_path / "part")["step_000000.jsonl"] == kept
    assert [row["step"] for row in evaluations(done.metrics)] == [0, 2, 4]
    said = capsys.readouterr().out
    assert f"  before, step 0    {whole.before.reward:.3f}" in said


def test_a_finished_run_that_is_resumed_adds_no_evaluation(tmp_path):
    done = train(tmp_path / "run", odd)
    rows, kept = done.metrics, files(done.path)
    again = train(tmp_path / "run", odd, resume=True)
    assert evaluations(again.metrics) == evaluations(rows) and files(done.path) == kept
    assert again.after.means == done.after.means and all(a.rollout.tokens for a in again.after.answers)


def test_an_evaluation_that_is_gone_is_said(tmp_path, capsys):
    train(tmp_path / "run", odd)
    (tmp_path / "run" / "evaluations" / "step_000000.jsonl").unlink()
    train(tmp_path / "run", odd, steps=3, resume=True)
    assert "`before` is that of step 2" in " ".join(capsys.readouterr().out.split())


def test_answers_in_a_file_are_whole_or_not_there(tmp_path):
    run = train(tmp_path / "run", odd)
    rows = [json.loads(line) for line in (run.path / "evaluations" / "step_000002.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == [a.task.id for a in run.after.answers]
    assert RunDir.open(run.path).metrics() == run.metrics
