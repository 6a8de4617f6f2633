"""What may reach a terminal: no control character of anybody's text, and no control sequence to what is none."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from typing import IO, cast

import rich.console

from rung.errors import printable
from rung.io.stopping import to_nothing


def clean(text: str, encoding: str = "utf-8", *, lines: bool = False) -> str:
    """The text with nothing left that a terminal obeys (errors.py), in the letters that it has."""
    return printable(text, lines=lines).encode(encoding, "replace").decode(encoding)


def say(text: str, stream: IO[str] | None = None) -> None:
    """One or more lines as text, on standard output; `print` would hand on what a terminal obeys."""
    print(clean(text, lines=True), file=stream, flush=True)


def say_notes(notes: Iterable[str]) -> None:
    """What a command has found out or decided unasked, on standard error, where no table is."""
    for note in notes:
        print(f"note: {clean(note)}", file=sys.stderr)


class _Pipe(io.TextIOBase):
    """A stream whose reader may go away (`| head`, Ctrl-C to a `tee`, a terminal that is closed).

    display: so may its disk (full), since a run is worth more than its display; standard error says so.
    """

    def __init__(self, stream: IO[str], display: bool) -> None:
        self.stream, self.display = stream, display

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            if not (self.display or isinstance(error, BrokenPipeError)):
                raise
            to_nothing(self.stream)
            if not isinstance(error, BrokenPipeError):
                with contextlib.suppress(OSError):
                    print(f"note: standard output is lost ({error.strerror}); the run goes on", file=sys.stderr)
        return len(text)


def make_rich(stream: IO[str], *, display: bool = False) -> rich.console.Console:
    """A rich console that sends control sequences to a terminal and to nothing else (FORCE_COLOR or not).

    display: what is shown beside the work, and not its result.
    """
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        safe = cast(IO[str], _Pipe(stream, display)) if display else stream
        return rich.console.Console(file=safe, highlight=False, markup=False, emoji=False)
    width = os.environ.get("COLUMNS", "")
    return rich.console.Console(
        file=cast(IO[str], _Pipe(stream, display)),
        width=int(width) if width.isdecimal() and int(width) >= 20 else 120,
        force_terminal=False,
        force_interactive=False,
        force_jupyter=False,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def counted(n: int, thing: str) -> str:
    """1 problem, 2 problems."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def figure(value: float, sign: str = "") -> str:
    """Three decimals; three digits of what is too small for that, and what makes large numbers differ."""
    value = 0.0 if abs(value) < 1e-15 else value  # the rest of a sum that is 0
    plain = value == 0 or 1e-3 <= abs(value) < 1e6
    return format(value, f"{sign}.3f" if plain else f"{sign}.3g" if abs(value) < 1 else f"{sign}.10g")


def span(seconds: float) -> str:
    """A stretch of time in words: 40 seconds, 12 minutes, 1.5 hours."""
    for size, unit in ((365 * 86400, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size or size == 1:
            number = seconds / size
            text = f"{number:.0f}" if number >= 9.5 or size == 1 else f"{number:.2g}"
            return f"{text} {unit}{'' if text == '1' else 's'}"
    raise AssertionError("a second is the smallest unit")
