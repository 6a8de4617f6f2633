"""Nothing that is there is overwritten: every flag that names a file to be written refuses one that exists, before any work."""

import pytest

from rung.cli import COMMANDS, main
from rung.experiments.runs import write_json
from rung.shell.help import flags_of, more_of

LEAST = {
    "ask": ["starter", "1+1="], "eval": ["starter", "--problems", "1"], "plan": [], "data": ["chained_arithmetic"],
    "verify": ["--task", "chained_arithmetic"], "recipes": [], "explain": ["grpo"], "diff": ["grpo", "dr_grpo"],
    "export": ["grpo", "--to", "trl"], "import": ["trl", "config.yaml"],
    "audit": ["reinforce"], "why": ["gspo"], "ladder": [], "variance": ["starter"], "report": ["run"],
    "speedrun": [],
    "train": ["--steps", "1"], "starter": [], "smollm2": [],
}  # fmt: skip
FILES = ("json", "markdown", "out")
FLAGS = [(name, flag) for name, command in COMMANDS.items() for flag in FILES
         if f"--{flag}" in {f.name for f in [*flags_of(command.flags).values(), *more_of(command.flags, name)]}
         and (name, flag) != ("plan", "out")]  # which writes no run  # fmt: skip


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_a_file_that_exists_is_refused_and_stays(name, flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("my own words")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("steps = 1")
    assert main([name, *LEAST[name], f"--{flag}", "mine.txt"]) == 2
    said = capsys.readouterr()
    assert "mine.txt" in said.err and not said.out.strip()
    assert (tmp_path / "mine.txt").read_text() == "my own words"
    assert sorted(x.name for x in tmp_path.iterdir()) == ["mine.txt", "run"]


def test_every_flag_for_a_file_is_here():
    assert {name for name, _ in FLAGS} == LEAST.keys()
    for name, command in COMMANDS.items():
        for flag in flags_of(command.flags).values():
            if "write" in flag.text and "file" in flag.text:
                assert (name, flag.name.removeprefix("--")) in FLAGS, f"{name} {flag.name} may write a file, too"


def test_a_result_of_ours_that_changes_stays_beside_the_new_one(tmp_path):
    path = tmp_path / "ladder.json"
    for value in (1, 1, 2):
        write_json(path, {"value": value})
    assert sorted(x.name for x in tmp_path.iterdir()) == ["ladder.json", "ladder.json.bak-1"]
    assert '"value": 1' in (tmp_path / "ladder.json.bak-1").read_text()
