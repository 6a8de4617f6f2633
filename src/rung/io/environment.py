"""Where a number came from: versions, commit, hardware, command line."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rung import __version__


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)


def _git(*arguments: str) -> str | None:
    """Standard output of git in the current directory, None without git or outside a repository."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _directory() -> str | None:
    """Where the command was given; None: that folder is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None


def waited() -> float | None:
    """Seconds so far in which this thread could have run and other work had the processor; None: the system does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next step instead of returning them to the system page by page.

    A step allocates and frees gigabytes; without this each of them is mapped and cleared again (docs/performance.md).
    Does nothing on another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # <malloc.h>
    mallopt(arena_max, 1)  # what the backward's threads free is of use to the forward
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def describe_environment(device: str | None = None) -> dict[str, Any]:
    """Versions, commit, hardware, command line: everything but the config that a number may depend on.

    device: what the model computes on.
    """
    import torch  # here, so that reading a run does not wait for it

    gpu, changes = torch.cuda.is_available(), _git("status", "--porcelain")
    pages = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "directory": _directory(),
        "versions": {"python": platform.python_version(), "rung": __version__}
        | {name: _version(name) for name in ("torch", "transformers", "safetensors", "numpy")},
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)},
        "platform": platform.platform(),
        "device": device,
        "cpu": _cpu(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1) if pages else None,
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpus": torch.cuda.device_count(),
    }
