"""A pool of killable worker processes: one call each at a time, a deadline per call, NaN for "could not tell".

A worker that misses its deadline or dies is killed and replaced; the other calls go on. Workers start when they are
first needed and end with the program, whatever ends it. They are separate interpreters over pipes (see worker.py).

Pebble 5.2, a pool with deadlines, was tried in its place: as fast a call (.15 s for 500 against .18), but a worker takes .8 s to
start instead of .12, since it imports its parent's main module, and a busy one outlives a parent that is killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rung.tasks.sandbox.spawn import kill, start

_WORKER = Path(__file__).with_name("worker.py")
_START_SECONDS = 120.0  # a cold file system can take long to import sympy
_LEAST = 0.2  # of the deadline, once others used it up
_REFILL = 0.1  # of the time that passes


@dataclass(eq=False)
class _Worker:
    """One process; `call` is the number of the call it works on, None when idle; it must answer until `due`."""

    process: subprocess.Popen[bytes]
    due: float
    ready: bool = False
    call: int | None = None
    given: float = 0.0  # seconds for the call
    buffer: bytearray = field(default_factory=bytearray)

    def kill(self) -> None:
        kill(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def send(self, call: int, arguments: Sequence[object], deadline: float) -> None:
        self.call, self.given, self.due = call, deadline, time.monotonic() + deadline
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is seen when its output ends
            self.process.stdin.write(json.dumps(list(arguments)).encode() + b"\n")
            self.process.stdin.flush()


class Pool:
    """Calls FILE:FUNCTION with JSON arguments in worker processes.

    function: a path and a name in that file, taking JSON values and returning a float.
    deadline: seconds that one call may take. Calls that hang use up a common patience of as many seconds, which comes
              back with a tenth of the time: further ones get what is left, at least a fifth. So eight answers that hang
              cost little more than one.
    size:     workers at most; None means one per processor.
    counts:   calls, timeouts, crashes (the worker died), errors (the function raised); all but `calls` gave NaN.
    """

    def __init__(
        self, file: Path, function: str, *, deadline: float = 5.0, size: int | None = None, memory: int = 4 << 30
    ) -> None:
        self.file, self.function, self.deadline, self.memory = file, function, deadline, memory
        self.size = size or os.cpu_count() or 1
        self.counts: Counter[str] = Counter()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._patience, self._looked = deadline, time.monotonic()
        self._close = weakref.finalize(self, _kill_all, self._workers)  # also runs at exit

    def map(self, calls: Sequence[Sequence[object]]) -> list[float]:
        """The function's value for each call, in order; NaN where time was up or the call failed."""
        values = [math.nan] * len(calls)
        with self._lock:
            waiting = deque(range(len(calls)))
            self.counts["calls"] += len(calls)
            try:
                while waiting or any(worker.call is not None for worker in self._workers):
                    self._give(waiting, calls)
                    self._take(values)
            finally:  # after Ctrl-C a busy worker would answer the next map with this one's value
                self._drop([worker for worker in self._workers if worker.call is not None])
        return values

    def close(self) -> None:
        """Ends all workers. The pool can be used again."""
        with self._lock:
            _kill_all(self._workers)

    def _give(self, waiting: deque[int], calls: Sequence[Sequence[object]]) -> None:
        idle = [worker for worker in self._workers if worker.ready and worker.call is None]
        for worker in idle[: len(waiting)]:
            call = waiting.popleft()
            worker.send(call, calls[call], self._seconds())
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.size - len(self._workers), len(waiting) - starting)):
            self._workers.append(self._start())

    def _seconds(self) -> float:
        """What the next call may take."""
        now = time.monotonic()
        self._patience = min(self.deadline, self._patience + _REFILL * (now - self._looked))
        self._looked = now
        return max(_LEAST * self.deadline, self._patience)

    def _take(self, values: list[float]) -> None:
        """Waits for the first reply or deadline, and handles everything that is there."""
        pending = [worker for worker in self._workers if worker.call is not None or not worker.ready]
        if not pending:
            return
        with selectors.DefaultSelector() as selector:
            for worker in pending:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            wait = max(0.0, min(worker.due for worker in pending) - time.monotonic())
            replied = [key.data for key, _ in selector.select(wait)]
        for worker in replied:
            self._read(worker, values)
        now = time.monotonic()
        late = [worker for worker in pending if worker not in replied and worker.due <= now]
        if any(not worker.ready for worker in late):
            self._fail_start(f"it did not start within {_START_SECONDS:.0f} s")
        self.counts["timeouts"] += len(late)
        self._patience = max(0.0, self._patience - sum(worker.given for worker in late) / self.size)
        self._drop(late)

    def _read(self, worker: _Worker, values: list[float]) -> None:
        assert worker.process.stdout is not None
        chunk = os.read(worker.process.stdout.fileno(), 1 << 16)
        worker.buffer += chunk
        if chunk and not worker.buffer.endswith(b"\n"):
            return
        if not chunk:
            if not worker.ready:
                self._fail_start("it ended at once")
            self.counts["crashes"] += 1
            self._drop([worker])
            return
        reply = json.loads(worker.buffer)
        worker.buffer.clear()
        if "failed" in reply:
            self._fail_start(reply["failed"])
        elif "ready" in reply:
            worker.ready = True
        else:
            assert worker.call is not None
            self.counts["errors"] += "error" in reply
            values[worker.call] = reply.get("value", math.nan)
            worker.call = None

    def _start(self) -> _Worker:
        arguments = [str(self.file), self.function, str(self.deadline), str(self.memory), str(os.getpid())]
        process = start(
            [sys.executable, "-P", str(_WORKER), *arguments],  # -P: files beside worker.py must not shadow modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        return _Worker(process, due=time.monotonic() + _START_SECONDS)

    def _drop(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.kill()
            self._workers.remove(worker)

    def _fail_start(self, reason: str) -> None:
        _kill_all(self._workers)
        raise RuntimeError(
            f"the verifier process for {self.function} in {self.file} cannot run: {reason}. "
            "Check that its imports work in this Python environment."
        )


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()
