"""Checkpoints of a run: whole or not there, each with the hash of every file in its COMPLETE marker, checked when it is read.

    checkpoints/step_000100/COMPLETE     step 100
                                         6b86b273ff34fce19d6b804eff5a3f57...  model.safetensors
                                         d4735e3a265e16eee03f59718b9b5d03...  COMPLETE (of the lines above)

Written under another name, synced, renamed, and the marker comes last: a process that is killed leaves the one before it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path

from rung.errors import InputError
from rung.io.files import sync, sync_tree, write_atomic
from rung.io.terminal import say_notes

COMPLETE = "COMPLETE"
TRAINING = (  # what only a resume reads
    "state.safetensors", "state.json", "state/", "progress.safetensors", "progress.json",
)  # fmt: skip


class Checkpoints:
    """Those in the directory `home`, by step."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._told: set[Path] = set()

    def write(self, step: int, writer: Callable[[Path], None]) -> Path:
        """Runs `writer(directory)`. A complete checkpoint of that step is final: the writer is not called then."""
        self.home.mkdir(exist_ok=True)
        final, temporary = self.of(step), self.home / f".tmp-step_{step:06d}-{os.getpid()}"
        if (final / COMPLETE).is_file():
            return final
        for torn in [final, *self.home.glob(".tmp-*")]:  # from killed writers: whoever writes holds the run's lock
            if torn.exists():
                shutil.rmtree(torn)
        temporary.mkdir()
        try:
            writer(temporary)
            sync_tree(temporary)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(self.home)
        marker = f"step {step}\n" + "".join(f"{_hash(final / name)}  {name}\n" for name in _files(final))
        marker += f"{_hash_of(marker)}  {COMPLETE}\n"
        write_atomic(final / COMPLETE, lambda file: file.write(marker.encode()))
        return final

    def prune(self, keep_last: int, protected: Collection[Path] = ()) -> None:
        """Of the complete ones so many stay, the newest, and those that are protected."""
        for old in self.complete()[keep_last:]:
            if old not in protected:
                shutil.rmtree(old.rename(self.home / f".tmp-{old.name}"))  # gone at once, for whoever looks

    def complete(self) -> list[Path]:
        """The complete ones, newest first; torn and temporary ones do not count."""
        paths = [self.of(step) for step in reversed(steps_in(self.home, r"step_(\d{6,})"))]
        return [path for path in paths if (path / COMPLETE).is_file()]

    def sound(self, *, training: bool) -> Path | None:
        """The newest complete one whose files are what was written; what is damaged is named, and the one before it is taken.

        training: look at what a resume needs too, and not only at the model.

        Raises:
            InputError: there are complete ones, and all of them are damaged.
        """
        found: list[str] = []
        for path in self.complete():
            wrong = damage(path, () if training else TRAINING)
            if wrong is None:
                if found:
                    self._tell(path, f"{'; '.join(found)}: {path.name} is used instead")
                return path
            found.append(f"the checkpoint {path} is damaged ({wrong})")
        if found:
            raise InputError(
                f"{'; '.join(found)}, and there is no other. Bring the files back from a copy, or start a new run."
            )
        return None

    def set_aside(self, newer_than: Path) -> None:
        """Damaged ones make room for what is written anew; they stay beside it as `damaged-N-step_...`."""
        for path in self.complete():
            if path == newer_than:
                return
            n = 1
            while (aside := self.home / f"damaged-{n}-{path.name}").exists():
                n += 1
            path.rename(aside)

    def _tell(self, path: Path, note: str) -> None:
        if path not in self._told:
            self._told.add(path)
            say_notes([note])

    def of(self, step: int) -> Path:
        return self.home / f"step_{step:06d}"


def damage(checkpoint: Path, but: Collection[str] = (), only: Collection[str] | None = None) -> str | None:
    """What is wrong with a complete checkpoint's files, `but` some; None: nothing, or the marker is older than the hashes."""
    try:
        marker = (checkpoint / COMPLETE).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return f"{COMPLETE} cannot be read"
    if re.fullmatch(r"step \d+\n", marker):  # of an older version
        return None
    *lines, last = marker.splitlines(keepends=True) or [""]
    if last != f"{_hash_of(''.join(lines))}  {COMPLETE}\n":
        return f"{COMPLETE} is not as it was written"
    for line in lines[1:]:
        wanted, _, name = line.rstrip("\n").partition("  ")
        if name in but or f"{name.split('/')[0]}/" in but or (only is not None and name not in only):
            continue
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            if _hash(path) != wanted:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def steps_in(folder: Path, pattern: str) -> list[int]:
    """The numbers in the names there that fit the pattern, in order."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(match[1]) for entry in entries if (match := re.fullmatch(pattern, entry.name, re.ASCII)))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hash(path: Path) -> str:
    at = path.stat()
    return _hashed(path, at.st_mtime_ns, at.st_size, at.st_ino)


@lru_cache(maxsize=256)
def _hashed(path: Path, *stamp: int) -> str:
    """sha256 of a file as it is now: read once, until it is changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
