"""The verifier of programs: which block is read, verdicts and counts (test_sandbox.py: what is paid, what is kept in)."""

import math
import os
import time

import pytest

from rung.tasks.verify.code import Code

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of processes as on Linux and macOS")

GOOD = "def f(x):\n    return x * x"
TESTS = "assert f(2) == 4\nassert f(3) == 9"


def verdict(program: str, tests: str = TESTS, **settings: float) -> float:
    return Code(**{"seconds": 5.0, **settings}).correct([program], tests)[0]  # type: ignore[arg-type]


def test_the_tests_keep_their_own_builtins_and_modules() -> None:
    cheat = "def all(*_): return True\nclass math:\n    isclose = staticmethod(lambda *_: True)\ndef f(x): return 1"
    assert verdict(cheat, "assert all(f(i) == i * i for i in range(4))") == 0.0
    assert verdict(cheat, "assert math.isclose(f(2), 4)") == 0.0


def test_a_program_that_does_not_end_is_wrong_and_costs_its_time_once() -> None:
    judge = Code(seconds=0.5, size=4)
    began = time.monotonic()
    programs = ["while True: pass", "import time\ndef f(x): time.sleep(100)", "def f(x):\n    while True: pass", GOOD]
    assert judge.correct([*programs, programs[0]], TESTS) == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert time.monotonic() - began < 5
    assert (judge.counts["programs"], judge.counts["slow"]) == (4, 3)


def test_tests_that_cannot_judge_are_nobodys_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Code(seconds=0.5)
    assert math.isnan(judge.correct([GOOD], "assert f(")[0])
    monkeypatch.setattr("rung.tasks.verify.code.GRACE", 0.5)
    assert math.isnan(judge.correct([GOOD], "while True: pass\nassert f(2) == 4")[0])
    assert (judge.counts["errors"], judge.counts["timeouts"]) == (1, 1)
    assert judge.correct([GOOD, None, ""], "") == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"Here:\n```python\n{GOOD}\n```\nDone.", GOOD + "\n"),
        (f"```\nx = 1\n```\nBetter:\n```py\n{GOOD}\n```", GOOD + "\n"),
        (f"```python\n{GOOD}", GOOD),
        (GOOD, GOOD),
        ("I do not know.", None),
        ("", None),
        ("```python\n```", None),
        (f"<think>```python\n{GOOD}\n```</think>", None),
    ],
)
def test_the_last_block_is_the_program(text: str, program: str | None) -> None:
    assert Code().extract(text) == program


def test_two_candidates_are_none() -> None:
    both = Code().extract(f"```python\n{GOOD}\n```\nor\n```python\ndef f(x): return 4\n```")
    assert both is not None
    assert verdict(both) == 0.0
