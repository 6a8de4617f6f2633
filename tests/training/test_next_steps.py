"""Every command that is printed as the next one works as printed, whatever the run was made of."""

import ast
import json
import re
import shlex
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import rung
import rung.parts as p
from rung import advice
from rung.cli import main
from rung.recipe_io import find
from rung.tasks.registry import load
from rung.training.config import TrainConfig
from rung.training.next_steps import resuming, when_done

SMALL = {"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1}
ROWS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 5) for b in range(1, 5)]


def pay(completions, **columns):
    return [float(len(text) % 2) for text in completions]


@dataclass(frozen=True)
class Own(p.LeaveOneOut):
    """A_i = R_i - mean of the others."""


def objects(kind, tmp_path):
    """Arguments of rung.train, and those that are needed again in Python."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "pay.py").write_text("def pay(completions, **columns):\n    return [0.5] * len(completions)\n")
    model = (
        rung.load(rung.train("reinforce", **SMALL, out=tmp_path / "base", quiet=True).path).load()
        if kind == "model"
        else None
    )
    return {
        "starter": {}, "file": {"task": "rows.jsonl"}, "reward file": {"task": "rows.jsonl", "reward": "pay.py:pay"},
        "options": {"recipe": "ppo", "overrides": {"surrogate.high": 0.3, "update.minibatches": 2}}, "rows": {"task": ROWS},
        "function": {"task": "rows.jsonl", "reward": pay}, "environment": {"environment": load("chained_arithmetic").train},
        "model": {"model": model, "task": "chained_arithmetic"},
        "recipe": {"recipe": replace(find("rloo"), name="own", credit=Own())},
        "directory named as a recipe": {"out": "grpo"},
    }[kind]  # fmt: skip


KINDS = ("starter", "file", "reward file", "options", "rows", "function", "environment", "model", "recipe",
         "directory named as a recipe")  # fmt: skip


def printed(out):
    """What stands below `next`."""
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("next "))
    return [line[9:].rstrip() for line in lines[first:] if line[:9].strip() in ("", "next")]


def runs(step, given):
    """Do what the line says, with what it leaves open."""
    if step.startswith("rung "):
        return main(shlex.split(step)[1:]) == 0
    call = step.removesuffix(" in Python").replace("=...", "={}")
    names = re.findall(r"(\w+)=\{\}", call)
    tree = ast.parse(call, mode="eval")
    assert names and set(names) <= given.keys(), "what it wants again is what was given"
    code = re.sub(r"(\w+)=\{\}", r"\1=given['\1']", call)
    assert isinstance(tree.body, ast.Call)
    return eval(code, {"rung": rung, "given": given}) is not None  # noqa: S307  our own line


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_prints_as_next_works(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advice, "_program", lambda: "rung")
    given = objects(kind, tmp_path)
    capsys.readouterr()
    rung.train(**{"out": "run", **SMALL, **given})
    steps = printed(capsys.readouterr().out)
    assert len(steps) == (3 if kind == "recipe" else 4) and any("rung ask" in step for step in steps)
    for step in steps:
        assert runs(step, given), step
    said = capsys.readouterr().out
    if kind == "options":
        assert "surrogate is Clip(high=0.3), not Clip()" in said, "the recipe as it was trained"


@pytest.mark.parametrize("kind", ["starter", "rows", "function", "model"])
def test_what_an_interrupted_run_prints_goes_on_with_it(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advice, "_program", lambda: "rung")
    given = objects(kind, tmp_path)
    stop = lambda record: signal.raise_signal(signal.SIGINT)  # noqa: E731
    rung.train(
        **{"out": "run", **SMALL, "steps": 3, **given}, callbacks=[type("Stop", (), {"on_step": staticmethod(stop)})()]
    )
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "go on with: " in x]
    assert runs(line.partition("go on with: ")[2], given)
    assert rung.load("run").steps == 3


def test_a_question_that_reads_as_a_flag_is_left_out():
    config, path = TrainConfig(), Path("runs/a b")
    for question, words in (("-3+4=", 4), ("--help", 3), ("-h", 3), ("a\nb", 3), (None, 3)):
        ask = when_done(path, config, find("grpo"), question)[0]
        assert len(shlex.split(ask.partition("ask")[2])) == words - 2, ask
    assert "'runs/a b'" in resuming(path, config)
