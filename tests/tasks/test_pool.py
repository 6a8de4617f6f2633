"""The worker pool: values in order, and a call that hangs, dies or raises costs only itself."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.tasks.sandbox.pool import Pool
from rung.tasks.verify.verifiers import Math

VERIFIER = """
import os, sys, time
def check(what, value):
    print("noise on standard output")
    if what == "hang":
        while True: pass
    if what == "die":
        os._exit(3)
    if what == "raise":
        raise RecursionError("too deep")
    if what == "modules":
        return float("torch" in sys.modules or "rung" in sys.modules)
    time.sleep(0.001 * value)
    return value
def equal(gold, answer):
    while True: pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "verifier.py"
    path.write_text(VERIFIER)
    return path


@pytest.fixture
def pool(file: Path) -> Iterator[Pool]:
    pool = Pool(file, "check", deadline=0.5, size=2)
    yield pool
    pool.close()


def test_values_come_in_the_order_of_the_calls(pool: Pool) -> None:
    assert pool.map([]) == []
    assert pool.map([("value", i % 7) for i in range(40)]) == [i % 7 for i in range(40)]
    assert pool.map([("modules", 0)]) == [0.0]
    assert not pool.counts["timeouts"]


def test_a_call_that_hangs_dies_or_raises_is_nan_and_counted(pool: Pool) -> None:
    began = time.monotonic()
    values = pool.map([("value", 1), ("hang", 0), ("die", 0), ("raise", 0), ("value", 2)])
    assert values[0] == 1
    assert values[4] == 2
    assert all(math.isnan(value) for value in values[1:4])
    assert (pool.counts["timeouts"], pool.counts["crashes"], pool.counts["errors"]) == (1, 1, 1)
    assert pool.map([("value", 3), ("value", 4)]) == [3, 4]
    assert time.monotonic() - began < 5


def test_256_answers_are_judged_side_by_side(pool: Pool) -> None:
    pool.map([("value", 0)] * 2)
    began = time.monotonic()
    pool.map([("value", 10)] * 256)
    assert time.monotonic() - began < 2.5


def test_a_hanging_answer_is_nan_once_and_never_zero(file: Path) -> None:
    pool = Pool(file, "equal", deadline=0.3, size=1)
    judge = Math(pool=pool)
    for _ in range(2):
        verdicts = judge.correct(["x+1", "x+1", "x", None], "x")
        assert math.isnan(verdicts[0])
        assert math.isnan(verdicts[1])
        assert verdicts[2:] == [1.0, 0.0]
    assert pool.counts["timeouts"] == pool.counts["calls"] == 1
    pool.close()


def test_many_hanging_calls_cost_little_more_than_one(file: Path) -> None:
    pool = Pool(file, "check", deadline=2.0, size=4)
    pool.map([("value", 0)] * 4)
    began = time.monotonic()
    values = pool.map([("hang", 0)] * 12 + [("value", 1)])
    assert time.monotonic() - began < 5  # three rounds of 2 s, and three starts, would be more than 6
    assert all(map(math.isnan, values[:12])) and values[12] == 1
    assert pool.counts["timeouts"] == 12
    assert pool._seconds() < 1.0
    pool._looked -= 60  # a minute later
    assert pool._seconds() == 2.0
    pool.close()


def test_a_verifier_that_cannot_start_says_so(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_module_anywhere")
    with pytest.raises(RuntimeError, match=r"no_such_module_anywhere.*Check that its imports"):
        Pool(path, "check").map([(1,)])


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_interrupting_the_program_leaves_no_worker_and_no_traceback(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
        import signal
        from pathlib import Path
        from rung.tasks.sandbox.pool import Pool
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        pool = Pool(Path({str(file)!r}), "check", deadline=60, size=1)
        pool.map([("value", 0)])
        print(pool._workers[0].process.pid, flush=True)
        try:
            pool.map([("hang", 0)])
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """)
    )
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    time.sleep(0.2)
    os.killpg(program.pid, signal.SIGINT)
    output, errors = program.communicate(timeout=20)
    assert (output.strip(), errors, program.returncode) == ("interrupted", "", 0)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
