"""Where a run may be written: an empty directory, or the next number of a name."""

from __future__ import annotations

import re
from pathlib import Path

from rung.errors import InputError, setting
from rung.io.checkpoints import steps_in

TEMPORARY = (".lock", ".tmp-")  # what the names of files begin with that a killed process may leave


def not_empty(path: Path) -> InputError:
    return InputError(
        f"{path} exists and is not empty; a run is never overwritten. Give another directory with {setting('out')}, "
        f"or continue this run with {setting('resume')}."
    )


def empty(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a run is a directory. Give another name with {setting('out')}.")
    if out.is_dir() and not is_empty(out):
        raise not_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def is_empty(path: Path) -> bool:
    return all(entry.name.startswith(TEMPORARY) for entry in path.iterdir())


def numbered(root: Path, name: str) -> Path:
    """root/NAME-n with n one above the highest that exists; `mkdir` decides when two processes race."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    root.mkdir(parents=True, exist_ok=True)
    n = max(steps_in(root, re.escape(name) + r"-(\d+)"), default=0) + 1
    while True:
        try:
            (root / f"{name}-{n}").mkdir()
            return root / f"{name}-{n}"
        except FileExistsError:
            n += 1
