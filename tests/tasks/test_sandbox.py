"""The sandbox of programs: nothing leaves it, no wrong program is paid, right ones are, and nothing is left behind."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.sandbox import calls, jail, tests
from rung.tasks.sources import dataset
from rung.tasks.verify.code import Code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes are Linux's")
TABLES = Path(__file__).parent / "programs"
SANDBOXES = {
    "own": jail.Kernel(),
    "bare": jail.Kernel(own_directory=False),
    "bubblewrap": jail.Bubblewrap(shutil.which("bwrap") or ""),
}


def table(name: str) -> dict[str, str]:
    blocks = re.split(r"^### (.+)\n", (TABLES / name).read_text(), flags=re.MULTILINE)[1:]
    named = dict(zip(blocks[::2], blocks[1::2], strict=True))
    assert len(named) == len(blocks) // 2, "a name stands twice"
    return named


ESCAPES, CHEATS, RIGHT = table("escapes.txt"), table("cheats.txt"), table("right.txt")
ESCAPE = """
OUTSIDE, PORT = {outside!r}, {port}
escaped = []
def done(): escaped.append(1)
try: exec({body!r}, globals())
except BaseException: pass
def f(x): return x * x if escaped else -1
"""
NOT_COUNTED = {"many small files"}  # bubblewrap's file system has no limit of its own for them


@pytest.fixture(params=["own", pytest.param("bare", marks=pytest.mark.slow), "bubblewrap"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Code:
    sandbox = SANDBOXES[request.param]
    if request.param == "bubblewrap" and not sandbox.program:
        pytest.skip("needs bwrap")
    if lets := jail.trial(sandbox):
        pytest.skip(f"not on this machine: {lets}")
    jails = _jails.setdefault(request.param, jail.Jails(sandbox, 1 << 28))
    monkeypatch.setattr(Code, "jails", lambda self: jails)
    return Code(seconds=2.0)


_jails: dict[str, jail.Jails] = {}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the user's, which is as it was afterwards."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "precious").stat()
    yield tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "precious"]
    after = (tmp_path / "precious").stat()
    assert (tmp_path / "precious").read_text() == "mine"
    assert (before.st_mode, before.st_uid, before.st_mtime) == (after.st_mode, after.st_uid, after.st_mtime)


def test_nothing_escapes(
    code: Code, outside: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each program in turn, since one file of the next would show what the one before left."""
    monkeypatch.setenv("RUNG_SECRET", "1")
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        out = {}
        for name, body in ESCAPES.items():
            program = ESCAPE.format(outside=str(outside), port=port, body=body)
            out[name] = code.correct([program], "assert f(2) == 4")[0]
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    skipped = NOT_COUNTED if "bubblewrap" in request.node.name else set()
    assert {name for name, paid in out.items() if paid != 0.0} - skipped == set()
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority


def test_the_template_of_escapes_pays_what_is_reached(code: Code) -> None:
    assert code.correct([ESCAPE.format(outside="", port=1, body="done()")], "assert f(2) == 4") == [1.0]


def split(block: str) -> tuple[str, str]:
    program, tests = block.split("--- tests\n")
    return program, tests


@pytest.mark.parametrize("name", CHEATS)
def test_no_wrong_program_is_paid(name: str) -> None:
    program, gold = split(CHEATS[name])
    assert tests.refusal([gold]) is None
    assert Code(seconds=0.4).correct([program], gold) == [0.0]


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_are_paid(name: str) -> None:
    program, gold = split(RIGHT[name])
    judge = Code()
    assert judge.refusal(gold) is None
    assert judge.correct([program], gold) == [1.0]


NO_TESTS = {
    "def check(candidate): assert candidate(2) == 4": r"nothing calls check; add check\(NAME\)",
    "def helper(): assert f(2) == 4": "nothing calls helper",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self): assert f(2) == 4": "classes of unittest",
    "assert sum([2, 2]) == 4": "only names of Python's own",
    "f(2)": "no assertion",
    "assert f(": "no Python",
    "assert " + "(" * 500 + "f(2)" + ")" * 500: "no Python",
    "from solution import f\nassert f(2) == 4": "import solution, which is not installed",
    "assert f(lambda x: x) == 4": "hands the program a function",
    "def g(x): return x\nassert f(g) == 4": "hands the program a function",
    "x = [2, 1]\nf(x)\nassert x == sorted(x)": "compares x with what is made of x",
    "x = [2, 1]\ny = x\nf(x)\nassert y == sorted(x)": "compares",
    "def check(candidate):\n    x = [2, 1]\n    candidate(x)\n    assert x == sorted(x)\ncheck(f)": "compares x",
    "async def test_it(): assert f(2) == 4": "nothing calls test_it",
    "": "no tests",
}


