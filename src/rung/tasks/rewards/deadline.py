"""A call of the user's with an end: one that hangs is given up, by name, and Ctrl-C ends it at once.

In the main thread it stays there, since libraries that judge answers use signals of their own, and a watcher sends SIGURG (which
does nothing where nobody waits for it) when its time is up. In any other thread it gets a thread of its own.
"""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
DEADLINE = 600.0  # seconds that a reward function may take for all answers to one problem
LOOK = 0.1  # seconds between two looks at the clock
AGAIN = 1.0  # seconds until one that caught its end is told again


class Late(Exception):
    """A call's time was up."""


class _Up(BaseException):
    """Raised inside the call: no handler of Exception is meant."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns.

    Raises:
        Late: it took longer.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGURG"):
        return _here(seconds, call)
    return _beside(seconds, call)


class _Watcher:
    """One thread for all calls; `due`: when the main thread's call must have ended, or None."""

    def __init__(self) -> None:
        self.due: float | None = None
        self.main = threading.main_thread().ident
        threading.Thread(target=self._watch, name="rung-deadline", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK)
            if self.up() and self.main is not None:
                signal.pthread_kill(self.main, signal.SIGURG)
                time.sleep(AGAIN)

    def up(self) -> bool:
        due = self.due
        return due is not None and time.monotonic() > due


_watchers: dict[int, _Watcher] = {}  # by process: a forked child has no thread of its parent's


def _here(seconds: float, call: Callable[[], T]) -> T:
    if os.getpid() not in _watchers:
        _watchers[os.getpid()] = _Watcher()
    watcher = _watchers[os.getpid()]

    def ended(number: int, frame: Any) -> None:
        if watcher.up():
            raise _Up(f"{seconds:g} s")

    before, outer = signal.signal(signal.SIGURG, ended), watcher.due
    watcher.due = time.monotonic() + seconds
    try:
        return call()
    except _Up as error:
        raise Late(*error.args) from error
    finally:
        watcher.due = outer
        signal.signal(signal.SIGURG, before)


def _beside(seconds: float, call: Callable[[], T]) -> T:
    (result,) = side_by_side([call], seconds)
    return result


def side_by_side(calls: Sequence[Callable[[], T]], seconds: float | None = None) -> list[T]:
    """What the calls return, made at the same time; the first of them that raised, raises. None of them keeps the program alive."""
    results: list[Any] = [None] * len(calls)
    errors: dict[int, BaseException] = {}
    threads = [_thread(i, call, results, errors) for i, call in enumerate(calls)]
    end = None if seconds is None else time.monotonic() + seconds
    for i, thread in enumerate(threads):
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
        if thread.is_alive():
            raise Late(f"{seconds:g} s")
        if i in errors:
            raise errors[i]
    return results


def _thread(i: int, call: Callable[[], Any], results: list[Any], errors: dict[int, BaseException]) -> threading.Thread:
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results[i] = context.run(call)
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            errors[i] = error

    thread = threading.Thread(target=run, name="rung-call", daemon=True)
    thread.start()
    return thread
