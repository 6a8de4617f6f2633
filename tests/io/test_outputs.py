"""What cannot be written is refused in one message that names the setting, by every command that writes a file of the user's."""

from pathlib import Path

import pytest

import rung
from rung.cli import COMMANDS, main
from rung.shell.help import flags_of

SOURCE = Path(rung.__file__).parent
NAMES = ("--out", "--json", "--markdown", "--unipo")
NOWHERE = "/proc/nothing"  # its directory is there, and nobody makes anything in it
TINY = ["--horizon", "1", "--prompts", "1"]
WORDS = {
    "train": ["--task", "chained_arithmetic", "--steps", "1"], "ask": ["RUN", "1+1="], "report": ["RUN"],
    "eval": ["RUN", "--samples", "1", "--problems", "2"], "data": ["chained_arithmetic"], "recipes": [], "explain": ["grpo"],
    "verify": ["--task", "chained_arithmetic", "--problems", "1"], "diff": ["grpo", "dr_grpo"], "why": ["gspo"],
    "export": ["grpo", "--to", "trl"], "import": ["trl", "trl.yaml"], "audit": ["grpo", *TINY], "ladder": [],
    "speedrun": ["--model", "starter"], "starter": [],
}  # fmt: skip
TRAINED = [
    ("why", "--json"),
    ("ladder", "--json"),
    ("variance", "--json"),
    ("speedrun", "--json"),
]  # minutes before it is written
OTHERS = [
    ("smollm2", "--out"),  # fetched
    ("plan", "--out"),  # nothing is written
    ("eval", "--out"),  # what was measured is shown, and a note says that the answers are lost
]
CASES = [
    (name, flag.name) for name, command in COMMANDS.items() for flag in flags_of(command.flags).values()
    if flag.name in NAMES and (name, flag.name) not in [*TRAINED, *OTHERS]
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("outputs") / "run"
    rung.train(recipe="grpo", steps=1, task="chained_arithmetic", prompts_per_step=2, samples_per_prompt=2, eval_every=0,
               out=path, quiet=True)  # fmt: skip
    return path


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where not even root can write: Linux")
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_file_that_cannot_be_made_is_refused_in_one_message(case, run, tmp_path, monkeypatch, capsys):
    name, flag = case
    monkeypatch.chdir(tmp_path)
    Path("trl.yaml").write_text("max_steps: 3\n")
    words = [str(run) if word == "RUN" else word for word in WORDS[name]]
    assert main([name, *words, flag, NOWHERE]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("rung: ") == 1 and "Traceback" not in said and flag in said, said


def test_a_folder_below_what_is_none_is_refused_too(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["export", "grpo", "--to", "trl", "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_one_place_makes_the_new_files_of_a_command():
    assert [x.name for x in sorted(SOURCE.rglob("*.py")) if '.open("x"' in x.read_text(encoding="utf-8")] == [
        "tables.py"
    ]
