"""Code that is not ours may call sys.exit: no command ends on that without a word, and what it ends is said with its place."""

import re

import pytest

from rung.cli import main

ENVIRONMENT = """
import sys
from rung.records import Step, Task

class Mine:
    def __init__(self):
        pass  # __init__
    def __len__(self):
        pass  # __len__
        return 20
    def __getitem__(self, i):
        pass  # __getitem__
        return Task(str(i), f"{i}+1=")
    def score(self, group):
        pass  # score
        return [{"right": 0.0} for _ in group.completions]

class Talk(Mine):
    def session(self, task):
        pass  # session
        self.task = task
        return self
    def reset(self):
        pass  # reset
        return self.task.prompt
    def step(self, completion):
        pass  # step
        return Step([], done=True)
    def close(self):
        pass  # close

def pay(completions, **columns):
    pass  # pay
    return [0.0] * len(completions)

def loss(logp, rewards, mask):
    pass  # loss
    return -((logp * mask).sum(1) * rewards).mean()

def advantages(rewards):
    pass  # advantages
    return rewards

pass  # import
"""
ASK = ["eval", "starter", "--problems", "4", "--max-new-tokens", "24"]
PLACES = {
    **{name: [*ASK, "--environment", "FILE:Mine"] for name in ("__init__", "__len__", "__getitem__", "score", "import")},
    **{name: [*ASK, "--environment", "FILE:Talk"] for name in ("session", "reset", "step", "close")},
    "pay": [*ASK, "--task", "chained_arithmetic", "--reward", "FILE:pay"],
    "loss": ["audit", "--of", "FILE:loss"], "advantages": ["audit", "--advantages", "FILE:advantages"],
}  # fmt: skip


@pytest.mark.parametrize("code", ["0", "'no more'", ""], ids=["zero", "words", "none"])
@pytest.mark.parametrize("place", PLACES)
def test_sys_exit_in_code_of_the_users_ends_no_command_in_silence(place, code, tmp_path, capsys):
    file, line = tmp_path / "mine.py", f"pass  # {place}\n"
    file.write_text(ENVIRONMENT.replace(line, f"sys.exit({code})\n"))
    assert main([word.replace("FILE", str(file)) for word in PLACES[place]]) == 2
    said = " ".join(capsys.readouterr().err.split())
    at = 1 + ENVIRONMENT[: ENVIRONMENT.index(line)].count("\n")
    assert "SystemExit" in said and re.search(rf"mine\.py:{at}\b|Mine|Talk", said), said


def test_a_tool_that_exits_is_told_to_the_model_as_one_that_raises():
    from functools import partial

    from rung.tasks.environments.tools import _ended

    def stop(code):
        raise SystemExit(code)

    assert _ended("stop", partial(stop, 3)) == (False, '{"error": "SystemExit: 3"}')
