"""Faults inside a program that is to be disturbed: called in the forked child, never part of what is tested."""

import atexit
import ctypes
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PRIVATE, NEW_NS, READ_ONLY, REMOUNT = 1 << 18 | 1 << 14, 0x00020000, 1, 32
OVERRIDE = (1, 2)  # the capabilities of a superuser to write and read whatever the permissions say


class Fuse:
    """Ends this process by SIGKILL at its n-th event: a call of a function, in Python or in C.

    where: "anywhere", or "writing": of those that rung/io and what saves make.
    """

    WRITERS = re.compile(
        r"rung/io/(run_dir|files|checkpoints|state)\.py$|rung/training/(checkpoint|saving|held_out)\.py$"
    )

    def __init__(self, at: int = 0, where: str = "anywhere") -> None:
        self.at, self.where = at, where
        self.seen = [0, 0]
        self.known: dict[str, bool] = {}

    def __call__(self, frame, event, arg) -> None:
        if event not in ("call", "c_call"):
            return
        name = frame.f_code.co_filename
        if name not in self.known:
            self.known[name] = bool(self.WRITERS.search(name))
        self.seen[0] += 1
        self.seen[1] += self.known[name]
        if self.at and self.seen[self.where == "writing"] >= self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def light(self) -> None:
        sys.setprofile(self)

    def count(self, tell: Callable[[list[int]], object]) -> None:
        """Let nothing happen, and tell how many there were."""
        self.light()
        end = os._exit

        def leave(status: int) -> None:
            sys.setprofile(None)
            tell(self.seen)
            end(status)

        os._exit = leave
        atexit.register(lambda: None)


def at(event: str, pattern: str, nth: int, do: Callable[[], object]) -> None:
    """Do something right before the n-th audited event (open for writing, os.mkdir, os.rename) on a path that fits."""
    found, seen = re.compile(pattern), [0]

    def hook(name: str, arguments: tuple) -> None:
        if name != event or seen[0] >= nth or not arguments or not isinstance(arguments[0], str | bytes):
            return
        if name == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if found.search(os.fsdecode(arguments[0])):
            seen[0] += 1
            if seen[0] == nth:
                do()

    sys.addaudithook(hook)


def at_tensors(pattern: str, nth: int, do: Callable[[], object]) -> None:
    """The same before the n-th file of tensors, which no Python opens."""
    import safetensors.torch as library

    write, found, seen = library.serialize_file, re.compile(pattern), [0]

    def serialize_file(tensors, filename, *args, **named):
        if found.search(os.fspath(filename)):
            seen[0] += 1
            if seen[0] == nth:
                do()
        return write(tensors, filename, *args, **named)

    library.serialize_file = serialize_file


# -- disks -----------------------------------------------------------------------------------------------------------
def own_disk(folder: Path, megabytes: int) -> str | None:
    """A disk of that size in `folder`, which ends with this process; why there is none, if there is none."""
    if LIBC.unshare(NEW_NS) or LIBC.mount(b"none", b"/", None, PRIVATE, None):
        return f"no mount namespace ({os.strerror(ctypes.get_errno())})"
    if LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={megabytes}m".encode()):
        return f"no tmpfs ({os.strerror(ctypes.get_errno())})"
    return None


def fill(disk: Path, leave: int) -> None:
    """Nothing but `leave` bytes is free any more."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        file.truncate(max(file.tell() - leave, 0))


def no_growth(leave: int) -> None:
    """Where no disk can be made: no file may become longer than `leave` bytes, which fails with "File too large"."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (leave, resource.RLIM_INFINITY))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def like_others() -> None:
    """A superuser, too, may write only what the permissions allow."""
    if os.geteuid():
        return
    header, data = _Header(0x20080522, 0), (_Data * 2)()
    assert LIBC.capget(ctypes.byref(header), data) == 0
    for number in OVERRIDE:
        data[0].effective &= ~(1 << number)
        data[0].permitted &= ~(1 << number)
    assert LIBC.capset(ctypes.byref(header), data) == 0


# -- the harness itself ------------------------------------------------------------------------------------------------
def plant() -> None:
    """A bug: whatever goes on has one weight that is other than it was, in its last digit."""
    import torch

    from rung.training.learner import LocalLearner

    restore = LocalLearner.restore

    def other(self, directory):
        restore(self, directory)
        with torch.no_grad():
            weight = self.parameters[0].view(-1)
            weight[0] = torch.nextafter(weight[0], weight[0] + 1)

    LocalLearner.restore = other


# -- memory and time -------------------------------------------------------------------------------------------------
def memory_left(megabytes: int) -> None:
    """From now on this process gets that much more memory."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), resource.RLIM_INFINITY))


def clock(jumps: Callable[[int], float]) -> None:
    """time.time() is off by jumps(n) seconds at its n-th call."""
    calls, true = [0], time.time

    def jumping() -> float:
        calls[0] += 1
        return true() + jumps(calls[0])

    time.time = jumping


def thread_that_stays() -> None:
    threading.Thread(target=time.sleep, args=(3600,)).start()
