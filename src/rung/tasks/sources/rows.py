"""Rows from JSON, JSONL, CSV and Parquet files, each with the place it came from, so that errors can name file and line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from rung.advice import need
from rung.errors import InputError

KINDS = (".jsonl", ".json", ".csv")
PACKED = ("", ".gz", ".zst")
csv.field_size_limit(2**31 - 1)  # a long text is no mistake
SUFFIXES = (*(kind + packed for packed in PACKED for kind in KINDS), ".parquet")


@dataclass(frozen=True)
class Row:
    """One record of a file; `place` is FILE:LINE (for Parquet and JSON lists the row number), unique within a file."""

    place: str
    values: Mapping[str, Any]


def is_path(name: str) -> bool:
    """Whether a task's name is the path of rows; no other task's name has a dot or a slash."""
    return not name.startswith("hf:") and ("." in name or "/" in name or Path(name).is_dir())


def stem(path: Path) -> str:
    """The file's name without what says its kind: rows of data/rows.jsonl.gz."""
    return path.name[: -len(_suffix(path)) or None] if path.is_file() else path.name


def _suffix(path: Path) -> str:
    """The longest known suffix, else the last one."""
    name = path.name.lower()
    return max((s for s in SUFFIXES if name.endswith(s)), key=len, default=path.suffix)


def read(path: Path) -> list[Row]:
    """All rows of a file; at least one."""
    suffix = _suffix(path)
    if suffix not in ("", *SUFFIXES) or (path.is_file() and suffix == ""):
        raise InputError(f"{path}: cannot read a file of kind {suffix!r}. Known: {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InputError(f"the file {path} does not exist. Check the path (it is read from {Path.cwd()}).")
    reader = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}[suffix.split(".")[1]]
    try:
        rows = list(reader(path))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{path} cannot be read: {error}. It must be a {suffix} file in UTF-8.") from error
    if not rows:
        raise InputError(f"{path} holds no rows. A task needs at least one problem.")
    return rows


def _open(path: Path) -> IO[str]:
    packed = path.suffix.lower()
    if packed == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    if packed == ".zst":
        return zstandard.open(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[no-any-return]
    return path.open(encoding="utf-8-sig", newline="")


def _jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        yield from _lines(path, lines)


def _lines(path: Path, lines: Iterator[str] | IO[str]) -> Iterator[Row]:
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{line_number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
            raise _unreadable(place, "object", error) from error
        _refuse_halves(line, values, place)
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise InputError(f"{path}:{line_number}: a JSON {kind}, but each line must be an object.")
        yield Row(f"{path.name}:{line_number}", values)


def _unreadable(place: str, kind: str, error: Exception) -> InputError:
    unit = "line" if kind == "object" else "file"
    return InputError(f"{place}: not a JSON {kind}: {error}. Each {unit} must be one.")


def _refuse_halves(text: str, value: Any, place: str) -> None:
    """InputError where a JSON text holds half a character, which no tokenizer takes."""
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.end]
            raise InputError(f"{place}: {half!a} is half a character. Write the whole one, or leave it out.") from error


def _json(path: Path) -> Iterator[Row]:
    """A list of objects, an object that holds one such list, or an object a line."""
    with _open(path) as file:
        text = file.read()
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        yield from _lines(path, iter(text.split("\n")))
        return
    except (ValueError, RecursionError) as error:
        raise _unreadable(str(path), "list of objects", error) from error
    _refuse_halves(text, data, str(path))
    listed = _listed(data)
    if listed is None:
        what = f"an object with {', '.join(map(str, data))}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise InputError(f"{path} holds {what}. Give a list of objects, one a problem, or an object a line.")
    for row_number, values in enumerate(listed, start=1):
        if not isinstance(values, dict):
            raise InputError(f"{path}:{row_number}: a JSON {type(values).__name__}, but each row must be an object.")
        yield Row(f"{path.name}:{row_number}", values)


def _listed(data: Any) -> list[Any] | None:
    if isinstance(data, list):
        return data
    if not isinstance(data, dict):
        return None
    lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    lists = [v for v in lists if not all("role" in x for x in v)]  # messages of a single row
    plain = [v for v in data.values() if isinstance(v, str | int | float)]
    return lists[0] if len(lists) == 1 else [data] if plain and not lists else None


def _csv(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        reader = csv.DictReader(lines)
        for values in _records(reader, path):
            if None in values or None in values.values():
                columns = len(reader.fieldnames or ())
                raise InputError(f"{path}:{reader.line_num}: not the {columns} fields that the header names.")
            yield Row(f"{path.name}:{reader.line_num}", values)


def _records(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: no CSV that can be read: {error}.") from error


def _parquet(path: Path) -> Iterator[Row]:
    need(f"the Parquet file {path}", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    for row_number, values in enumerate(table.to_pylist(), start=1):
        yield Row(f"{path.name}:{row_number}", values)
