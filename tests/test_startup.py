"""The first second: help without torch, a word before torch is loaded, and where that word may stand."""

import dataclasses
import io
import os
import pty
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import rung
from rung.cli import COMMANDS, main
from rung.io.waiting import Waiting
from rung.recipe_io import all_recipes
from rung.settings import recipe_names
from rung.settings.ranges import Flags
from rung.shell.help import becomes, flags_of
from rung.training.config import GROUPS, TrainConfig

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1])}

WITHOUT = """
import importlib.abc, sys

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "scipy", "sympy", "pandas", "matplotlib"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refused())
import rung
from rung.cli import COMMANDS, main
for words in ([], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["train", "grpo", "-h"]):
    assert main(words) == 0, words
for words in (["train", "--seed", "-1"], ["train", "--config", "gone.toml"], ["plan", "--answer-tokens", "0"], ["nope"],
              *([*words.split(), "grpoo"] for words in ("train", "train --recipe", "plan", "explain", "diff grpo", "why", "audit",
                "ladder --recipes", "variance starter --recipes", "export --to trl"))):
    assert main(words) == 2, words  # what can be refused without torch is
print("done")
"""


def test_the_names_that_are_known_without_torch_are_those_of_the_recipes():
    assert recipe_names.written() == tuple(all_recipes())


def test_no_help_and_no_plain_refusal_imports_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_help_fits_the_terminal_and_says_everything(name, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width, out
    assert "\x1b" not in out and "None" not in out and "{" not in out.replace("{prompt}", ""), "words that people read"
    for flag in flags_of(COMMANDS[name].flags).values():
        assert flag.text or flag.choices, f"{name} {flag.name} has no text"
        assert flag.name in out and flag.takes in out


def test_help_names_the_defaults_that_a_run_has():
    said = becomes()
    small, other = TrainConfig().resolved(), TrainConfig(model="smollm2").resolved()
    for name in ("steps", "prompts_per_step", "learning_rate", "task"):
        for config in (small, other):
            value = getattr(config, name)
            assert (f"{value:g}" if isinstance(value, float) else str(value)) in said[name]
    flags = flags_of(TrainConfig, said)
    assert flags["samples_per_prompt"].usual == "8" and flags["max_total_tokens"].usual == "the model's context"
    assert flags["save_rollouts"].name == "--no-save-rollouts" and flags["steps"].takes == "INT"
    assert flags["dtype"].takes == "float32|bfloat16|auto" and "task_options" not in flags


def test_every_group_of_flags_begins_at_a_field():
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    assert names[0] in GROUPS and set(GROUPS) <= set(names)


def test_a_flag_without_a_default_says_so():
    @dataclasses.dataclass(frozen=True)
    class Made(Flags):
        """What it does."""

        out: Path
        """where"""
        size: int | None = None
        """how much; None: as much as there is"""

    globals()["Made"] = Made
    flags = flags_of(Made)
    assert flags["out"].text == "where; must be given" and flags["out"].takes == "PATH"
    assert (flags["size"].text, flags["size"].usual) == ("how much", "as much as there is")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("terminal", "term"), [(True, "xterm"), (True, "dumb"), (False, "xterm")])
def test_the_line_before_torch_is_taken_away_where_it_can_be(monkeypatch, terminal, term):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", term)
    waiting = Waiting()
    waiting.say("loading torch")
    waiting.say("loading the model")
    waiting.end()
    waiting.end()
    seen = stream.getvalue()
    if terminal and term != "dumb":
        assert seen == "\rloading torch ...\x1b[K\rloading the model ...\x1b[K\r\x1b[K"
    else:
        assert seen == "loading torch ...\n"


def test_a_word_comes_before_torch_and_leaves_no_trace_on_a_terminal():
    """What a terminal shows, read byte by byte: the line first, and nothing of it in front of the message that follows."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rung", "explain", "grpo", "--recipe.nope", "1"],
        stdout=theirs,
        stderr=theirs,
        env={**ENVIRONMENT, "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(mine, 65536):
            seen += chunk
    except OSError:  # the other side was closed
        pass
    os.close(mine)
    assert process.wait() == 2
    assert seen.startswith(b"\rloading torch ...\x1b[K\r\x1b[Krung: unknown field"), seen


@pytest.mark.parametrize("shell", typing.get_args(typing.get_type_hints(COMMANDS["completion"].flags)["shell"]))
def test_completion_knows_every_command_and_flag(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"\b{name}\b", out)
        for flag in flags_of(command.flags).values():
            if not flag.positional:
                assert all(n in out or f"-l {n.removeprefix('--')} " in out for n in flag.name.split(", "))
    assert "dr_grpo" in out


ASKED = [
    (("rung", "tr"), {"train"}), (("rung", "train", "--learn"), {"--learning-rate"}),
    (("rung", "train", "dr_"), {"dr_grpo"}), (("rung", "train", "--dtype", ""), {"float32", "bfloat16", "auto"}),
    (("rung", "completion", "z"), {"zsh"}), (("rung", "eval", "--no-such"), set()),
]  # fmt: skip


def test_bash_completes(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    lines = [capsys.readouterr().out]
    for words, _ in ASKED:
        quoted = " ".join(f"'{word}'" for word in words)
        lines.append(f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _rung; echo "=${{COMPREPLY[*]}}"')
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    found = [set(line[1:].split()) for line in done.stdout.splitlines() if line.startswith("=")]
    assert found == [wanted for _, wanted in ASKED], done.stderr
