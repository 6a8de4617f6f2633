"""Signals that want the program to end (Ctrl-C, SIGTERM, SIGHUP): an exception where one may be raised, else a wish that is kept.

A second signal loses nothing that the first one saves; what ends a program at once is Ctrl-\\ (SIGQUIT) or SIGKILL.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN = 1.0  # seconds after which a further signal raises again: what is cleaned up meanwhile is not disturbed
LEAVING = 8.0  # seconds that a program which was told to end may take to do so


class Stopped(KeyboardInterrupt):
    """A signal wants the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that says so: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


class Stopping:
    """`with Stopping() as stop:` in the main thread. `stop.asked`: the first signal that came, or 0.

    Signals raise Stopped inside `with stop.open():`, or anywhere if `anywhere`; elsewhere they only set `asked`.
    heard: called at the first one, from the signal's handler.
    """

    def __init__(self, heard: Callable[[int], None] = lambda number: None, *, anywhere: bool = False) -> None:
        self.heard, self.asked = heard, 0
        self._inside, self._raised = anywhere, -AGAIN
        self._before: dict[int, object] = {}
        self._process, self._leaving = os.getpid(), False

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, or a job in the background
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._leaving else before)  # type: ignore[arg-type]

    def leave(self, status: int) -> None:
        """The program ends now, in a while at most; a further signal would only break what libraries clean up."""
        self._leaving = True
        leave_within(status)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Here a signal raises: what is left half done is done again by whoever goes on."""
        before, self._inside = self._inside, True
        try:
            self.check()
            yield
        finally:
            self._inside = before
        self.check()  # somebody caught it

    def check(self) -> None:
        if self.asked:
            raise Stopped(self.asked)

    def _ask(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a child that was forked from us ends as it would have
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        first, self.asked = not self.asked, self.asked or number
        if first:
            with suppress(RuntimeError):  # the signal came while a line was being written
                self.heard(number)
        if self._inside and time.monotonic() - self._raised >= AGAIN:
            self._raised = time.monotonic()
            raise Stopped(self.asked)


def to_nothing(stream: IO[str]) -> None:
    """From now on, what is buffered too (it is written at exit)."""
    with suppress(OSError, ValueError):
        number, nothing = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)


def lingering() -> bool:
    """Whether a thread of somebody's would keep the program alive after its end."""
    return any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate())


def leave_within(status: int, seconds: float = LEAVING) -> None:
    """Whatever still runs then (a thread of the user's, a library's cleaning up) ends with the program."""
    last = threading.Timer(seconds, os._exit, (status,))
    last.daemon = True
    last.start()
