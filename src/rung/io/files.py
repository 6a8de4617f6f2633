"""Files that a killed process cannot tear: another name, sync, rename. And JSON that is always valid."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import zstandard

from rung.errors import InputError

FORGOTTEN = 3600.0  # seconds after which no directory of a process that still runs is here


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities become null, arrays become lists, other objects text."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def to_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON in pure ASCII (so that no text, however broken, can fail to be written)."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(plain(value), indent=indent, allow_nan=False)


def sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot sync a directory
    fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Either the old file or the whole new one is seen under `path`, whenever the process dies."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def replace_kept(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all; what it held before, if that was something else, stays beside it as `.bak-N`."""
    if path.exists():
        with readable(path):
            before = path.read_bytes()
        if before != data:
            keep_backup(path)
    write_atomic(path, lambda file: file.write(data))


def keep_backup(path: Path, data: bytes | None = None) -> None:
    """What `path` holds, or that of it which is lost, to the first free `path.bak-N`, before it is replaced."""
    if path.exists():
        n = 1
        while (backup := path.with_name(f"{path.name}.bak-{n}")).exists():
            n += 1
        write_atomic(backup, lambda file: file.write(path.read_bytes() if data is None else data))


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary directory. Those that our own killed processes left more than an hour ago are taken away."""
    for left in Path(tempfile.gettempdir()).glob("rung-scratch-*"):
        with suppress(OSError):
            at = left.lstat()
            if stat.S_ISDIR(at.st_mode) and at.st_uid == os.getuid() and time.time() - at.st_mtime > FORGOTTEN:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="rung-scratch-") as name:
        yield Path(name)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside, one of our files is read: what damage makes of it is said with its name."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Bring it back from a copy.") from error
    except (
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
        zstandard.ZstdError,
    ) as error:  # no text, TOML, JSON; other JSON
        raise InputError(
            f"{path} is damaged: it is not as a run left it ({type(error).__name__}: {error}). Bring it back from a copy, or move "
            "it away if you can do without it."
        ) from error