@pytest.mark.parametrize("gold", NO_TESTS)
def test_what_cannot_judge_is_refused_with_its_reason(gold: str) -> None:
    why = Code().refusal(gold)
    assert why is not None
    assert re.search(NO_TESTS[gold], why), why


def test_a_task_with_such_tests_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    good, bad = ({"prompt": f"p{n}", "answer": gold} for n, gold in enumerate(("assert f(2) == 4", "f(2)")))
    rows.write_text("\n".join(map(json.dumps, [good, {**good, "prompt": "q"}, bad])))
    with pytest.raises(InputError, match=r"rows\.jsonl:3 \(they hold no assertion"):
        dataset.splits(rows, verifier="code")
    found = dataset.splits(rows, verifier="code", options={"drop_unverifiable": True})
    assert len(found.train) + len(found.eval) == 2


def test_a_machine_without_a_sandbox_is_refused_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jail.chosen.cache_clear()
    monkeypatch.setattr(jail, "_by_process", {})
    monkeypatch.setattr(jail, "_candidates", lambda: [jail.Unconfined()])  # a sandbox that lets things through
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"p{n}", "answer": "assert f(2) == 4"}) for n in range(9)))
    try:
        with pytest.raises(InputError, match=r"no sandbox: files, network.*unsafe_code.*rights"):
            dataset.splits(rows, verifier="code")
        with pytest.warns(UserWarning, match="your own rights; not limited: files, network, processes, signals"):
            found = dataset.splits(rows, verifier="code", options={"unsafe_code": True})
        verifier = found.train.verifier
        assert isinstance(verifier, Code)
        assert verifier.correct(["def f(x): return x * x", "def f(x): return x + 3"], "assert f(2) == 4") == [1.0, 0.0]
    finally:
        jail.chosen.cache_clear()


def test_a_machine_without_namespaces_says_once_what_programs_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    jail.chosen.cache_clear()
    monkeypatch.setattr(jail, "_candidates", lambda: [jail.Kernel(own_directory=False)])
    try:
        _, lost = jail.chosen(False)
        assert lost == ("programs have no directory of their own: they cannot write files",)
    finally:
        jail.chosen.cache_clear()


@pytest.mark.parametrize("missing", ["drop_capabilities", "confine_files", "confine_calls"])
def test_the_trial_sees_what_is_not_confined(missing: str, tmp_path: Path) -> None:
    """A sandbox whose kernel part does nothing is found by its own trial."""
    broken = tmp_path / "sandbox"
    shutil.copytree(Path(jail.__file__).parent, broken)
    source = (broken / "kernel.py").read_text()
    (broken / "kernel.py").write_text(f"{source}\n\ndef {missing}(*_):\n    pass\n")
    boot = jail._BOOT.replace(str(jail._HERE), str(broken))
    sandbox = jail.Kernel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jail, "_BOOT", boot)
        patch.setattr(jail, "_HERE", broken)
        lets = jail.trial(sandbox)
    if missing == "drop_capabilities":  # the others hold without it
        assert lets == []
    else:
        assert set(lets) >= ({"files"} if missing == "confine_files" else {"network", "processes"})


def test_slow_answers_are_counted(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"p{n}", "answer": "assert f(2) == 4"}) for n in range(9)))
    train = dataset.splits(rows, verifier="code").train
    train = replace(train, verifier=Code(seconds=0.3))
    texts = ["def f(x): return x * x", "def f(x):\n    while True: pass"]
    scores = train.score(Group(train[0], [Completion(text) for text in texts]))
    assert [score["correct"] for score in scores] == [1.0, 0.0]
    assert train.counters == {"verifier_slow": 1.0}


