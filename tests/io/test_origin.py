"""A run is read from any folder, and says so if the files that it began with were edited since."""

from pathlib import Path

import pytest

from rung.cli import main
from rung.errors import InputError, typed
from rung.io.origin import edited, hashes, placed
from rung.io.run_dir import RunDir
from rung.training.config import TrainConfig, from_toml, to_toml
from rung.training.resume import agreed, begun, finished, settings_apart

SETTINGS = {"task": "sums.jsonl", "reward": "rew.py:score", "environment": None, "model": "a.b/c", "task_path": None}


@pytest.fixture
def begun_here(tmp_path, monkeypatch):
    """Begun in tmp/mine, which is left afterwards."""
    home = tmp_path / "mine"
    home.mkdir()
    (home / "sums.jsonl").write_text("".join(f'{{"prompt": "{i}+1=", "answer": "{i + 1}"}}\n' for i in range(9)))
    (home / "rew.py").write_text("def score(prompts, completions, **columns):\n    return [1.0] * len(completions)\n")
    monkeypatch.chdir(home)
    config = TrainConfig(recipe="grpo", task="sums.jsonl", reward="rew.py:score", steps=2).resolved()
    with RunDir.create(None, "x") as run:
        run.write_config(to_toml(config, config.build_recipe()))
        run.write_environment()
    monkeypatch.chdir(tmp_path)
    return home / run.path


def test_relative_paths_lead_from_where_the_run_was_started(begun_here, tmp_path, monkeypatch):
    home = begun_here.parent.parent
    assert RunDir.open(begun_here).environment()["directory"] == str(home)
    (tmp_path / "sums.jsonl").write_text("another file of that name")
    config, _ = begun(begun_here)
    assert (config.task, config.reward) == (str(home / "sums.jsonl"), f"{home / 'rew.py'}:score")
    monkeypatch.chdir(home)
    assert begun(begun_here)[0].task == "sums.jsonl", "in the same folder nothing is rewritten"


def test_a_run_that_did_not_write_it_down_is_looked_for_two_folders_above(begun_here, tmp_path):
    (begun_here / "environment.json").unlink()
    home, run = begun_here.parent.parent, RunDir.open(begun_here)
    assert placed(SETTINGS, run)["task"] == str(home / "sums.jsonl")
    (tmp_path / "sums.jsonl").write_text("here")
    assert placed(SETTINGS, run)["task"] == "sums.jsonl", "a guess does not go before a file that is here"
    assert placed({"task": "chained_arithmetic", "environment": "gymnasium:A.b"}, run)["task"] == "chained_arithmetic"


def test_an_edited_file_is_said_when_the_run_goes_on(begun_here):
    config = RunDir.open(begun_here).config()
    assert set(config["files"]) == {"task", "reward"} and "files" not in from_toml(begun_here / "config.toml")
    assert not any("edited" in line for line in agreed(begun(begun_here)[0])[2])
    with (begun_here.parent.parent / "rew.py").open("a") as file:
        file.write("# another rule\n")
    (said,) = agreed(begun(begun_here)[0])[2]
    assert "rew.py:score was edited since the run began" in said and "(reward)" in said
    here = begun(begun_here)[0]
    assert edited(vars(here), hashes(vars(here))) == [] == edited(vars(here), {}), "older runs have no hashes"


def test_a_finished_run_does_not_finish_again(begun_here, capsys, monkeypatch):
    config = begun(begun_here)[0]
    with RunDir.open(begun_here, write=True) as run:
        run.checkpoint(2, lambda folder: (folder / "x").write_text("x"))
        assert finished(config) == "", "its last evaluation is still to come"
        run.log({"step": 2, "eval/reward": 1.0})
    monkeypatch.setattr("rung.training.loop.train", lambda *_: pytest.fail("it trains"))
    assert main(["train", "--resume", str(begun_here)]) == 0
    said = capsys.readouterr().out
    assert "already at step 2 of 2" in said and f"train --resume {begun_here} --steps 4" in said
    assert finished(TrainConfig(**{**vars(config), "steps": 3})) == ""


def test_two_runs_of_one_recipe_name_the_settings_in_which_they_differ(begun_here, tmp_path, capsys):
    other = TrainConfig(recipe="grpo", task="sums.jsonl", steps=3).resolved()
    with RunDir.create(None, "", tmp_path / "other") as run:
        run.write_config(to_toml(other, other.build_recipe()))
    assert settings_apart(str(begun_here), "grpo") is None
    assert main(["diff", str(begun_here), str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "x-1 and other: the same recipe; other settings differ:" in said and "reward" in said and "steps" in said
    assert main(["diff", str(begun_here), str(begun_here)]) == 0
    assert "compute the same, with the same settings." in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["eval", "RUN"], ["ask", "RUN", "1+1="], ["report", "RUN"], ["train", "--resume", "RUN"]]
)
def test_the_word_RUN_stands_for_a_folder(words, begun_here, monkeypatch, capsys):
    monkeypatch.chdir(begun_here.parent.parent)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "RUN stands for the folder of a run" in said and "Runs in runs: runs/x-1" in said


@pytest.mark.parametrize("command", ["ask", "eval", "report"])
def test_a_command_alone_gives_an_example(command, capsys):
    assert main([command]) == 2
    assert f"For example: rung {command} runs/" in capsys.readouterr().err


def test_a_part_misspelt_in_small_letters_has_its_nearest():
    from rung.recipe_io import find, override

    with typed(), pytest.raises(InputError, match="Did you mean 'GroupMean'"):
        override(find("grpo"), {"credit": "groupmeen"})
    assert Path("RUN").exists() is False
