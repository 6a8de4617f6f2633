"""A run that ends where its evaluation is good enough, and what goes on from there."""

import re
from dataclasses import replace

import pytest

import rung
from rung.cli import main
from rung.errors import InputError
from rung.io.held_out import evaluations
from rung.io.run_dir import RunDir
from rung.training.config import TrainConfig

FLAGS = ["dr_grpo", "--prompts-per-step", "16", "--learning-rate", "1e-3", "--steps", "12", "--threads", "1", "--eval-every", "2",
         "--eval-problems", "128", "--no-save-rollouts"]  # fmt: skip


def looks(path):
    return {row["step"]: row["eval/accuracy"] for row in evaluations(RunDir.open(path).metrics())}


def test_it_ends_with_the_first_evaluation_at_the_aim_and_resume_goes_on(tmp_path, capsys):
    path = tmp_path / "run"
    assert main(["train", *FLAGS, "--until", "0.4", "--out", str(path)]) == 0
    first = looks(path)
    *before, last = first.values()
    assert last >= 0.4 > max(before) and max(first) < 12
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"held-out accuracy 0\.\d+, at least 0\.4, ended the run after step {max(first)}", said)
    assert RunDir.open(path).model_path().name == f"step_{max(first):06d}", "it is saved there"

    assert main(["train", "--resume", str(path)]) == 0
    assert len(looks(path)) == len(first) + 1, "to the next evaluation that is good enough"
    assert main(["train", "--resume", str(path), "--until", "1"]) == 0
    assert max(looks(path)) == 12, "or to the end, where none is"


def test_a_model_that_is_there_already_takes_no_step(tmp_path):
    run = rung.train(
        until=0.1, steps=3, eval_problems=64, prompts_per_step=2, threads=1, out=tmp_path / "run", quiet=True
    )
    assert run.steps == 0 and "at least 0.1" in run.stopped


def test_rewards_on_another_scale_are_judged_by_their_mean(tmp_path):
    def length(prompts, completions):
        return [-float(len(c)) for c in completions]

    run = rung.train(
        until=-1e6,
        steps=3,
        reward=length,
        eval_problems=8,
        prompts_per_step=2,
        threads=1,
        out=tmp_path / "run",
        quiet=True,
    )
    assert run.steps == 0 and "held-out mean reward -" in run.stopped


def test_it_is_looked_at_whatever_that_takes_and_a_run_without_a_look_is_refused():
    dear = {"prompts_per_step": 1, "samples_per_prompt": 1, "steps": 20}
    assert TrainConfig(**dear).resolved().eval_every == 0
    assert TrainConfig(**dear, until=0.9).resolved().eval_every == 2
    with pytest.raises(InputError, match=re.escape("until=0.9 with eval_every=0: nothing is evaluated before the end")):
        TrainConfig(until=0.9, eval_every=0).resolved()
    few = TrainConfig(until=0.9, eval_every=20, steps=20)
    with pytest.raises(
        InputError, match=r"until=0\.9 with eval_every=20: the run has 20 steps, so nothing is evaluated before"
    ):
        few.resolved()
    assert replace(few, eval_every=19).resolved().eval_every == 19
    assert replace(few, steps=1, eval_every=None).resolved().eval_every == 1, "one step is a whole run"
    with pytest.raises(InputError, match="the run has 10 steps"):  # at most
        TrainConfig(until=0.9, eval_every=50, tokens=640, samples_per_prompt=2).resolved()


def test_settings_that_do_not_go_together_are_refused_all_at_once():
    with pytest.raises(InputError) as refused:
        TrainConfig(
            steps=8, decay_steps=9, warmup_steps=10, lora_rank=2, trainable="x", until=0.9, eval_every=0
        ).resolved()
    names = ("lora_rank=2 with", "decay_steps=9 in", "warmup_steps=10 in", "until=0.9 with eval_every=0")
    assert [line[: len(name)] for line, name in zip(refused.value.found, names, strict=True)] == list(names)
    assert all(line in str(refused.value) for line in refused.value.found)