# -- deadlines, and what is left ---------------------------------------------------------------------------------------
def test_hanging_tests_cost_their_deadline_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung.tasks.verify.code.GRACE", 0.3)
    judge = Code(seconds=0.3, size=2)
    gold = "while True: pass\nassert f(2) == 4"
    programs = [f"def f(x): return x * x + {n}" for n in range(8)]
    judge.correct(["def f(x): return x"], "assert f(2) == 4")
    began = time.monotonic()
    for _ in range(3):
        assert all(map(math.isnan, judge.correct(programs, gold)))
    assert time.monotonic() - began < 2
    assert judge.counts["timeouts"] == judge.slow == 24


@pytest.mark.parametrize("gold", ["while f(2) != 4: pass\nassert f(2) == 4", "x = f(2)\nwhile x != 4: pass\nassert x == 4"])
def test_a_program_cannot_make_its_tests_hang_for_the_others(gold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung.tasks.verify.code.GRACE", 0.3)
    judge = Code(seconds=0.3, size=1)
    hanging = ["A = 3\ndef f(x): return 3", "B = {n * (2 ** 61 - 1): 1 for n in range(9)}\ndef f(x): return 3"]
    assert all(verdict != 1.0 for verdict in judge.correct(hanging, gold))
    assert judge.correct(["def f(x): return x * x"], gold) == [1.0]


def state(process: int) -> list[str]:
    """The fields of /proc/N/stat from the third on; none if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(process: int) -> bool:
    return state(process)[:1] not in ([], ["Z"])


def below(process: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended
            found |= {deep for child in map(int, task.read_text().split()) for deep in (child, *below(child))}
    return found


def wait(what: Callable[[], object], seconds: float = 20) -> None:
    due = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < due
        time.sleep(0.02)


def busy(process: int) -> set[int]:
    """The processes below this one, if one of them has computed for 0.3 s: the loop of the scripts below."""
    found = below(process)
    ticks = [int(fields[11]) for one in found if (fields := state(one))]
    return found if max(ticks, default=0) >= 0.3 * os.sysconf("SC_CLK_TCK") else set()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("what", ["program", "tests", "pool"])
def test_nothing_outlives_the_main_process(what: str, ending: int, tmp_path: Path) -> None:
    file = tmp_path / "hang.py"
    file.write_text("import time\ndef check(n):\n    while True: pass")
    work = {
        "program": "Code(seconds=60).correct(['def f(x):\\n while True: pass'], 'assert f(2) == 4')",
        "tests": "Code(seconds=60).correct(['def f(x): return x'], 'while True: pass\\nassert f(2) == 4')",
        "pool": f"Pool(Path({str(file)!r}), 'check', deadline=60).map([(1,), (2,)])",
    }[what]
    script = f"""
        import signal
        from pathlib import Path
        from rung.tasks.verify.code import Code
        from rung.tasks.sandbox.pool import Pool
        signal.signal(signal.SIGINT, signal.default_int_handler)
        {work}
    """
    (temporary := tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(script)]
    code = str(Path(jail.__file__).parents[3])  # the very code that is tested here
    ours = {**os.environ, "PYTHONPATH": code, "TMPDIR": str(temporary)}
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ours)
    wait(lambda: busy(program.pid))
    left = busy(program.pid)
    program.send_signal(ending)
    program.wait(timeout=10)
    wait(lambda: not any(map(alive, left)), 20)
    assert not list(temporary.glob("rung-*"))


def test_a_killed_jail_takes_its_program_along() -> None:
    one = jail.Jail(jail.chosen(False)[0], 1 << 28)
    verdicts: list[dict[str, object]] = []
    judging = threading.Thread(
        target=lambda: verdicts.append(one.judge("while True: pass", ["assert f(2) == 4"], 60, 60))
    )
    judging.start()
    wait(lambda: busy(one.process.pid))
    left = below(one.process.pid)
    one.process.kill()
    judging.join(timeout=5)
    wait(lambda: not any(map(alive, left)), 3)
    assert verdicts[0]["verdict"] == "died"
    assert not one.end()
    one.close()


def test_the_table_of_calls_is_the_kernels() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no headers of the kernel")
    kernels = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\n", header.read_text())}
    for name, (number, _) in {**calls.ALLOWED, **calls.BY_ARGUMENT}.items():
        assert kernels[name] == number
