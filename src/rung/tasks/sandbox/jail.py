"""Sandboxes: where a model's program runs, and what the machine must refuse it there before it runs at all.

Bubblewrap where it is installed, else the kernel's own Landlock, seccomp and namespaces, else nothing, unless the user
asks for it. Whichever it is, a trial in it says what is really refused (zygote.py); a sandbox that lets something
through is not taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rung.errors import InputError, setting
from rung.tasks.sandbox.spawn import kill, start
from rung.tasks.sandbox.wire import Broken, Line

_HERE = Path(__file__).parent
_BOOT = f"""
import sys, importlib.util as u
spec = u.spec_from_file_location("rung_jail", {str(_HERE / "__init__.py")!r}, submodule_search_locations=[{str(_HERE)!r}])
sys.modules["rung_jail"] = module = u.module_from_spec(spec)
spec.loader.exec_module(module)
from rung_jail.zygote import main
main()
"""
LIBRARIES = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
DEVICES = ("/dev/urandom", "/dev/random", "/dev/zero")
PLACES = ("/tmp", "/var/tmp", "/mnt", "/media", "/srv", "/run")  # one of them is covered, unseen by anyone else
STARTING, ENDING = 60.0, 10.0  # seconds


class Sandbox(Protocol):
    """A way to start the process that judged programs are forked from."""

    @property
    def name(self) -> str: ...

    def command(self, python: Sequence[str], scratch: str) -> list[str]:
        """The command that runs `python` inside."""
        ...

    def settings(self) -> dict[str, Any]:
        """What zygote.py must do itself; `scratch` "own" stands for a temporary directory."""
        ...


def readable() -> list[str]:
    """Where this Python and its libraries live: not all of its prefix, which may be a project's own directory."""
    prefixes = [*(sys.prefix, sys.base_prefix, sys.exec_prefix), os.path.realpath(sys.base_prefix)]
    parts = [os.path.join(prefix, part) for prefix in prefixes for part in ("bin", "lib", "lib64", "pyvenv.cfg")]
    programs = [os.path.dirname(sys.executable), os.path.dirname(os.path.realpath(sys.executable))]
    paths = [*parts, *programs, *sysconfig.get_paths().values(), os.path.dirname(os.__file__), str(_HERE), *LIBRARIES]
    return [path for path in dict.fromkeys(paths) if path not in (*prefixes, "/") and os.path.exists(path)]


@dataclass(frozen=True)
class Bubblewrap:
    """`bwrap`: a file system that holds Python and nothing else, and namespaces of its own; then what `Kernel` does."""

    program: str
    name: str = "bubblewrap"

    def command(self, python: Sequence[str], scratch: str) -> list[str]:
        shown = [word for path in readable() for word in ("--ro-bind", path, path)]
        devices = [word for path in ("/dev/null", *DEVICES) for word in ("--dev-bind", path, path)]
        size = ["--size", str(32 << 20), "--tmpfs", scratch]
        apart = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        return [self.program, *apart, *shown, *devices, *size, "--chdir", "/", *python]

    def settings(self) -> dict[str, Any]:
        return {"scratch": "/rung", "own_mount": False, "confine": True, "parent": None}


@dataclass(frozen=True)
class Kernel:
    """Landlock and seccomp; `own_directory`: in namespaces of its own, where programs have a small directory."""

    own_directory: bool = True

    @property
    def name(self) -> str:
        return "Landlock, seccomp and namespaces" if self.own_directory else "Landlock and seccomp"

    def command(self, python: Sequence[str], scratch: str) -> list[str]:
        return list(python)

    def settings(self) -> dict[str, Any]:
        taken = [Path(path) for path in readable()]
        free = [place for place in PLACES if os.path.isdir(place) and not any(p.is_relative_to(place) for p in taken)]
        scratch = free[0] if free and self.own_directory else ""
        return {"scratch": scratch, "own_mount": bool(scratch), "confine": True, "parent": os.getpid()}


@dataclass(frozen=True)
class Unconfined:
    """Resource limits only: for machines that have nothing better, where the user says so."""

    name: str = "no sandbox"

    def command(self, python: Sequence[str], scratch: str) -> list[str]:
        return list(python)

    def settings(self) -> dict[str, Any]:
        return {"scratch": "own", "own_mount": False, "confine": False, "parent": os.getpid()}


