"""What a user did that we cannot do: one message that says what, why and what to do (exit status 2). And what went wrong."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST = 6000  # characters of a message
NAMES = 200  # that a message lists
LETTERS = 80  # of a name in it


def printable(text: str, *, lines: bool = False) -> str:
    """The text with nothing left that a terminal obeys: ESC becomes the picture of ESC; newlines only with `lines`."""
    if text.isascii() and text.isprintable():
        return text

    def safe(char: str) -> str:
        if char == "\n":
            return "\n" if lines else "\u240a"
        if char == "\t":
            return "    "
        kind = unicodedata.category(char)
        if kind == "Cc":
            return chr(0x2400 + ord(char)) if ord(char) < 32 else "\ufffd"  # C1: 0x9b alone starts a sequence
        if kind in ("Zl", "Zp"):
            return " "
        return "\ufffd" if kind in ("Cs", "Co", "Cn") or (kind == "Cf" and char not in "\u200c\u200d") else char

    return "".join(map(safe, text))


class _Said(Exception):
    """An error whose message is all that there is to know: a notebook shows it without the frames of our code.

    Nothing in it is obeyed by a terminal, whoever wrote what it quotes. What is longer than anybody reads, since it quotes a
    field of megabytes, is cut in its middle: why and what to do stay.
    """

    def __init__(self, text: object = "") -> None:
        said = printable(str(text), lines=True)
        half = LONGEST // 2
        super().__init__(said if len(said) <= LONGEST else f"{said[:half]} [...] {said[-half:]}")

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows instead of a traceback."""
        return f"{type(self).__name__}: {self}".split("\n")


class InputError(_Said, ValueError):
    """The user's input was refused. The message says what was given, why it cannot work, and what to do instead.

    found: a sentence for each of several things that were refused together.
    """

    found: tuple[str, ...] = ()


def refused(what: str, found: Iterable[str], more: str = "") -> InputError:
    """One message with all that is refused, a line each."""
    lines = tuple(dict.fromkeys(found))
    listed = "".join(f"\n  {line}" for line in lines)
    error = InputError(f"{what}: {len(lines)} refused, since nothing is ignored in silence.{listed}{more}")
    error.found = lines
    return error


class Refusals:
    """Looks at everything before it refuses anything: `with refusals: ...` around each thing, then `refuse`.

    One alone is refused in its own words.
    """

    def __init__(self, found: Iterable[str] = ()) -> None:
        self.errors = [InputError(text) for text in found]

    def __enter__(self) -> None:
        """What is refused inside is kept, and what follows goes on."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.errors.append(error)
        return isinstance(error, InputError)

    def refuse(self, what: str) -> None:
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise refused(what, [text for error in self.errors for text in error.found or (str(error),)])


class RunFailed(_Said):
    """What was begun could not be done, through nobody's input: memory or disk ran out, weights became useless (status 1)."""


MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED", re.IGNORECASE)


def memory_ran_out(error: BaseException) -> bool:
    """Of the machine or of a device: torch raises a RuntimeError for both, which only its text tells from others."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(MEMORY.search(str(error))))


def first_line(error: BaseException) -> str:
    """What another library says, as far as people read it."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def unknown(kind: str, name: str, known: Iterable[str], *, more: str = "") -> InputError:
    """The error for a name that is not among `known`, with the nearest match and the full list."""
    names = sorted(known)
    plain = {_cut(known).lower(): known for known in reversed(names)}
    near = difflib.get_close_matches(_cut(name).lower(), plain, n=1, cutoff=0.5)
    hint = f" Did you mean {_cut(plain[near[0]])!r}?" if near else ""
    listed = ", ".join(map(_cut, names[:NAMES])) + (f" and {len(names) - NAMES:,} more" if len(names) > NAMES else "")
    return InputError(f"unknown {kind} {_cut(name)!r}.{hint} Known: {listed}.{more}")


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[:LETTERS]}..."


# -- settings in the words of whoever gives them -------------------------------------------------------------------
_typed = False  # of the process: `rung` runs a command that somebody typed
_named: Mapping[str, str] = {}  # of the process: what other library's names the caller writes


@contextmanager
def typed() -> Iterator[None]:
    """Inside, messages name settings as flags: the user typed a command."""
    global _typed
    before, _typed = _typed, True
    try:
        yield
    finally:
        _typed = before


@contextmanager
def named(words: Mapping[str, str]) -> Iterator[None]:
    """Inside, messages name settings as another library does: {"out": "output_dir=", "dtype": "bf16"}; after = comes the value."""
    global _named
    before, _named = _named, words
    try:
        yield
    finally:
        _named = before


def setting(name: str, value: Any = ...) -> str:
    """A setting as the user writes it: `--eval-problems 32` in a shell, `eval_problems=32` in Python, or in words of `named`.

    name: inside a table with a dot, as in task_options.config and recipe.kl.coef.  value: ...: the setting alone.
    """
    table, _, key = name.partition(".")
    if _typed and not _named:
        flag = f"--{table.replace('_', '-')}" + (f".{key}" if key else "")
        if value is ... or (value is True and not key):
            return flag
        if value is False and not key:
            return f"--no-{flag.removeprefix('--')}"
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return f"{flag} {text if text and text.split() == [text] else repr(text)}"
    said = "..." if value is ... else repr(str(value) if isinstance(value, Path) else value)
    said = said if len(said) <= 80 else f"{said[:60]}..."
    if _named:
        return _in_words(name, said)
    return _in_python(name, said)


def _in_python(name: str, said: str) -> str:
    table, _, key = name.partition(".")
    inside = {"recipe": "overrides", "cluster": "cluster_options"}.get(table, table)
    return f"{table}={said}" if not key else f"{inside}={{{key!r}: {said}}}"


def _in_words(name: str, said: str) -> str:
    table, _, key = name.partition(".")
    if name in _named:
        word = _named[name]
    elif key and table in _named:
        word, said = _named[table], f"{{{key!r}: {said}}}"
    else:
        return f"{_in_python(name, said)} of rung.train"
    return word + said if word.endswith("=") else word
