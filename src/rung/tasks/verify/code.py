"""Does a program pass its unit tests? The verifier `code`: the last fenced block, run in a process with limits.

What it limits: seconds of time and of CPU, memory, the size of files, further processes; the working directory is empty
and temporary, the environment is stripped, Python runs with -I, the whole process group is killed at the end. The
network is taken away with a namespace of its own where the system lets an unprivileged process have one; everywhere an
audit hook refuses sockets, processes, files outside the directory, and ctypes.

What it is not: a sandbox against a determined attacker. Code that leaves Python (a native extension, a bug of the
interpreter) runs with your rights. For answers of a model that you do not trust with your account, run rung in a
container or a virtual machine. Needs Linux or macOS.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.errors import InputError
from rung.tasks.verify.extract import spoken

MAX_PROGRAM = 50_000  # characters
GRACE = 10.0  # seconds beyond the program's own for starting Python and for the tests' own work
_JUDGE = Path(__file__).parents[1] / "sandbox" / "code_judge.py"
_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[ \t]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_BARE = re.compile(r"^(?:def|class|import|from|@)\b", re.MULTILINE)
_EITHER = re.compile(r"\W*(?:or|alternatively)?\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Code:
    """Passes all unit tests. Gold is Python source of tests (`assert f(2) == 4`), or a JSON list of such sources.

    seconds: for the program, from its start to its last reply. A program that needs longer is wrong (0): to end is part
             of its task. Tests that hang by themselves, and tests that are no Python, are nobody's mistake (NaN).
    memory:  bytes of address space.  size: programs at a time; None means one per processor.
    counts:  programs, slow (too long, counted as wrong), timeouts (tests that hung), errors (could not be judged).
    """

    name: str = "code"
    seconds: float = 5.0
    memory: int = 1 << 30
    size: int | None = None
    counts: Counter[str] = field(default_factory=Counter, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if os.name != "posix":
            raise InputError("the verifier 'code' limits processes as Linux and macOS do; it cannot run here.")

    def extract(self, text: str, prompt: str = "") -> str | None:
        """The last fenced block, or the whole text if it looks like a program; two blocks joined by "or" are none."""
        said = spoken(text, prompt)
        blocks = list(_BLOCK.finditer(said[-4 * MAX_PROGRAM :]))
        if not blocks:
            return said if _BARE.search(said) else None
        last = blocks[-1]
        if len(blocks) > 1:
            between = last.string[blocks[-2].end() : last.start()]
            if _EITHER.fullmatch(between) and blocks[-2][2].strip() != last[2].strip():
                return f"{blocks[-2][2]}\nor\n{last[2]}"  # kept together, as no program
        return last[2] if last[2].strip() else None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        tests = _tests(gold)
        programs = sorted({a for a in answers if a and len(a) <= MAX_PROGRAM}) if tests else []
        with ThreadPoolExecutor(self.size or os.cpu_count() or 1) as threads:
            verdicts = dict(
                zip(programs, threads.map(lambda program: self._run(program, tests), programs), strict=True)
            )
        return [verdicts.get(answer or "", 0.0) for answer in answers]

    def _run(self, program: str, tests: Sequence[str]) -> float:
        limits = {"program": program, "seconds": self.seconds, "memory": self.memory}
        lines = json.dumps(limits).encode() + b"\n" + json.dumps(list(tests)).encode() + b"\n"
        with tempfile.TemporaryDirectory(prefix="rung-code-", ignore_cleanup_errors=True) as empty:
            said = _call(lines, empty, self.seconds + GRACE)
        verdict = json.loads(said)["verdict"] if said else "died" if said is not None else "timeouts"
        with self._lock:
            self.counts["programs"] += 1
            self.counts[{"unsure": "errors"}.get(verdict, verdict)] += 1
        return math.nan if verdict in ("unsure", "timeouts") else float(verdict == "passed")


def _tests(gold: str) -> list[str]:
    """Sources of tests; none if there is nothing to check."""
    if gold.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            found = json.loads(gold)
            return [str(test) for test in found if str(test).strip()]
    return [gold] if gold.strip() else []


def _call(lines: bytes, directory: str, seconds: float) -> bytes | None:
    """What the judge wrote (empty if it died), or None if the time was up. Nothing of its process group is left."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-X", "utf8", str(_JUDGE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=directory,
        env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    due, said = time.monotonic() + seconds, b""
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(lines)
            process.stdin.flush()
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, due - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return b""
            said += chunk
        return said
    finally:  # before the leader is reaped, so that the group's number is still ours
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
