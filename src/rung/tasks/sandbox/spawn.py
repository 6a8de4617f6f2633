"""Starting processes that end with ours, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

STARTING = 120.0  # seconds that the system may take to start a process
ENDING = 5.0  # seconds that a killed one may take to be gone

_starters: dict[int, ThreadPoolExecutor] = {}  # by process: a forked child has no thread of its parent's


def end_with(parent: int) -> None:
    """Called in a child: the kernel ends it when the thread that started it ends; elsewhere than on Linux a thread looks."""
    if sys.platform == "linux":
        from rung.tasks.sandbox.kernel import die_with_parent

        die_with_parent(parent)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """The process. It asks the kernel to be killed when the thread that started it ends, so one thread starts them all."""
    if os.getpid() not in _starters:
        _starters[os.getpid()] = ThreadPoolExecutor(1, "rung-start")
    process: Future[subprocess.Popen[bytes]] = _starters[os.getpid()].submit(lambda: subprocess.Popen(command, **how))
    try:
        return process.result(STARTING)
    except TimeoutError as error:
        raise RuntimeError(f"the system did not start {command[0]} within {STARTING:.0f} s ({error!r})") from error


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it at once. One that the kernel does not let go (a dead disk) is not waited for long."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDING)
