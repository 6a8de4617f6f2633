"""Starting processes that end with ours, whatever ends it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_starters: dict[int, ThreadPoolExecutor] = {}  # by process: a forked child has no thread of its parent's


def start(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """The process. It asks the kernel to be killed when the thread that started it ends, so one thread starts them all."""
    if os.getpid() not in _starters:
        _starters[os.getpid()] = ThreadPoolExecutor(1, "rung-start")
    process: Future[subprocess.Popen[bytes]] = _starters[os.getpid()].submit(lambda: subprocess.Popen(command, **how))
    return process.result()
