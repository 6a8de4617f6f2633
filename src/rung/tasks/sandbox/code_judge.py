"""Runs a program's unit tests in two processes with limits: the tests here, the program in a child that never sees them.

A plain script, started by `code.py` in a session of its own; it imports nothing of the package. Standard input holds
two JSON lines: the program with its limits, then (read only after the child has been forked, so that they are nowhere
in its memory) the tests. One JSON line comes back: {"verdict": "passed" | "failed" | "slow" | "unsure", "why": text}.

The tests call the program's functions and classes over a pipe. What comes back is plain data, decoded here, so that
neither an object that equals everything, nor an exit before the tests, nor a redefined `all` can pass one.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import itertools
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

REPLY = 16 << 20  # bytes; a longer value is not judged but refused
FILE_BYTES = 8 << 20
ITEMS = 100_000  # of an iterator
HELPERS = {"bisect", "collections", "copy", "functools", "heapq", "itertools", "math", "random", "re", "string", "sys"}


# -- plain data as JSON ------------------------------------------------------------------------------------------------
def encode(value: Any, keep: Any) -> Any:
    """Tagged JSON of plain data; any other object is kept by `keep` and named by a number."""
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    for tag, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {tag: [encode(item, keep) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), keep)
    return {"object": keep(value)}


def decode(data: Any, find: Any) -> Any:
    """The value of `encode`'s JSON, made of exactly the built-in types; `find` turns an object's number into one."""
    if not isinstance(data, dict):
        return data
    ((tag, content),) = data.items()
    if tag == "object":
        return find(content)
    if tag == "dict":
        return {decode(key, find): decode(item, find) for key, item in content}
    if tag == "complex":
        return complex(*content)
    if tag == "bytes":
        return bytes.fromhex(content)
    items = [decode(item, find) for item in content]
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](items)


# -- the program's side ------------------------------------------------------------------------------------------------
def serve(program: str, requests: int, replies: int) -> None:
    """Runs the program, then answers calls of what it defined until the pipe closes."""
    objects: list[Any] = []

    def keep(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def reply(**fields: Any) -> None:
        data = json.dumps(fields).encode() + b"\n"
        while data:
            data = data[os.write(replies, data) :]

    names: dict[str, Any] = {"__name__": "__answer__"}
    try:
        exec(compile(program, "<answer>", "exec"), names)
    except BaseException as error:  # noqa: BLE001 - a program may raise anything, SystemExit too
        reply(raised=[type(error).__name__, str(error)[:300]])
        return
    own = [name for name in names if not name.startswith("__")]
    reply(names={name: keep(names[name]) for name in own if type(names[name]) is not type(sys)})
    for line in os.fdopen(requests, encoding="utf-8"):
        try:
            what, number, raw, raw_named = json.loads(line)
            args = [decode(item, objects.__getitem__) for item in raw]
            named = {key: decode(item, objects.__getitem__) for key, item in raw_named.items()}
            value = _do(what, objects[number], args, named)
            reply(value=encode(value, keep), args=[encode(item, keep) for item in args] if what == "call" else [])
        except BaseException as error:  # noqa: BLE001 - a program may raise anything, SystemExit too
            reply(raised=[type(error).__name__, str(error)[:300]])


def _do(what: str, target: Any, args: list[Any], named: dict[str, Any]) -> Any:
    if what == "call":
        return target(*args, **named)
    if what == "get":
        return getattr(target, args[0])
    if what == "iter":
        return list(itertools.islice(target, ITEMS))
    return len(target) if what == "len" else target[args[0]]


def confine(limits: dict[str, Any]) -> None:
    """What an unprivileged process can give up by itself. Later code in this process could undo parts of it."""
    seconds = int(limits["seconds"]) + 1
    for name, most in (("CPU", seconds), ("NPROC", 0), ("FSIZE", FILE_BYTES), ("NOFILE", 64), ("CORE", 0)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes

        libc = ctypes.CDLL(None)
        new_user, new_net = 0x10000000, 0x40000000
        if libc.unshare(new_net) != 0:  # root may; others may inside a user namespace of their own, on most systems
            libc.unshare(new_user | new_net)
    home = os.path.realpath(os.getcwd())
    sys.addaudithook(_guard(home))


FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "pty.",
    "ctypes.", "signal.pthread_kill", "os.startfile", "os.setxattr", "os.removexattr", "syslog.", "mmap.",
)  # fmt: skip
CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.ch",
    "os.utime",
)
LOOKS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "glob.")


def _guard(home: str) -> Any:
    """An audit hook: no sockets, no processes, writing below `home` only, reading also where Python lives."""
    readable = (home, *(os.path.realpath(p) for p in {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)}))
    devices = {"/dev/null", "/dev/urandom", "/dev/random"}
    realpath, fspath, sep = os.path.realpath, os.fspath, os.sep
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def inside(path: Any, roots: Sequence[str]) -> bool:
        if path is None or isinstance(path, int):
            return True
        place = realpath(os.fsdecode(fspath(path)))
        return place in devices or any(place == root or place.startswith(root + sep) for root in roots)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not inside(args[0], (home,) if (args[2] or 0) & writing else readable):
                raise PermissionError(f"this file is out of bounds: {args[0]}")
        elif event == "import":
            if args[0] in ("ctypes", "_ctypes"):
                raise ImportError(f"{args[0]} is out of bounds")
        else:
            moves = event.startswith(CHANGES) and not all(inside(path, (home,)) for path in args[:2])
            looks = event.startswith(LOOKS) and not all(inside(path, readable) for path in args[:1])
            if moves or looks or event.startswith(FORBIDDEN):
                raise PermissionError(f"{event} is out of bounds")

    return hook


# -- the tests' side ---------------------------------------------------------------------------------------------------
class Line:
    """The pipe to the program: one question, one reply, all within the time limit."""

    def __init__(self, requests: int, replies: int, child: int, seconds: float) -> None:
        self.requests, self.replies, self.child = requests, replies, child
        self.due, self.buffer = time.monotonic() + seconds, bytearray()

    def finish(self, verdict: str, why: str) -> NoReturn:
        """Ends both processes. Not an exception, which a test's `except` could swallow."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        os.write(1, json.dumps({"verdict": verdict, "why": why[:300]}).encode() + b"\n")
        os._exit(0)

    def read(self) -> Any:
        while not self.buffer.endswith(b"\n"):
            ready, _, _ = select.select([self.replies], [], [], max(0.0, self.due - time.monotonic()))
            if not ready:
                self.finish("slow", "the program's time was up")
            chunk = os.read(self.replies, 1 << 16)
            self.buffer += chunk
            if not chunk or len(self.buffer) > REPLY:
                slow = not chunk and os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1]) == -signal.SIGXCPU
                self.finish("slow" if slow else "failed", "too long a value" if chunk else "the program ended")
        try:
            reply = json.loads(self.buffer)
        except (ValueError, RecursionError):
            self.finish("failed", "the program broke the protocol")
        self.buffer.clear()
        return reply

    def ask(self, what: str, number: int, args: Sequence[Any], named: dict[str, Any]) -> Any:
        def known(value: Any) -> int:
            return value._number if isinstance(value, Remote) else self.finish("unsure", f"cannot pass {value!r}")

        coded = [encode(item, known) for item in args], {key: encode(item, known) for key, item in named.items()}
        data = json.dumps([what, number, *coded]).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # the program's end is seen when its reply is read
            while data:
                data = data[os.write(self.requests, data) :]
        reply = self.read()
        if "raised" in reply:
            kind = getattr(builtins, str(reply["raised"][0]), None)
            known_kind = isinstance(kind, type) and issubclass(kind, Exception)
            error: type[Exception] = kind if known_kind else RuntimeError  # type: ignore[assignment]
            raise error(reply["raised"][1])
        try:
            after = [decode(item, self.remote) for item in reply["args"]]
            value = decode(reply["value"], self.remote)
        except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
            self.finish("failed", "the program broke the protocol")
        for before, now in zip(args, after, strict=False):  # functions that change their argument in place
            if isinstance(before, list) and isinstance(now, list):
                before[:] = now
            elif isinstance(before, (dict, set)) and type(before) is type(now):
                before.clear()
                before.update(now)
        return value

    def remote(self, number: int) -> Remote:
        return Remote(self, number)