# -- one jail ----------------------------------------------------------------------------------------------------------
class Jail:
    """One running sandbox: judges one program at a time."""

    def __init__(self, sandbox: Sandbox, memory: int) -> None:
        settings = sandbox.settings()
        self._own = tempfile.mkdtemp(prefix="rung-code-") if settings["scratch"] == "own" else ""
        settings["scratch"] = self._own or settings["scratch"]
        settings |= {"readable": [*readable(), *DEVICES], "memory": memory}
        self.control, theirs = socket.socketpair()
        python = [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", _BOOT, json.dumps(settings)]
        env = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        with theirs:
            self.process = start(
                sandbox.command(python, settings["scratch"]),
                stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=env, start_new_session=True,
            )  # fmt: skip
        try:
            self.report: dict[str, Any] = Line(self.control.fileno(), STARTING).receive()
        except Broken as broken:
            self.report = {"error": f"it did not start ({broken})"}
        if "error" in self.report:
            self.close()

    def judge(self, program: str, tests: Sequence[str], seconds: float, patience: float) -> dict[str, Any]:
        """The judge's verdict, or "died", or "timeouts" with `alone`: no word of the program had reached the tests."""
        pairs = [socket.socketpair() for _ in range(3)]
        (source, to_program), (asked, asking), (parent, judge) = pairs
        with contextlib.ExitStack() as stack:
            for end in (source, to_program, asked, asking, parent, judge):
                stack.enter_context(end)
            request = json.dumps({"seconds": seconds, "patience": patience}).encode()
            try:
                theirs = (to_program, asked, asking, judge)
                socket.send_fds(self.control, [request], [end.fileno() for end in theirs])
                for end in theirs:
                    end.close()
                with contextlib.suppress(Broken):  # the program's process died: its judge sees that too
                    Line(source.fileno(), seconds).send(program)
                return _verdict(Line(parent.fileno(), seconds + patience), tests)
            except OSError:  # the whole jail died, or was closed while we waited
                return {"verdict": "died", "why": "the sandbox ended"}

    def end(self) -> bool:
        """Ends what was begun. False: the jail is spent, since the program left files, or nobody answered."""
        try:
            self.control.sendall(b'{"end": true}')
            self.control.settimeout(ENDING)
            return bool(json.loads(self.control.recv(1 << 12) or b"{}").get("clean"))
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        kill(self.process)
        self.control.close()
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)


def _verdict(line: Line, tests: Sequence[str]) -> dict[str, Any]:
    alone = False
    try:
        line.send(list(tests))
        while True:
            said = line.receive()
            if "verdict" in said:
                return dict(said)
            alone = said["alone"]
    except Broken as broken:
        return {"verdict": "timeouts" if broken.late else "died", "why": str(broken), "alone": alone}


# -- the jails of a process --------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Jails:
    """Warm jails of one kind, as many as there are judgements at the same time."""

    sandbox: Sandbox
    memory: int
    _idle: list[Jail] = field(default_factory=list, init=False)
    _all: list[Jail] = field(default_factory=list, init=False)
    _closed: int = field(default=0, init=False)  # times
    _lock: Any = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, close_all, self._all)

    def judge(self, program: str, tests: Sequence[str], seconds: float, patience: float) -> dict[str, Any]:
        jail = self._taken()
        if jail is None:
            return {"verdict": "died", "why": "the sandbox was closed"}
        verdict = jail.judge(program, tests, seconds, patience)
        clean = jail.end()
        with self._lock:
            if clean:
                self._idle.append(jail)
            elif jail in self._all:
                self._all.remove(jail)
        if not clean:
            jail.close()
        return verdict

    def _taken(self) -> Jail | None:
        """An idle jail or a new one; None if all were closed while it started."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            closed = self._closed
        jail = Jail(self.sandbox, self.memory)
        if "error" in jail.report:
            raise RuntimeError(f"the sandbox ({self.sandbox.name}) no longer starts: {jail.report['error']}.")
        with self._lock:
            if closed == self._closed:
                self._all.append(jail)
                return jail
        jail.close()
        return None

    def close(self) -> None:
        """Ends all jails, busy ones too; who waits for one gets "died"."""
        with self._lock:
            self._closed += 1
            self._idle.clear()
            close_all(self._all)


def close_all(jails: list[Jail]) -> None:
    while jails:
        jails.pop().close()


_by_process: dict[tuple[int, bool, int], Jails] = {}


def jails(unsafe: bool, memory: int) -> Jails:
    """This process's jails; a forked child has none of its parent's."""
    key = os.getpid(), unsafe, memory
    if key not in _by_process:
        _by_process[key] = Jails(chosen(unsafe)[0], memory)
    return _by_process[key]


@cache
def chosen(unsafe: bool) -> tuple[Sandbox, tuple[str, ...]]:
    """The first sandbox in whose trial all was refused, and what this machine does not do in it."""
    missed = []
    for sandbox in _candidates():
        lets = trial(sandbox)
        if not lets:
            directory = sandbox.settings()["scratch"]
            return sandbox, () if directory else ("programs have no directory of their own: they cannot write files",)
        missed.append(f"{sandbox.name}: {', '.join(lets)}")
    if unsafe:
        return Unconfined(), (f"programs run with your own rights; not limited: {', '.join(trial(Unconfined()))}",)
    raise InputError(
        "the verifier 'code' runs a model's programs, and this machine has no sandbox for them ("
        + "; ".join(missed or ["only Linux has one"])
        + "). Install bubblewrap (apt install bubblewrap), use Linux 5.13 or later with Landlock, or say "
        f"{setting('task_options.unsafe_code', True)} to run them with your own rights."
    )


def _candidates() -> list[Sandbox]:
    if sys.platform != "linux":
        return []
    program = shutil.which("bwrap")
    return [*([Bubblewrap(program)] if program else []), Kernel(), Kernel(own_directory=False)]


def trial(sandbox: Sandbox, memory: int = 1 << 30) -> list[str]:
    """What the sandbox lets through, or why it does not start; nothing if it is one."""
    jail = Jail(sandbox, memory)
    if "error" in jail.report:
        return [str(jail.report["error"])]
    jail.close()
    return [name for name, refused in jail.report["refused"].items() if not refused]
