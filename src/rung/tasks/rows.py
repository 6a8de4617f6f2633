"""Rows from JSONL, CSV and Parquet files, each with the place it came from, so that errors can name file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import InputError, unknown
from rung.records import Prompt

SUFFIXES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One record of a file; `place` is FILE:LINE (for Parquet the row number), unique within a file."""

    place: str
    values: Mapping[str, Any]

    def require(self, column: str, flag: str) -> Any:
        """The value of a column that the task cannot do without."""
        if column not in self.values:
            more = f" It is in {self.place}; name the right one with {flag}."
            raise unknown("column", column, self.values, more=more)
        value = self.values[column]
        if value is None or value == "":
            raise InputError(f"{self.place}: the column {column!r} is empty. Fill it in or remove the row.")
        return value

    def prompt(self, column: str) -> Prompt:
        """The prompt: a text, or a list of messages with role and content."""
        value = self.require(column, "--task-options.prompt_column")
        if isinstance(value, str):
            return value
        messages = value if isinstance(value, list) else []
        if not messages or not all(map(_is_message, messages)):
            raise InputError(
                f"{self.place}: the prompt in column {column!r} is neither a text nor a list of messages. "
                'Write "..." or [{"role": "user", "content": "..."}].'
            )
        return messages


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def read(path: Path) -> list[Row]:
    """All rows of a file; at least one."""
    if not path.is_file() and path.suffix in ("", *SUFFIXES):
        raise InputError(f"the file {path} does not exist. Check the path (it is read from {Path.cwd()}).")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: cannot read a file of kind {path.suffix!r}. Known: {', '.join(SUFFIXES)}.")
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[path.suffix]
    try:
        rows = list(reader(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. It must be a {path.suffix} file in UTF-8.") from error
    if not rows:
        raise InputError(f"{path} holds no rows. A task needs at least one problem.")
    return rows


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{path.name}:{line_number}"
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{line_number}: not a JSON object: {error}. Each line must be one.") from error
            if not isinstance(values, dict):
                kind = type(values).__name__
                raise InputError(f"{path}:{line_number}: a JSON {kind}, but each line must be an object.")
            yield Row(place, values)


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for values in reader:
            if None in values or None in values.values():
                columns = len(reader.fieldnames or ())
                raise InputError(f"{path}:{reader.line_num}: not the {columns} fields that the header names.")
            yield Row(f"{path.name}:{reader.line_num}", values)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow. Install it with: pip install 'rung[datasets]'") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    for row_number, values in enumerate(table.to_pylist(), start=1):
        yield Row(f"{path.name}:{row_number}", values)
