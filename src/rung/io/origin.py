"""The files that a run's settings name: found from where it was started, and their hashes, to see that one was edited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rung.io.run_dir import RunDir
from rung.settings.paths import path_of

FILES = ("task", "task_path", "reward", "environment")  # settings that may name a file; of code with :NAME behind it


def named(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(setting, path, what stands behind the path) of the settings that may name a file."""
    for name in FILES:
        text = str(settings.get(name) or "")
        path, _, behind = text.partition(":")
        if text and not text.startswith("hf:") and "\0" not in text and ("." in path or "/" in path):
            yield name, path, f":{behind}" if behind else ""


def hashes(settings: Mapping[str, Any]) -> dict[str, str]:
    """{setting: the hash of its file}, for the files that are there."""
    files = {name: path_of(path) for name, path, _ in named(settings)}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for name, path in sorted(files.items())
        if path.is_file()
    }


def edited(settings: Mapping[str, Any], stored: Mapping[str, str]) -> list[str]:
    """A sentence for each file that is not what it was when the run began. stored: its hashes then."""
    now, said = hashes(settings), {name: path + behind for name, path, behind in named(settings)}
    return [
        f"{said[name]} was edited since the run began, so its numbers before and after may not compare ({name})"
        for name, value in now.items()
        if stored.get(name, value) != value
    ]


def placed(settings: Mapping[str, Any], run: RunDir) -> dict[str, Any]:
    """The settings with relative paths that lead from where the run was started, where it is another folder than this.

    A run that did not write down where it was started lies two folders below, at runs/NAME, unless its user chose.
    """
    began = run.environment().get("directory")
    home = Path(began) if began else run.path.resolve().parent.parent
    out = dict(settings)
    for name, path, behind in named(settings):
        there, here = home / path, Path(path)
        if here.is_absolute() or path.startswith("~") or home == Path.cwd() or not there.exists():
            continue
        if began or not here.exists():
            kind = type(settings[name])
            out[name] = kind(f"{there}{behind}")
    return out
