"""One run is one directory: config, environment, metrics, rollouts, checkpoints. Nothing in it is ever overwritten,
and nothing removed but old checkpoints, where keep_last says so.

    NAME-1/config.toml  environment.json  metrics.jsonl  rollouts/step_000010.jsonl.zst  checkpoints/step_000100/

What is replaced on a resume stays beside it as `FILE.bak-N`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import tomli_w
import zstandard

from rung.advice import command
from rung.errors import InputError, setting
from rung.io.environment import describe_environment
from rung.io.files import keep_backup, replace_kept, sync, sync_tree, to_json, write_atomic

try:
    import fcntl
except ImportError:  # Windows: no lock, everything else works
    fcntl = None  # type: ignore[assignment]

COMPLETE = "COMPLETE"
_held: set[int] = set()  # descriptors of the locks that this process holds


def _forget_locks_in_child() -> None:
    """A forked child shares the lock; if it outlived us, the run could not be resumed."""
    for fd in _held:
        os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks_in_child)


class RunDir:
    """A run directory. `create` and `open(write=True)` hold its lock until `close`; `open` alone only reads.

    A created one that is left by an error before its first step is removed: a start that failed leaves nothing.
    """

    def __init__(self, path: Path, made: bool = False) -> None:
        self.path, self._made = path, made
        self._lock: int | None = None
        self._metrics: IO[bytes] | None = None
        self._resumed: Path | None = None  # the checkpoint that this process went on from

    @classmethod
    def create(cls, root: Path | None, name: str, out: Path | None = None) -> RunDir:
        """A new directory: `out` if given, else root/NAME-1, -2, ... (root: `runs`)."""
        try:
            run = cls(_numbered(root or Path("runs"), name) if out is None else _empty(Path(out)), made=True)
        except OSError as error:
            target = out or root or Path("runs")
            raise InputError(
                f"cannot create a run in {target}: {error.strerror}. Give a directory that you can write with {setting('out')}."
            ) from error
        run._acquire()
        if any(entry.name != ".lock" for entry in run.path.iterdir()):  # somebody else was quicker
            run.close()
            raise _not_empty(run.path)
        return run

    @classmethod
    def open(cls, path: Path | str, *, write: bool = False) -> RunDir:
        """An existing run, to read, or with `write` to continue (then nobody else can)."""
        path = Path(path)
        if not (path / "config.toml").is_file():
            missing = "is not a directory" if path.exists() else "does not exist"
            what = "has no config.toml" if path.is_dir() else missing
            near = sorted(found.parent.name for found in path.parent.glob("*/config.toml"))
            hint = f" Runs in {path.parent}: {', '.join(near[-8:])}." if near else ""
            raise InputError(f"{path} is not a run: it {what}. Give the directory that `rung train` printed.{hint}")
        run = cls(path)
        if write:
            run._acquire()
        return run

    def _acquire(self) -> None:
        try:
            fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"cannot write in {self.path}: {error.strerror}. Start another run with {setting('out')}."
            ) from error
        _held.add(fd)
        self._lock = fd
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
            self.close()
            raise InputError(
                f"the run {self.path} is being written by {owner}. Two writers would mix their results: "
                f"wait until it ends, stop it, or give another directory with {setting('out')}."
            ) from error
        except OSError:
            pass  # a file system that knows no locks (some network mounts): the run is worth more than its lock
        os.ftruncate(fd, 0)
        os.write(fd, f"process {os.getpid()} on {platform.node()}\n".encode())

    def close(self) -> None:
        """Releases the lock; the run can still be read."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._lock is not None:
            if self._lock in _held:  # not so in a forked child
                _held.discard(self._lock)
                with contextlib.suppress(OSError):  # file systems without locks
                    if fcntl is not None:  # at once, even if a child has not let go of its copy yet
                        fcntl.flock(self._lock, fcntl.LOCK_UN)
                os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._made and not self._begun():
            shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def _begun(self) -> bool:
        """Whether a step was done."""
        return any(_after(row, 0) for row in self.metrics()) or self.latest_checkpoint() is not None

    # ---- config and environment

    def write_config(self, config: Mapping[str, Any]) -> None:
        """config.toml. TOML has no null: fields that are None are left out."""
        self._replace(self.path / "config.toml", tomli_w.dumps(_toml(config)).encode())

    def config(self) -> dict[str, Any]:
        return tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))

    def write_environment(self, device: str | None = None) -> None:
        """environment.json: device, versions, commit, hardware and command line, to say later where a number came from."""
        self._replace(self.path / "environment.json", (to_json(describe_environment(device), indent=2) + "\n").encode())

    def environment(self) -> dict[str, Any]:
        path = self.path / "environment.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def _replace(self, path: Path, data: bytes) -> None:
        assert self._lock is not None, "this run is open for reading only"
        replace_kept(path, data)

    # ---- metrics

    def log(self, metrics: Mapping[str, float | int | str]) -> None:
        """One JSON line, flushed at once. NaN and infinity become null."""
        if self._metrics is None:
            assert self._lock is not None, "this run is open for reading only"
            whole, torn = self._metric_lines()
            if torn:  # a killed writer left half a line: the next one must not continue it
                self._rewrite_metrics(whole)
            self._metrics = (self.path / "metrics.jsonl").open("ab")
        self._metrics.write(to_json(dict(metrics)).encode() + b"\n")
        self._metrics.flush()

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged line in order. A half-written last line (the writer was killed, or still writes) is left out."""
        return [row for _, row in self._metric_lines()[0]]

    def truncate_metrics(self, step: int) -> int:
        """Takes the lines of later steps out, before a resume repeats them; they stay in metrics.jsonl.bak-N."""
        whole, torn = self._metric_lines()
        kept = [(line, row) for line, row in whole if not _after(row, step)]
        if torn or len(kept) < len(whole):
            self._rewrite_metrics(kept)
        return len(whole) - len(kept)

    def _metric_lines(self) -> tuple[list[tuple[bytes, dict[str, Any]]], bool]:
        path, rows, torn = self.path / "metrics.jsonl", list[tuple[bytes, dict[str, Any]]](), False
        data = path.read_bytes() if path.exists() else b""
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append((line, json.loads(line)))
            except ValueError as error:
                if number < len(lines) and any(rest.strip() for rest in lines[number:]):
                    raise InputError(
                        f"{path}, line {number} is not JSON: the file was damaged. Remove that line to read the rest."
                    ) from error
                torn = True
        return rows, torn or not (data == b"" or data.endswith(b"\n"))

    def _rewrite_metrics(self, kept: list[tuple[bytes, dict[str, Any]]]) -> None:
        assert self._lock is not None, "this run is open for reading only"
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        path = self.path / "metrics.jsonl"
        keep_backup(path)
        write_atomic(path, lambda file: file.write(b"".join(line + b"\n" for line, _ in kept)))

    # ---- rollouts

    def write_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
        """rollouts/step_000010.jsonl.zst, one row an answer, written whole or not at all."""
        assert self._lock is not None, "this run is open for reading only"
        path = self._rollout_path(step)
        path.parent.mkdir(exist_ok=True)
        keep_backup(path)

        def write(file: IO[bytes]) -> None:
            with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as stream:
                for row in rows:
                    stream.write(to_json(row).encode() + b"\n")

        write_atomic(path, write)
        return path

    def read_rollouts(self, step: int) -> list[dict[str, Any]]:
        path = self._rollout_path(step)
        if not path.exists():
            steps = self.rollout_steps()
            known = f"Stored: {len(steps)} steps from {steps[0]} to {steps[-1]}." if steps else "It has none at all."
            raise InputError(f"the run {self.path} has no rollouts of step {step}. {known}")
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            return [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]

    def rollout_steps(self) -> list[int]:
        return _steps(self.path / "rollouts", r"step_(\d{6,})\.jsonl\.zst")

    def _rollout_path(self, step: int) -> Path:
        return self.path / "rollouts" / f"step_{step:06d}.jsonl.zst"

    # ---- checkpoints

    def checkpoint(self, step: int, writer: Callable[[Path], None], keep_last: int = 0) -> Path:
        """Runs `writer(directory)` under a temporary name, syncs, renames, and writes the COMPLETE marker last.

        A complete checkpoint of that step is final: it is returned as it is and the writer is not called.
        keep_last: of the complete ones so many stay, the newest, and the one that was resumed; 0: all.
        """
        assert self._lock is not None, "this run is open for reading only"
        home = self.path / "checkpoints"
        home.mkdir(exist_ok=True)
        final, temporary = home / f"step_{step:06d}", home / f".tmp-step_{step:06d}-{os.getpid()}"
        if (final / COMPLETE).is_file():
            return final
        for torn in [final, *home.glob(".tmp-*")]:  # from killed writers: we hold the lock, nobody writes them now
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
        sync(home)
        write_atomic(final / COMPLETE, lambda file: file.write(f"step {step}\n".encode()))
        for old in self._complete()[keep_last:] if keep_last else ():
            if old != self._resumed:
                shutil.rmtree(old.rename(home / f".tmp-{old.name}"))  # gone at once, for whoever looks
        return final

    def _complete(self) -> list[Path]:
        """The complete checkpoints, newest first; torn and temporary ones do not count."""
        home = self.path / "checkpoints"
        paths = [home / f"step_{step:06d}" for step in reversed(_steps(home, r"step_(\d{6,})"))]
        return [path for path in paths if (path / COMPLETE).is_file()]

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(iter(self._complete()), None)

    def resumed(self) -> Path:
        """The newest complete checkpoint, which this process goes on from."""
        self._resumed = self.latest_checkpoint()
        if self._resumed is None:
            raise InputError(
                f"{self.path} holds no complete checkpoint to resume from. Start a new run with another {setting('out')}."
            )
        return self._resumed

    def model_path(self) -> Path:
        """The run's model in Hugging Face format: its newest complete checkpoint."""
        path = self.latest_checkpoint()
        if path is None:
            raise InputError(
                f"the run {self.path} has no complete checkpoint, so there is no model to load: "
                f"it ended before the first one. Start it again with: {command('train', '...', '--out', 'ANOTHER_DIRECTORY')}"
            )
        return path


def _not_empty(path: Path) -> InputError:
    return InputError(
        f"{path} exists and is not empty; a run is never overwritten. Give another directory with {setting('out')}, "
        f"or continue this run with {setting('resume')}."
    )


def _empty(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a run is a directory. Give another name with {setting('out')}.")
    if out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir()):
        raise _not_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def _numbered(root: Path, name: str) -> Path:
    """root/NAME-n with n one above the highest that exists; `mkdir` decides when two processes race."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    root.mkdir(parents=True, exist_ok=True)
    n = max(_steps(root, re.escape(name) + r"-(\d+)"), default=0) + 1
    while True:
        try:
            (root / f"{name}-{n}").mkdir()
            return root / f"{name}-{n}"
        except FileExistsError:
            n += 1


def _steps(folder: Path, pattern: str) -> list[int]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(match[1]) for entry in entries if (match := re.fullmatch(pattern, entry.name)))


def _after(row: Any, step: int) -> bool:
    at = row.get("step") if isinstance(row, dict) else None
    return isinstance(at, (int, float)) and at > step


def _toml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _toml(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_toml(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)
