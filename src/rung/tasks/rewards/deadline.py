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
from functools import partial
from typing import Any, TypeVar

from rung.tasks.rewards.coroutines import Begun, Place, place, settled

T = TypeVar("T")
DEADLINE = 600.0  # seconds that a reward function may take for all answers to one problem
LOOK = 0.1  # seconds between two looks at the clock
AGAIN = 1.0  # seconds until one that caught its end is told again


class Late(Exception):
    """A call's time was up."""


class Up(BaseException):
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
            raise Up(f"{seconds:g} s")

    before, outer = signal.signal(signal.SIGURG, ended), watcher.due
    watcher.due = time.monotonic() + seconds
    try:
        return call()
    except Up as error:
        raise Late(*error.args) from error
    finally:
        watcher.due = outer
        signal.signal(signal.SIGURG, before)


def _beside(seconds: float, call: Callable[[], T]) -> T:
    (result,) = side_by_side([call], seconds)
    return result


def side_by_side(calls: Sequence[Callable[[], T]], seconds: float | None = None, *, in_order: bool = False) -> list[T]:
    """What the calls return, made at the same time; the first of them that raised, raises. None of them keeps the program alive.

    in_order: each begins once all before it have ended or wait for a coroutine, so that what they do themselves is done as
    if one were made after the other; none begins after one that raised.
    """
    places = [Place() for _ in calls]
    results: list[Any] = [None] * len(calls)
    errors: dict[int, BaseException] = {}
    gone = threading.Event()

    def made(i: int) -> Callable[[], None]:
        def call() -> None:
            place.set(places[i] if len(calls) > 1 else place.get())
            for before in places[:i] if in_order else ():
                before.waits.wait()
            try:
                if not gone.is_set() and not (in_order and errors):
                    results[i] = calls[i]()
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                errors[i] = error
            finally:
                places[i].waits.set()

        return call

    threads = [_thread(made(i)) for i in range(len(calls))]
    end = None if seconds is None else time.monotonic() + seconds
    try:
        for i, thread in enumerate(threads):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
            if thread.is_alive():
                raise Late(f"{seconds:g} s")
            if i in errors:
                raise errors[i]
    except BaseException:  # nobody wants the other results any more
        gone.set()
        for future in (x for each in places for x in each.begun):
            future.cancel()
        raise
    return results


def start(call: Callable[[], Any], *, beside: bool = False) -> Callable[[], Any]:
    """Make a call now, or `beside` in a thread of its own; what comes back returns or raises what it did.

    A coroutine that the call returns runs from now on, and is waited for then.
    """
    if not beside:
        first = outcome(lambda: Begun(call()))
        return lambda: first()()
    done: list[Callable[[], Any]] = []
    thread = _thread(lambda: done.append(outcome(lambda: settled(call()))))

    def wait() -> Any:
        thread.join()
        return done[0]()

    return wait


def outcome(call: Callable[[], T]) -> Callable[[], T]:
    """Make a call now; what comes back returns or raises what it did."""
    try:
        value = call()
    except (KeyboardInterrupt, Up):
        raise
    except BaseException as error:  # noqa: BLE001  raised where it is asked for
        return partial(_raise, error)
    return lambda: value


def _raise(error: BaseException) -> Any:
    raise error


def _thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=contextvars.copy_context().run, args=(call,), name="rung-call", daemon=True)
    thread.start()
    return thread
