"""A process that forks judged programs and their judges, each confined before it sees what it shall run.

It holds no program, no tests and no secret: both go to the children over descriptors that it passes on unread. Standard
input is a socket to the process that started it (jail.py); a request is one JSON message with its descriptors. The end
of that socket is our end, and with us the kernel ends our children.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from . import judge, kernel, program, tests
from .wire import Line

FILE = 8 << 20  # bytes
DISK = 32 << 20
OPEN_FILES = 64
COMMON = ("datetime", "enum", "json", "operator", "random", "statistics", "typing")  # read once, for all programs
DEEP = 3000  # calls


@dataclass(frozen=True)
class Settings:
    """How children are confined.

    scratch:  the directory of programs; "" is none.  readable: where Python and its libraries live.
    own_mount: put a small file system of ours on `scratch`.  confine: by Landlock and seccomp.
    parent:   the process id of who started us, where we can see it.
    """

    readable: Sequence[str]
    scratch: str
    own_mount: bool
    confine: bool
    memory: int
    parent: int | None


def confine(settings: Settings, scratch: str, seconds: float) -> None:
    """Gives up what a program does not need, for good; an error if the kernel cannot."""
    memory = settings.memory
    kernel.limit(cpu=int(seconds) + 1, as_=memory, fsize=FILE, nofile=OPEN_FILES, nproc=0, core=0)
    if settings.confine:
        kernel.drop_capabilities()
        kernel.confine_files(settings.readable, scratch)
        kernel.confine_calls()


def forked(kept: Sequence[int], work: Callable[[], None]) -> int:
    """A child that does `work` with only `kept` open; the standard descriptors lead nowhere. Its process id."""
    us = os.getpid()
    child = os.fork()
    if child:
        return child
    with contextlib.suppress(BaseException):
        if sys.platform == "linux":
            kernel.die_with_parent(us)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        first = 3
        for descriptor in sorted(kept):
            os.closerange(first, descriptor)
            first = descriptor + 1
        os.closerange(first, 1 << 12)
        work()
    os._exit(0)


def run_program(settings: Settings, source: int, line: int, seconds: float) -> None:
    text = Line(source).receive()
    os.close(source)
    if settings.scratch:
        os.chdir(settings.scratch)
    confine(settings, settings.scratch, seconds)
    program.serve(text, Line(line))


def run_judge(settings: Settings, line: int, parent: int, seconds: float, patience: float) -> None:
    confine(settings, "", 2 * (seconds + patience))  # who started us ends it earlier
    judge.main(Line(line, seconds), Line(parent))


# -- what is really refused --------------------------------------------------------------------------------------------
def trial(settings: Settings, report: int) -> None:
    """Tries what a program must not do, as a program, and reports what was refused."""
    line = Line(report)
    try:
        if settings.scratch:
            os.chdir(settings.scratch)
        confine(settings, settings.scratch, 60)
        if settings.scratch:
            with open("trial", "w", encoding="utf-8") as file:
                file.write("1")
            os.remove("trial")
    except OSError as error:
        line.send({"error": str(error)})
        return
    refused = {name: all(_refused(attempt) for attempt in attempts) for name, attempts in _attempts(settings).items()}
    line.send({"refused": refused})


def _attempts(settings: Settings) -> dict[str, list[Callable[[], Any]]]:
    writing = os.O_WRONLY | os.O_CREAT
    return {
        "files": [
            lambda: os.open("/etc/passwd", os.O_RDONLY),
            lambda: os.listdir("/etc"),
            lambda: os.open(os.path.join(settings.readable[0], "rung-trial"), writing),
            lambda: os.chmod(settings.readable[0], 0o755),
        ],
        "network": [lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_UNIX)],
        "processes": [_fork],
        "signals": [lambda: os.kill(os.getppid(), 0)],
        "memory": [lambda: bytearray(settings.memory)],
        "disk": [lambda: _small(settings.scratch)],
    }


def _refused(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except (OSError, MemoryError):
        return True
    return False


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _small(scratch: str) -> None:
    """Refused: there is no directory, or its file system is small."""
    if not scratch or (size := os.statvfs(scratch)).f_blocks * size.f_frsize <= 2 * DISK:
        raise OSError


def tried(settings: Settings) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = forked([writing], lambda: trial(settings, writing))
    os.close(writing)
    report: dict[str, Any] = Line(reading).receive()
    os.close(reading)
    os.waitpid(child, 0)
    return report


# -- requests ----------------------------------------------------------------------------------------------------------
def serve(control: socket.socket, settings: Settings) -> NoReturn:
    """{"seconds", "patience"} and four descriptors begin a judgement; {"end"} ends it and says whether all is clean."""
    children: list[int] = []
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 12, 4)
        request = json.loads(data or b'{"end": true}')
        if "end" in request:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            children.clear()
            if not data:
                os._exit(0)
            clean = not (settings.scratch and os.listdir(settings.scratch))
            control.sendall(json.dumps({"clean": clean}).encode())
            continue
        source, asked, asking, parent = descriptors
        seconds, patience = request["seconds"], request["patience"]
        children.append(forked([source, asked], lambda: run_program(settings, source, asked, seconds)))  # noqa: B023
        children.append(forked([asking, parent], lambda: run_judge(settings, asking, parent, seconds, patience)))  # noqa: B023
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    try:
        settings = Settings(**json.loads(sys.argv[1]))
        if settings.own_mount:
            kernel.leave_namespaces(settings.scratch, DISK)
        if settings.parent is not None and sys.platform == "linux":
            kernel.die_with_parent(settings.parent)
        for name in (*tests.HELPERS, *COMMON):
            importlib.import_module(name)
        sys.setrecursionlimit(DEEP)
        gc.collect()
        gc.freeze()
        report = tried(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        report = {"error": f"{type(error).__name__}: {error}"}
    control.sendall(json.dumps(report).encode() + b"\n")
    if "error" not in report:
        serve(control, settings)
