"""Programs and their unit tests: what passes, what must not, and what is left of a program that does not end."""

import math
import os
import time
from pathlib import Path

import pytest

from rung.tasks.verify.code import Code

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of processes as on Linux and macOS")

GOOD = "def f(x):\n    return x * x"
BOX = "class Box:\n    def __init__(self): self.d = {}\n    def put(self, k): self.d[k] = 1"
TESTS = "assert f(2) == 4\nassert f(3) == 9"


def verdict(program: str, tests: str = TESTS, **settings: float) -> float:
    return Code(**{"seconds": 5.0, **settings}).correct([program], tests)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (GOOD, TESTS),
        (GOOD, '["assert f(2) == 4", "assert f(3) == 9"]'),
        ("import math\n" + GOOD, "assert math.isclose(f(2), 4)"),
        (BOX, "b = Box()\nb.put(3)\nassert b.d == {3: 1}"),
        ("def f(a): a.sort()", "x = [3, 1]\nf(x)\nassert x == [1, 3]"),
        ("def f():\n    yield 1\n    yield 2", "assert list(f()) == [1, 2]"),
        ("def f(): raise ValueError('no')", "try:\n    f()\n    assert False\nexcept ValueError:\n    pass"),
        ("def f(x): return {(1, 2): [x, None, 1.5, b'a', {3}]}", "assert f('a') == {(1, 2): ['a', None, 1.5, b'a', {3}]}"),
        ("def f(g): return g", "assert f(10 ** 400) == 10 ** 400"),
        ("open('note', 'w').write('4')\ndef f(x): return int(open('note').read())", "assert f(2) == 4"),
    ],
)  # fmt: skip
def test_right_programs_pass(program: str, tests: str) -> None:
    assert verdict(program, tests) == 1.0


PIPE = "import os\nfor n in range(3, 20):\n    try: os.write(n, b'{}')\n    except OSError: pass\ndef f(x): return 4"
WRONG = {
    "nothing": "x = 1",
    "wrong": "def f(x): return 4",
    "no Python": "def f(x: return",
    "an exit": "import os\nos._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "equals everything": "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "a list that equals everything": "class E(list):\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "an int that equals everything": "class E(int):\n    def __eq__(self, o): return True\ndef f(x): return E(0)",
    "reads the tests from its frames": "import gc\ndef f(x): return [o for o in gc.get_objects() if 'assert' in str(o)][0]",
    "reads the tests from its parent": f"import os\ndata = open(f'/proc/{{os.getppid()}}/mem', 'rb').read()\n{GOOD}",
    "ends its parent": f"import os\nos.kill(os.getppid(), 9)\n{GOOD}",
    "memory": f"x = [0] * 10 ** 10\n{GOOD}",
    "a huge value": "def f(x): return 'a' * (1 << 25)",
    "deep nesting": "def f(x):\n    a = []\n    for _ in range(100_000): a = [a]\n    return a",
    "deep source": "f = " + "(" * 5000 + "1" + ")" * 5000,
    "a socket": f"import socket\nsocket.create_connection(('127.0.0.1', 9), 1)\n{GOOD}",
    "a process": f"import subprocess\nsubprocess.run(['true'])\n{GOOD}",
    "a fork": f"import os\nos.fork()\n{GOOD}",
    "ctypes": f"import ctypes\nctypes.CDLL(None)\n{GOOD}",
    "a large file": "def f(x):\n    with open('a', 'wb') as file: file.write(b'0' * (64 << 20))\n    return x * x",
    "a file elsewhere": f"open('/etc/passwd').read()\n{GOOD}",
    "the environment": f"import os\nassert os.environ.get('HOME')\n{GOOD}",
    "a message on the pipe": PIPE.format("{\"value\": 4, \"args\": []}\\n"),
    "a broken message": PIPE.format("\\xff{{\\n"),
}  # fmt: skip


@pytest.mark.parametrize("program", WRONG.values(), ids=WRONG)
def test_wrong_programs_do_not(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert verdict(program, memory=1 << 29) == 0.0


def test_the_tests_keep_their_own_builtins_and_modules() -> None:
    cheat = "def all(*_): return True\nclass math:\n    isclose = staticmethod(lambda *_: True)\ndef f(x): return 1"
    assert verdict(cheat, "assert all(f(i) == i * i for i in range(4))") == 0.0
    assert verdict(cheat, "assert math.isclose(f(2), 4)") == 0.0


def test_files_outside_the_directory_are_out_of_bounds(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    place = repr(str(precious))
    for program in (f"open({place}, 'w')", f"import os\nos.remove({place})", f"import os\nos.rename({place}, 'a')"):
        assert verdict(f"{program}\n{GOOD}") == 0.0
    assert precious.read_text() == "mine"


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
    assert math.isnan(judge.correct([GOOD], "while True: pass")[0])
    assert (judge.counts["errors"], judge.counts["timeouts"]) == (1, 1)
    assert judge.correct([GOOD, None, ""], "") == [0.0, 0.0, 0.0]


def test_nothing_is_left_running() -> None:
    left = "import os, time\nprint()\ndef f(x):\n    time.sleep(0.1)\n    return x * x"
    mark = f"rung-{os.getpid()}-{time.monotonic_ns()}"
    assert verdict(f"{left}\n# {mark}", "assert f(2) == 5") == 0.0
    assert verdict(f"{left}\n# {mark}") == 1.0
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        judges = [Path(f"/proc/{pid}/cmdline") for pid in children.read_text().split()]
        assert not any("code_judge" in path.read_text() for path in judges if path.exists())


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