class Remote:
    """Something that lives in the program's process. It equals nothing, and is neither true nor false."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, line: Line, number: int) -> None:
        self._line, self._number = line, number

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._line.ask("call", self._number, args, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._line.ask("get", self._number, [name], {})

    def __iter__(self) -> Any:
        return iter(self._line.ask("iter", self._number, [], {}))

    def __len__(self) -> int:
        return int(self._line.ask("len", self._number, [], {}))

    def __getitem__(self, key: Any) -> Any:
        return self._line.ask("item", self._number, [key], {})

    def __bool__(self) -> bool:
        raise TypeError("an object of the program is neither true nor false")

    def __eq__(self, other: object) -> bool:
        raise TypeError("an object of the program can be compared with nothing; compare plain data")


def check(line: Line, tests: list[str]) -> NoReturn:
    """Runs the tests, one after the other, in one namespace."""
    try:
        compiled = [compile(test, f"<test {n}>", "exec") for n, test in enumerate(tests, 1)]
    except (SyntaxError, ValueError) as error:
        line.finish("unsure", f"the tests are no Python: {error}")
    first = line.read()
    if "raised" in first:
        line.finish("failed", ": ".join(map(str, first["raised"])))
    names: dict[str, Any] = {name: importlib.import_module(name) for name in HELPERS}
    for name, number in dict(first["names"]).items():
        if name not in dir(builtins) and name not in sys.stdlib_module_names:  # tests keep the real `all` and `math`
            names[name] = line.remote(number)
    for number, test in enumerate(compiled, 1):
        try:
            exec(test, names)
        except BaseException as error:  # noqa: BLE001 - a program may raise anything, SystemExit too
            line.finish("failed", f"test {number}: {type(error).__name__}: {error}")
    line.finish("passed", f"{len(compiled)} tests" if compiled else "no tests")


def _line_from_stdin() -> Any:
    data = bytearray()
    while not data.endswith(b"\n"):  # byte by byte: the tests behind the line end must stay in the pipe
        byte = os.read(0, 1)
        if not byte:
            os._exit(1)
        data += byte
    return json.loads(data)


def main() -> None:
    limits = _line_from_stdin()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    sys.setrecursionlimit(3000)
    questions, answers = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        for other in (null, questions[1], answers[0]):
            os.close(other)
        with contextlib.suppress(BaseException):
            confine(limits)
            serve(limits["program"], questions[0], answers[1])
        os._exit(0)
    os.close(questions[0])
    os.close(answers[1])
    check(Line(questions[1], answers[0], child, float(limits["seconds"])), _line_from_stdin())


if __name__ == "__main__":
    main()
