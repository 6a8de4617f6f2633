"""A table for people, or the same rows as JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rung.errors import InputError
from rung.io.files import to_json
from rung.io.terminal import clean, make_rich
from rung.settings.paths import path_of


def refuse_target(json_to: str | None) -> None:
    """Refuses a --json FILE that exists or cannot be, before the hours of work whose result it should hold."""
    if json_to is not None and json_to != "-":
        refuse_existing("--json", path_of(json_to), ", or - for standard output")


def refuse_existing(flag: str, path: Path, instead: str = "") -> None:
    """Refuses the name of a file that exists, or that cannot be one: nothing of the user's is ever overwritten."""
    if os.path.lexists(path):
        raise InputError(f"{flag} {path}: that exists, and nothing is overwritten. Give another name{instead}.")
    if not path.parent.is_dir():
        raise InputError(f"{flag} {path}: there is no directory {path.parent}. Create it, or give another name.")


def cell(value: Any) -> str:
    """One value as text: floats with four significant digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_json(columns: Sequence[str], rows: Sequence[Sequence[Any]], json_to: str) -> None:
    """A list of objects, one a row, to that new file; "-": to standard output."""
    assert all(len(row) == len(columns) for row in rows), "a row has another number of cells than there are columns"
    write_document(to_json([dict(zip(columns, row, strict=True)) for row in rows], indent=1) + "\n", json_to)


def write_document(document: str, json_to: str) -> None:
    """A JSON document to that new file; "-": to standard output."""
    if json_to == "-":
        sys.stdout.write(document)
        sys.stdout.flush()
        return
    refuse_target(json_to)
    write_new("--json", path_of(json_to), document)


def write_new(flag: str, path: Path, text: str) -> None:
    """A new file of text. InputError where the system has none made, with its reason. flag: the setting that holds the name."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot write: {error.strerror}. Give another name.") from error


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], json_to: str | None = None) -> None:
    """Prints the table. `json_to`: also write a list of objects to that new file; "-": print only that list."""
    rows = [list(row) for row in rows]
    if json_to is not None:
        write_json(columns, rows, json_to)
        if json_to == "-":
            return
    console = make_rich(sys.stdout)
    table = Table(title=Text(clean(title, console.encoding), "bold"), box=SIMPLE_HEAD, title_justify="left")
    least = _words_whole(columns, rows, console.width)
    for index, name in enumerate(columns):
        numbers = _numbers([row[index] for row in rows])
        side: Literal["left", "right"] = "right" if numbers else "left"
        width = least[index] or max(map(len, numbers), default=None)  # a number in two parts reads as another number
        table.add_column(Text(clean(name, console.encoding)), justify=side, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(Text(clean(cell(value), console.encoding, lines=True)) for value in row))
    console.print(table)


def _numbers(values: Sequence[Any]) -> list[str]:
    """What a column of numbers shows; nothing for one that holds anything else."""
    there = [value for value in values if value is not None]
    return [cell(value) for value in there] if all(isinstance(value, (int, float)) for value in there) else []


def _words_whole(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> list[int | None]:
    """The width in which each column breaks no word, if all of them fit side by side."""
    texts = [[name, *(cell(row[i]) for row in rows)] for i, name in enumerate(columns)]
    least = [max((len(word) for text in column for word in text.split()), default=1) for column in texts]
    fits = sum(least) + 3 * len(least) + 1 <= width
    return [n if fits else None for n in least]


def say_verdict(text: str, json_to: str | None = None) -> None:
    """What a command found, in words, above its table; not where only JSON is wanted."""
    if json_to != "-":
        console = make_rich(sys.stdout)
        console.print(Text(clean(text, console.encoding), "bold"))
