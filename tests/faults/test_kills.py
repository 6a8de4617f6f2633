"""Commands ended for real, at work: within ten seconds, with the documented status, and nothing of them is left.

Processes are followed in /proc from before the end; TMPDIR is a directory of the test's own, which must be empty afterwards.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rung
from rung.io.run_dir import RunDir

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are followed in /proc")
TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL
ENDS = {"TERM": [TERM], "HUP": [HUP], "INT": [INT], "INT twice": [INT, INT], "KILL": [KILL]}
SMALL = "--recipes reinforce,grpo --seeds 2 --sweep-seeds 1 --rates 1e-3 --gradient-batches 0 --eval-problems 8"
LADDER = ["ladder", *SMALL.split()]
COMMANDS = {
    "ladder": [*LADDER, "--tokens", "10000000", "--jobs", "2", "--out", "L"],
    "why": ["why", "grpo", "--seeds", "4", "--jobs", "2", "--out", "W"],
    "eval": ["eval", "starter", "--samples", "200"],
    "report": ["report", "run"],
    "variance": ["variance", "starter", "--batches", "2000", "--recipes", "reinforce,grpo"],
    "audit": ["audit"],
    "verify": ["verify", "--task", "formulas.jsonl", "--problems", "400"],
    "ask": ["ask", "starter"],
}
FAST = {("ask", "TERM"), ("verify", "KILL")}


@pytest.fixture
def place(tmp_path):
    """A directory with a run, problems that formulas answer, and an empty directory for temporary files."""
    (tmp_path / "tmp").mkdir()
    rows = [{"prompt": f"{i}?", "answer": f"\\sqrt{{x + {i}}}"} for i in range(500)]
    (tmp_path / "formulas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def made_run(place):
    small = {"prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1, "quiet": True}
    rung.train("grpo", steps=2, out=place / "run", **small)


def program(place, words, **how):
    env = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
           "TMPDIR": str(place / "tmp")}  # fmt: skip
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen([sys.executable, "-m", "rung", *words], env=env, cwd=place, start_new_session=True, **how)


# -- processes ---------------------------------------------------------------------------------------------------------
def processes():
    """{process id: (its parent's, when it started, seconds of the processor)}, without those that have ended."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if fields[0] not in "ZX":
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[int(stat.parent.name)] = int(fields[1]), int(fields[19]), seconds
    return found


def family(pid):
    """The process and all that came from it: (process id, when it started)."""
    there, out = processes(), {pid}
    while more := {child for child, (parent, _, _) in there.items() if parent in out} - out:
        out |= more
    return {(one, there[one][1]) for one in out if one in there}


def left(members):
    there = processes()
    return [(pid, start) for pid, start in members if pid in there and there[pid][1] == start]


def at_work(name, process, place):
    """Whether the command is in the middle of what it does."""
    seconds = sum(there[2] for pid, there in processes().items() if pid == process.pid)
    if name in ("ladder", "why"):
        runs = list((place / name[0].upper()).glob("**/runs/*/metrics.jsonl"))
        return len([path for path in runs if path.read_bytes().count(b"\n") > 2]) >= 2
    if name == "verify":
        return len(family(process.pid)) > 1
    return seconds > {"report": 0.3, "ask": 2.0}.get(name, 3.5)


def wait_for(what, process, seconds=400.0):
    end = time.monotonic() + seconds
    while not what() and process.poll() is None:
        assert time.monotonic() < end, "it did not come that far"
        time.sleep(0.1)


def gone(members, begun):
    while (here := left(members)) and time.monotonic() < begun + 10:
        time.sleep(0.05)
    return not here


def temporary(place):
    """What is left in TMPDIR, but for the directory of PyTorch's own cache, which stays by intention."""
    return [path for path in (place / "tmp").rglob("*") if not path.name.startswith("torchinductor_")]


CASES = [
    pytest.param(name, end, marks=[] if (name, end) in FAST else pytest.mark.slow, id=f"{name}-{end}")
    for name in COMMANDS
    for end in ENDS
]


@pytest.mark.parametrize(("name", "end"), CASES)
def test_a_command_ends_within_ten_seconds_and_leaves_nothing(place, name, end):
    if name == "report":
        made_run(place)
    process = program(place, COMMANDS[name])
    wait_for(lambda: at_work(name, process, place), process)
    members, begun = family(process.pid), time.monotonic()
    for number in ENDS[end]:
        if process.poll() is None:
            process.send_signal(number)
        time.sleep(0.05)
    if name != "ask":  # which waits for a question: it must end all the same
        process.stdin.close()
    status = process.wait(60)
    took = time.monotonic() - begun
    assert gone(members, begun), f"left: {left(members)}"
    assert took < 10, f"{took:.1f} s"
    expected = -KILL if end == "KILL" else 128 + ENDS[end][0]
    assert status == expected or (name == "report" and status == 0), process.stderr.read()
    assert "Traceback" not in (said := process.stderr.read().decode()) and "Exception ignored" not in said
    assert not temporary(place), "no temporary file or directory"
    for config in place.rglob("config.toml"):
        with RunDir.open(config.parent, write=True):  # no lock
            pass
    if name in ("ladder", "why") and end != "KILL":
        assert "the same command goes on" in said
    if process.stdin and not process.stdin.closed:
        process.stdin.close()
    process.stdout.close()
    process.stderr.close()


# -- a reader that goes away -------------------------------------------------------------------------------------------
PIPED = {
    "recipes": ["recipes"], "explain": ["explain", "ppo"],
    "verify": ["verify", "--task", "chained_arithmetic", "--problems", "2", "--all"],
    "audit": ["audit", "grpo"], "eval": ["eval", "starter", "--problems", "4"], "report": ["report", "run"],
    "ask": ["ask", "starter", "1+1=", "2+2=", "3+3="],
    "variance": ["variance", "starter", "--batches", "3", "--warmup-batches", "1", "--recipes", "reinforce"],
    "ladder": [*LADDER, "--tokens", "1024", "--out", "L"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("recipes", "explain") else pytest.mark.slow) for n in PIPED]
)
@pytest.mark.parametrize("lines", [0, 1])
def test_a_closed_pipe_is_no_error(place, name, lines):
    """As behind `| head -1`; and where nobody reads at all."""
    if name == "report":
        made_run(place)
    process = program(place, PIPED[name], stdin=subprocess.DEVNULL)
    members = family(process.pid)
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(300) == 0, said
    assert "Traceback" not in said and "BrokenPipe" not in said
    assert gone(members, time.monotonic()) and not temporary(place)
    process.stderr.close()


# -- going on ----------------------------------------------------------------------------------------------------------
CLOCK = {"seconds", "seconds_per_step", "update_seconds", "peak_mb", "took", "min", "minutes"}


def result(place, out):
    found = json.loads((place / out / "ladder.json").read_bytes())
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in found["rows"]]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["TERM", "KILL"])
def test_a_ladder_that_was_ended_goes_on_to_the_same_result(place, end):
    words = [*LADDER, "--tokens", "2048", "--jobs", "2", "--out"]
    process = program(place, [*words, "L"], stdin=subprocess.DEVNULL)
    wait_for(lambda: list((place / "L" / "runs").glob("*/result.json")), process)
    process.send_signal(ENDS[end][0])
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before it could be ended")
    for out in ("L", "whole"):
        done = program(place, [*words, out], stdin=subprocess.DEVNULL)
        _, said = done.communicate(timeout=600)
        assert done.returncode == 0, said
    assert result(place, "L") == result(place, "whole") and len(result(place, "L")) > 3
