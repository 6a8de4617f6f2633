"""One run is one directory: config, environment, metrics, rollouts, checkpoints. Nothing in it is ever overwritten,
and nothing removed but old checkpoints, where keep_last says so.

    NAME-1/config.toml  environment.json  metrics.jsonl  rollouts/step_000010.jsonl.zst  checkpoints/step_000100/

What is replaced on a resume stays beside it as `FILE.bak-N`.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import tomli_w
import zstandard

from rung.advice import command
from rung.errors import InputError, RunFailed, setting
from rung.io.answers import is_number
from rung.io.checkpoints import Checkpoints, steps_in
from rung.io.environment import describe_environment
from rung.io.files import keep_backup, readable, replace_kept, to_json, write_atomic
from rung.io.lock import Lock
from rung.io.new_dir import empty, is_empty, not_empty, numbered
from rung.settings import toml
from rung.settings.paths import path_of


class RunDir:
    """A run directory. `create` and `open(write=True)` hold its lock until `close`; `open` alone only reads.

    A created one that is left by an error before its first step is removed: a start that failed leaves nothing.
    """

    def __init__(self, path: Path, made: bool = False) -> None:
        self.path, self._made = path, made
        self.root = path.absolute()  # a reward may change the directory that a process is in
        self._lock: Lock | None = None
        self._metrics: IO[bytes] | None = None
        self.checkpoints = Checkpoints(self.root / "checkpoints")
        self._resumed: Path | None = None  # the checkpoint that this process went on from

    @classmethod
    def create(cls, root: Path | None, name: str, out: Path | None = None) -> RunDir:
        """A new directory: `out` if given, else root/NAME-1, -2, ... (root: `runs`)."""
        try:
            run = cls(numbered(root or Path("runs"), name) if out is None else empty(path_of(out)), made=True)
        except OSError as error:
            target = out or root or Path("runs")
            raise InputError(
                f"cannot create a run in {target}: {error.strerror}. Give a directory that you can write with {setting('out')}."
            ) from error
        run._acquire()
        if not is_empty(run.path):  # somebody else was quicker
            run.close()
            raise not_empty(run.path)
        return run

    @classmethod
    def open(cls, path: Path | str, *, write: bool = False) -> RunDir:
        """An existing run, to read, or with `write` to continue (then nobody else can)."""
        path = path_of(path)
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
        self._lock = Lock(self.root, self.path)
        for folder in (self.root, self.root / "rollouts", self.root / "evaluations"):  # nobody writes them now
            for torn in folder.glob(".tmp-*"):
                torn.unlink(missing_ok=True)

    def close(self) -> None:
        """Releases the lock; the run can still be read."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._made and self.here() and not self.begun():
            shutil.rmtree(self.root, ignore_errors=True)
        self.close()

    def here(self) -> bool:
        """Whether what lies at `path` is still the directory that this process writes: nobody has moved or deleted it."""
        return self._lock is not None and self._lock.here()

    def gone(self) -> RunFailed:
        """What is said where it is not."""
        return RunFailed(
            f"the run's directory {self.path} was moved or deleted while it was written, so nothing more can be kept there. If it "
            f"was moved, go on with it where it lies now: {command('train', '--resume', 'RUN')}. If it was deleted, begin again."
        )

    def begun(self) -> bool:
        """Whether a step was done, or answers of the first one are kept."""
        kept = any((self.root / "kept").glob("*.json"))
        return kept or any(_after(row, 0) for row in self.metrics()) or self.latest_checkpoint() is not None

    # ---- config and environment

    def write_config(self, config: Mapping[str, Any]) -> None:
        """config.toml. TOML has no null: fields that are None are left out."""
        self._replace(self.root / "config.toml", tomli_w.dumps(_toml(config)).encode())

    def config(self) -> dict[str, Any]:
        path = self.root / "config.toml"
        with readable(path):
            return toml.loads(path.read_text(encoding="utf-8"))

    def write_environment(self, device: str | None = None) -> None:
        """environment.json: device, versions, commit, hardware and command line, to say later where a number came from."""
        self._replace(self.root / "environment.json", (to_json(describe_environment(device), indent=2) + "\n").encode())

    def environment(self) -> dict[str, Any]:
        path = self.root / "environment.json"
        if not path.exists():
            return {}
        with readable(path):
            found = dict(json.loads(path.read_bytes()))
            for name, kind in (("directory", str), ("versions", dict), ("git", dict)):
                if not isinstance(found.get(name) or kind(), kind):
                    raise ValueError(f"its {name} is no {kind.__name__}")
            return found

    def _replace(self, path: Path, data: bytes) -> None:
        assert self._lock is not None, "this run is open for reading only"
        replace_kept(path, data)

    # ---- metrics

    def log(self, metrics: Mapping[str, float | int]) -> None:
        """One JSON line, flushed at once. NaN and infinity become null.

        Raises: RunFailed: the directory is not there any more, which an open file would not notice.
        """
        if self._lock is not None and not self.here():
            raise self.gone()
        if self._metrics is None:
            assert self._lock is not None, "this run is open for reading only"
            whole, torn = self._metric_lines()
            if torn:  # a killed writer left half a line: the next one must not continue it
                self._rewrite_metrics(whole)
            self._metrics = (self.root / "metrics.jsonl").open("ab")
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
        path, rows, torn = self.root / "metrics.jsonl", list[tuple[bytes, dict[str, Any]]](), False
        with readable(path):
            data = path.read_bytes() if path.exists() else b""
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append((line, _row(line)))
            except (ValueError, RecursionError) as error:
                if number < len(lines) and any(rest.strip() for rest in lines[number:]):
                    raise InputError(
                        f"{path}, line {number} is not a row of metrics ({type(error).__name__}): the file was damaged. "
                        "Remove that line to read the rest."
                    ) from error
                torn = True
        return rows, torn or not (data == b"" or data.endswith(b"\n"))

    def _rewrite_metrics(self, kept: list[tuple[bytes, dict[str, Any]]]) -> None:
        assert self._lock is not None, "this run is open for reading only"
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        path = self.root / "metrics.jsonl"
        data = b"".join(line + b"\n" for line, _ in kept)
        keep_backup(path, path.read_bytes().removeprefix(data))  # not all of it each time: a run may go on a hundred times
        write_atomic(path, lambda file: file.write(data))

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
        with readable(path), path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            return [dict(json.loads(line)) for line in io.TextIOWrapper(stream, encoding="utf-8")]

    def rollout_steps(self) -> list[int]:
        return steps_in(self.root / "rollouts", r"step_(\d{6,})\.jsonl\.zst")

    def _rollout_path(self, step: int) -> Path:
        return self.root / "rollouts" / f"step_{step:06d}.jsonl.zst"

    # ---- checkpoints

    def checkpoint(
        self, step: int, writer: Callable[[Path], None], keep_last: int = 0, best: Path | None = None
    ) -> Path:
        """Runs `writer(directory)`, and has a checkpoint once all of it is on the disk (checkpoints.py).

        keep_last: of the complete ones so many stay, the newest, that which was resumed, and `best`; 0: all.
        """
        assert self._lock is not None, "this run is open for reading only"
        path = self.checkpoints.write(step, writer)
        if keep_last:
            self.checkpoints.prune(keep_last, [kept for kept in (self._resumed, best) if kept is not None])
        return path

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(iter(self.checkpoints.complete()), None)

    def resumed(self) -> Path | None:
        """The newest sound checkpoint, which this process goes on from; None: there is none, and it begins anew."""
        assert self._lock is not None, "this run is open for reading only"
        self._resumed = self.checkpoints.sound(training=True)
        if self._resumed is not None:
            self.checkpoints.set_aside(self._resumed)
        return self._resumed

    def model_path(self) -> Path:
        """The run's model in Hugging Face format: its newest sound checkpoint."""
        path = self.checkpoints.sound(training=False)
        if path is None:
            raise InputError(
                f"the run {self.path} has no complete checkpoint, so there is no model to load: "
                f"it ended before the first one. Begin it again: {command('train', '--resume', self.path)}"
            )
        return path


def _row(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError("no row of metrics")
    if not all(isinstance(value, bool) or is_number(value) for value in row.values()):
        raise ValueError("a metric is no number")
    return row


def _after(row: Any, step: int) -> bool:
    at = row.get("step") if isinstance(row, dict) else None
    return isinstance(at, (int, float)) and at > step


def _toml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _toml(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_toml(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)
