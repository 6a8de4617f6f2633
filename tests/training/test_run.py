"""A whole run: what it leaves on disk, that it resumes bit for bit, and that Ctrl-C leaves a model that loads."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rung
from rung.cli import main
from rung.errors import InputError
from rung.io.run_dir import RunDir
from rung.training.config import TrainConfig

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "threads": 1}
FLAGS = ["--prompts-per-step", "4", "--samples-per-prompt", "4", "--eval-problems", "8", "--threads", "1"]


def test_a_run_leaves_everything_that_is_needed_to_read_and_repeat_it(tmp_path):
    run = rung.train(recipe="dr_grpo", steps=2, out=tmp_path / "run", **SMALL)
    saved = RunDir.open(run.path)
    assert (
        saved.config()["recipe"] == "dr_grpo"
        and saved.config()["expanded_recipe"]["aggregate"]["part"] == "FixedBudget"
    )
    steps = [m for m in saved.metrics() if "reward" in m]
    assert [m["step"] for m in steps] == [1, 2]
    for name in (
        "reward",
        "frac_reward_zero_std",
        "completions/mean_length",
        "entropy",
        "grad_norm",
        "num_tokens",
        "time/sample",
    ):
        assert name in steps[0]
    evals = [m for m in saved.metrics() if "eval/accuracy" in m]
    assert (
        evals[0]["step"] == 0
        and evals[0]["eval/accuracy_ci_low"] <= evals[0]["eval/accuracy"] <= evals[0]["eval/accuracy_ci_high"]
    )
    rows = saved.read_rollouts(2)
    assert len(rows) == 16
    assert len(rows[0]["tokens"]) == len(rows[0]["logp"]) == len(rows[0]["advantages"])
    path = saved.model_path()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert tokenizer.decode(tokenizer("1+2=")["input_ids"]) == "1+2=" and model.num_parameters() < 100_000
    assert "torch" in (run.path / "environment.json").read_text()


@pytest.mark.parametrize("recipe", ["grpo", "ppo", "moving_average", "dapo"])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, recipe):
    whole = rung.train(recipe=recipe, steps=4, out=tmp_path / "whole", **SMALL)
    rung.train(recipe=recipe, steps=2, out=tmp_path / "part", **SMALL)
    part = rung.train(recipe=recipe, steps=4, out=tmp_path / "part", resume=True, **SMALL)
    a, b = ([m for m in r.metrics if "reward" in m] for r in (whole, part))
    assert [m["step"] for m in b] == [1, 2, 3, 4]
    for x, y in zip(a, b, strict=True):
        same = {k for k in x if not k.startswith(("time/", "memory/")) and k != "step_time"}
        assert {k: x[k] for k in same} == {k: y[k] for k in same}
    weights = [
        AutoModelForCausalLM.from_pretrained(RunDir.open(r.path).model_path()).state_dict() for r in (whole, part)
    ]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_evaluations_on_the_way_change_no_step_and_are_shown_with_their_step(tmp_path, capsys):
    runs = [rung.train(recipe="grpo", steps=4, out=tmp_path / str(n), eval_every=n, **SMALL) for n in (0, 1)]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("held-out at step ")]
    assert [int(line.split()[3].rstrip(":")) for line in shown] == [0, 4, 0, 1, 2, 3, 4]
    assert all("   asked " in line and "   said " in line for line in shown)
    weights = [AutoModelForCausalLM.from_pretrained(RunDir.open(r.path).model_path()).state_dict() for r in runs]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_ctrl_c_finishes_the_step_and_saves_and_prints_how_to_go_on(tmp_path, capsys):
    command = [
        sys.executable,
        "-m",
        "rung.cli",
        "train",
        "grpo",
        "--steps",
        "100000",
        "--out",
        str(tmp_path / "run"),
        *FLAGS,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    AutoModelForCausalLM.from_pretrained(RunDir.open(tmp_path / "run").model_path())
    printed = shlex.split(out.replace("\n", " ").partition("go on with: ")[2])
    words = printed[printed.index("train") : printed.index("--resume") + 2]
    assert words == ["train", "--resume", str(tmp_path / "run")]
    done = max(m["step"] for m in RunDir.open(tmp_path / "run").metrics())
    assert main([*words, "--steps", str(done + 1)]) == 0, capsys.readouterr().err
    assert RunDir.open(tmp_path / "run").config()["recipe"] == "grpo"


REFUSED = [
    (["train", "gropo"], ["unknown recipe 'gropo'", "Did you mean 'grpo'"]),
    (["train", "--model", "smolm2"], ["Did you mean 'smollm2'"]),
    (["train", "--model", "/no/such/model"], ["no such directory"]),
    (["train", "--task", "chained_arithmetc"], ["Did you mean 'chained_arithmetic'"]),
    (["train", "--task", "nothing.jsonl"], ["does not exist"]),
    (["train", "--task", "gsm8k"], ["--task-path"]),
    (["train", "--recipe.surrogate.hi", "3"], ["Clip has no 'hi'", "high"]),
    (["train", "--samples-per-prompt", "1"], ["a group of one has nothing to compare with"]),
    (["train", "--top-p", "0.9"], ["biased"]),
    (["train", "--temperature", "0"], ["--temperature 1"]),
    (["train", "--max-new-tokens", "1000"], ["context holds"]),
    (["train", "--config", "nothing.toml"], ["there is no such file"]),
    (["train", "--resume"], ["--resume RUN"]),
    (["explain", "drgpo"], ["unknown recipe"]),
    (["trian"], ["Did you mean 'train'"]),
    (["eval", "starter", "--task", "gsm8k", "--task-path", "nothing"], ["does not exist"]),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=lambda x: " ".join(x)[:40])
def test_bad_input_is_one_message_and_exit_status_2(words, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert all(w in err for w in why) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_a_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["train", "--steps", "1", "--out", str(tmp_path), *FLAGS]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert [x.name for x in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_steps": 5, "tokens": 1000}, "steps=... instead of tokens="),
        ({"decay_steps": -1}, "decay_steps is -1"),
        ({"decay_steps": 6, "steps": 5}, "run of 5 steps"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings).resolved()


def test_an_unknown_key_of_a_config_file_is_refused_with_the_nearest(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("learning_rat = 1e-3\n")
    assert main(["train", "--config", str(tmp_path / "run.toml")]) == 2
    assert "Did you mean 'learning_rate'" in capsys.readouterr().err


def test_a_runs_own_config_file_repeats_it(tmp_path):
    first = rung.train(recipe="grpo", steps=1, out=tmp_path / "a", overrides={"surrogate.high": 0.3}, **SMALL)
    assert main(["train", "--config", str(first.path / "config.toml"), "--out", str(tmp_path / "b")]) == 0
    a, b = ([m["reward"] for m in RunDir.open(tmp_path / x).metrics() if "reward" in m] for x in "ab")
    assert a == b


@pytest.mark.parametrize(
    "words", [["recipes"], ["explain", "ppo"], ["diff", "grpo", "dr_grpo"], ["recipes", "--json", "-"], ["--help"]]
)
def test_the_ladder_prints(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out


def test_eval_of_a_run_knows_its_task(tmp_path, capsys):
    run = rung.train(recipe="reinforce", steps=1, out=tmp_path / "run", **SMALL)
    capsys.readouterr()
    assert (
        main(["eval", str(run.path), "--problems", "8", "--json", "-", "--out", str(tmp_path / "answers.jsonl")]) == 0
    )
    (row,) = json.loads(capsys.readouterr().out)
    assert row["task"] == "chained_arithmetic" and row["problems"] == 8 and 0 <= row["accuracy"] <= 1
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 8


def test_a_budget_of_tokens_is_evaluated_within(tmp_path):
    settings = {**SMALL, "tokens": 600, "eval_problems": 2}
    settings.pop("steps", None)
    made = rung.train(recipe="grpo", out=tmp_path / "run", **settings)
    at = [row["step"] for row in made.metrics if "eval/reward" in row]
    assert 4 < len(at) <= 11 and max(b - a for a, b in pairwise(at)) <= 0.4 * made.steps
    assert "eval_every" not in made.config and made.steps < made.config["steps"] / 2
