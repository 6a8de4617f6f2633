"""One line on standard error while there is nothing else to show yet; on a terminal the first output takes its place."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


class Waiting:
    """`say` shows or replaces the line, `end` takes it away. Where nothing can be taken away, one plain line stays."""

    shown = False

    def say(self, text: str) -> None:
        if _erases():
            sys.stderr.write(f"\r{text} ...\x1b[K")
        elif not self.shown:
            sys.stderr.write(f"{text} ...\n")
        sys.stderr.flush()
        self.shown = True

    def end(self) -> None:
        if self.shown and _erases():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self.shown = False


waiting = Waiting()


@contextmanager
def loading(text: str) -> Iterator[None]:
    """Modules are imported inside: nothing of them is garbage, and not looking for any saves a fifth of the time."""
    waiting.say(text)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _erases() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def load(module: str) -> None:
    """Import what a command needs. torch takes seconds, so the terminal says what it waits for."""
    if module and "torch" not in sys.modules:
        with loading("loading torch"):
            import_module(module)
