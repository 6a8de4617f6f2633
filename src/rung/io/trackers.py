"""Live views of a running job: trackio, wandb, tensorboard behind one function. metrics.jsonl is written in any case.

A tracker is a guest. What it needs is checked before the run starts; once the run goes, a tracker that fails says so
once and is left alone: it can neither end the run nor change a number of it.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rung.advice import need
from rung.errors import InputError, setting, unknown

PROJECT = "rung"  # the name under which wandb and trackio file our runs
TRACKERS = ("none", "tensorboard", "trackio", "wandb")


class Backend(Protocol):
    """What a tracker must be able to do: take one row of numbers, and end."""

    where: str  # how to look at it, in one line

    def log(self, step: int, row: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def refuse_tracker(name: str) -> None:
    """Refuses, before anything is loaded or written, a tracker that cannot work here: its package or its account."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if name != "none":
        need(
            setting("tracker", name),
            name,
            instead=f"Leave {setting('tracker')} out (metrics.jsonl is written in any case)",
        )
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online" and not _wandb_account():
        raise InputError(
            f"{setting('tracker', 'wandb')} has no account to send to. Log in once with `wandb login`, or set WANDB_MODE=offline: "
            "the run is then kept in its own directory, and `wandb sync` can send it later."
        )


def open_tracker(name: str, config: Mapping[str, Any], run_dir: Path, say: Callable[[str], None]) -> Tracker:
    """The tracker called `name` for the run in `run_dir`, with the settings `config` beside its curves.

    `say` gets the sentence that tells where to look, and one if the tracker fails, now or later; from then on it does
    nothing.
    """
    tracker = Tracker(name, say)
    kinds: dict[str, Callable[[Mapping[str, Any], Path], Backend]]
    kinds = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb}
    if name != "none":
        tracker.guard(lambda: setattr(tracker, "backend", kinds[name](config, Path(run_dir))))
    if tracker.backend is not None:
        say(f"tracker {name}: {tracker.backend.where}")
    return tracker


class Tracker:
    """Passes rows on for as long as that works. A context manager: any way out of the run closes it."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.backend: Backend | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl; what is no finite number in it is left out."""
        backend, step = self.backend, int(row.get("step", 0))
        if backend is not None:
            numbers = {k: float(v) for k, v in row.items() if k != "step" and _is_number(v)}
            self.guard(lambda: backend.log(step, numbers))

    def guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  # a guest may fail in any way; the run is worth more
            self.backend = None
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
            self.say(f"tracker {self.name} failed and is off from here on ({reason}); metrics.jsonl has everything")

    def close(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None:
            self.guard(backend.close)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class TensorBoard:
    """Event files in RUN/tensorboard; look at them with `tensorboard --logdir RUN`."""

    def __init__(self, config: Mapping[str, Any], run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"), flush_secs=10)
        self.where = f"tensorboard --logdir {run_dir}"
        settings = json.dumps(config, indent=2, default=str)
        self.writer.add_text("settings", "    " + settings.replace("\n", "\n    "))

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases; WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY work as always. A resumed run goes on as the same one."""

    def __init__(self, config: Mapping[str, Any], run_dir: Path) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.resolve().name,
            dir=str(run_dir),
            config=dict(config),
            id=_remembered(run_dir / "wandb_id", lambda: uuid.uuid4().hex[:8]),
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        offline = f"wandb sync {run_dir}/wandb/offline-run-*"
        self.where = offline if self.run.settings.mode == "offline" else str(self.run.url)
        self.run.define_metric("*", step_metric="step")  # our steps, not a count of calls: a resume may go back

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log({"step": step, **row})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """Hugging Face's local tracker; look at the runs with `trackio show --project rung`."""

    def __init__(self, config: Mapping[str, Any], run_dir: Path) -> None:
        import trackio

        self.trackio, self.where = trackio, f"trackio show --project {PROJECT}"
        name = run_dir.resolve().name
        trackio.init(project=PROJECT, name=name, config=json.loads(json.dumps(config, default=str)), resume="allow")

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.trackio.log(dict(row), step=step)

    def close(self) -> None:
        self.trackio.finish()


def _wandb_account() -> bool:
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False))
    return bool(wandb.api.api_key)  # before that argument came


def _remembered(path: Path, make: Callable[[], str]) -> str:
    """What `path` holds; made and written the first time."""
    if not path.exists():
        path.write_text(make(), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
