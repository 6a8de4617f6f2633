"""A path that begins with ~ is read in one way, whoever gives it: it leads home, or nobody has that home and a message says so."""

import json
import os
from pathlib import Path

import pytest

import rung
from rung.cli import COMMANDS, main
from rung.errors import InputError
from rung.experiments.runs import python_files
from rung.io.origin import hashes
from rung.io.run_dir import RunDir
from rung.network.place import place
from rung.settings.paths import path_of
from rung.shell.help import flags_of
from rung.tasks.problems import load_problems
from rung.tasks.rewards.python_file import load_object
from rung.training.config import typed_settings

SOURCE = Path(rung.__file__).parent
LOST = "~nobody-here/x"
PLAIN = {  # flags whose text is no path
    "--device", "--prompt-column", "--answer-column", "--verifier", "--system", "--prompt-template", "--trainable",
    "--lora-targets", "--sampler", "--split", "--rates", "--bounds",
}  # fmt: skip
ENDS = {"--reward": ".py:f", "--of": ".py:f", "--advantages": ".py:f", "--environment": ".py:f", "--task": ".jsonl"}
LEAST = {
    "ask": ["starter", "1+1="], "eval": ["starter"], "data": ["chained_arithmetic"], "verify": ["--task", "chained_arithmetic"],
    "explain": ["grpo"], "diff": ["grpo", "dr_grpo"], "export": ["grpo", "--to", "trl"], "import": ["trl", "x.yaml"],
    "why": ["gspo"], "variance": ["starter"], "report": ["run"], "train": ["--steps", "1"],
}  # fmt: skip
FLAGS = [
    (name, flag.name) for name, command in COMMANDS.items() for flag in flags_of(command.flags).values()
    if flag.takes in ("PATH", "TEXT") and not flag.choices and flag.name not in PLAIN
]  # fmt: skip
WORDS = [
    ("ask", LOST, "1+1="), ("eval", LOST), ("report", LOST), ("data", f"{LOST}.jsonl"), ("explain", LOST), ("diff", "grpo", LOST),
    ("diff", LOST, "grpo"), ("export", LOST, "--to", "trl"), ("import", "trl", f"{LOST}.yaml"), ("variance", LOST),
    ("train", LOST), ("train", "--resume", LOST), ("train", "--config", f"{LOST}.toml"), ("explain", "~nobody-here"),
    ("train", "--model", "~nobody-here"), ("train", "--task", f"{LOST}.toml"), ("train", "--task", f"{LOST}:1,gsm8k:1"),
    ("speedrun", LOST), ("ladder", "--recipes", f"grpo,{LOST}"), ("why", LOST), ("audit", LOST),
]  # fmt: skip
CASES = WORDS + [
    (name, *(w for w in LEAST.get(name, []) if w not in (flag, "chained_arithmetic" if flag == "--task" else flag)),
     f"{flag}={LOST}{ENDS.get(flag, '')}") for name, flag in FLAGS
]  # fmt: skip


def test_one_place_reads_a_home():
    assert [x.name for x in SOURCE.rglob("*.py") if "expanduser" in x.read_text(encoding="utf-8")] == ["paths.py"]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_home_that_nobody_has_is_refused_with_one_message(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.err.count("rung: ") == 1 and "Traceback" not in said.err and not said.out
    no_path = words[0] not in ("explain", "diff", "export") and "unknown recipe '~nobody-here" in said.err
    assert no_path or ("'nobody-here'" in said.err and "Write the whole path" in said.err)
    assert not [*tmp_path.iterdir()], "nothing is written into a folder called ~nobody-here"


@pytest.mark.parametrize(
    "call",
    [
        lambda: rung.train(model=LOST), lambda: rung.train(out=LOST), lambda: rung.train(resume=LOST), lambda: rung.load(LOST),
        lambda: rung.evaluate(LOST), lambda: rung.train(task=f"{LOST}.jsonl"), lambda: RunDir.create(None, "x", Path(LOST)),
    ],
    ids=("model", "out", "resume", "load", "evaluate", "task", "create"),
)  # fmt: skip
def test_nor_is_it_taken_in_python(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'nobody-here'.*Write the whole path"):
        call()
    assert not [*tmp_path.iterdir()]


def test_one_who_has_no_home_is_told(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", os.fspath)
    with pytest.raises(InputError, match=r"~/x: ~ stands for your home, and \$HOME says of none"):
        path_of("~/x")


def test_a_home_is_found_behind_an_equals_sign_and_in_python(tmp_path, monkeypatch, capsys):
    """A shell leaves ~ alone there, and a folder called ~ would be made."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert main(["recipes", "--json=~/recipes.json"]) == 0 and json.loads((home / "recipes.json").read_text())
    (home / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "1+2=", "answer": "3"}\n')
    assert main(["verify", "--task=~/rows.jsonl"]) == 0
    (home / "mix.toml").write_text("[[part]]\ntask = '~/rows.jsonl'\n")
    assert len(load_problems("~/mix.toml").train) == 1
    (home / "own.py").write_text("def f(completions): return [1.0] * len(completions)\n")
    assert load_object("~/own.py:f", "reward")(["x"]) == [1.0]
    assert python_files("~/own.py:f") == [home / "own.py"], "a change of it makes another experiment"
    assert hashes({"reward": "~/own.py:f"}).keys() == {"reward"}
    assert typed_settings({"out": "~/run"})["out"] == home / "run"
    assert RunDir.create(None, "x", Path("~/run")).path == home / "run"
    (home / "model").mkdir()
    (home / "model/config.json").write_text("{}")
    assert place("~/model").name == str(home / "model")
    assert path_of(Path("a/~b")) == Path("a/~b") and path_of("/~b") == Path("/~b"), "elsewhere it is a letter"
    assert not [*here.iterdir()]
