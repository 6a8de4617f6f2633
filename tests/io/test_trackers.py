"""Trackers are guests: what they need is checked before the run, and their failures are theirs alone."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rung.cli import main
from rung.errors import InputError
from rung.io import trackers
from rung.io.trackers import open_tracker, refuse_tracker
from rung.training.config import TrainConfig
from rung.training.loop import train

SHORT = {"steps": 2, "prompts_per_step": 4, "eval_problems": 8, "threads": 1, "recipe": "reinforce"}
ROWS = [
    {"step": 0, "eval/accuracy": 0.25},
    {"step": 1, "reward": 0.5, "kl": float("nan"), "completions/mean_length_right": None, "note": "text"},
    {"step": 2, "reward": 0.75, "grad_norm": 2},
]


class Recorder:
    """A backend that remembers, and fails or is interrupted at a step if told to."""

    where = "here"
    made: list[Recorder]

    def __init__(self, config: Mapping[str, Any], run_dir: Path) -> None:
        self.config, self.rows, self.closed = config, list[tuple[int, dict[str, float]]](), 0
        type(self).made.append(self)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.rows.append((step, dict(row)))
        if step == 1 and self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1

    error: BaseException | None = None


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "made", [], raising=False)
    monkeypatch.setattr(Recorder, "error", None)
    monkeypatch.setattr(trackers, "TensorBoard", Recorder)
    monkeypatch.setattr(trackers, "need", lambda *names, instead: None)
    return Recorder


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["train", "reinforce", "--tracker", name, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.search(f"-m pip install '?{name}", error) and "metrics.jsonl" in error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'tensorboard'"):
        refuse_tracker("tensorbord")
    refuse_tracker("none")


def test_a_tracker_gets_every_finite_number_and_only_those(tmp_path, recorder):
    said: list[str] = []
    with open_tracker("tensorboard", {"seed": 1}, tmp_path, said.append) as tracker:
        for row in ROWS:
            tracker.log(row)
    backend = recorder.made[0]
    assert backend.rows == [(0, {"eval/accuracy": 0.25}), (1, {"reward": 0.5}), (2, {"reward": 0.75, "grad_norm": 2.0})]
    assert backend.closed == 1 and backend.config == {"seed": 1} and said == ["tracker tensorboard: here"]


def test_no_tracker_is_silent(tmp_path):
    said: list[str] = []
    with open_tracker("none", {}, tmp_path, said.append) as tracker:
        tracker.log(ROWS[0])
    assert said == [] and list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_start_says_so_and_the_run_goes_on(tmp_path, recorder, monkeypatch):
    monkeypatch.setattr(Recorder, "__init__", lambda self, config, run_dir: 1 / 0)
    said: list[str] = []
    with open_tracker("tensorboard", {}, tmp_path, said.append) as tracker:
        tracker.log(ROWS[0])
    assert len(said) == 1 and "ZeroDivisionError" in said[0] and "metrics.jsonl has everything" in said[0]


def test_a_tracker_that_fails_in_the_middle_changes_nothing_of_the_run(tmp_path, recorder, monkeypatch, capsys):
    train(TrainConfig(**SHORT, out=tmp_path / "a"))
    monkeypatch.setattr(Recorder, "error", OSError("the network is gone\nand more"))
    run = train(TrainConfig(**SHORT, out=tmp_path / "b", tracker="tensorboard"))
    out = capsys.readouterr().out
    assert out.count("tracker tensorboard failed") == 1 and "OSError: the network is gone)" in out
    assert run.steps == 2 and [step for step, _ in recorder.made[0].rows] == [0, 1]
    assert _numbers(tmp_path / "a") == _numbers(tmp_path / "b")


def _numbers(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/", "step_time"))} for row in rows]


def test_ctrl_c_closes_the_tracker(tmp_path, recorder, monkeypatch):
    monkeypatch.setattr(Recorder, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**SHORT, out=tmp_path / "run", tracker="tensorboard"))
    assert recorder.made[0].closed == 1


# -- the real ones, where they are installed -----------------------------------------------------------------------
def _log_all(name: str, path: Path) -> list[str]:
    said: list[str] = []
    with open_tracker(name, {"recipe": "grpo", "overrides": {}}, path, said.append) as tracker:
        for row in ROWS:
            tracker.log(row)
    return said


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert _log_all("tensorboard", tmp_path) == [f"tracker tensorboard: tensorboard --logdir {tmp_path}"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward")] == [(1, 0.5), (2, 0.75)]


@pytest.mark.slow
def test_wandb_offline_keeps_the_run_in_its_directory(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    refuse_tracker("wandb")
    assert _log_all("wandb", tmp_path) == [f"tracker wandb: wandb sync {tmp_path}/wandb/offline-run-*"]
    stored = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    end = time.monotonic() + 30
    while b"eval/accuracy" not in stored[0].read_bytes() and time.monotonic() < end:
        time.sleep(0.1)  # wandb's own process writes it, also after finish()
    assert len(stored) == 1 and b"eval/accuracy" in stored[0].read_bytes()
    name = (tmp_path / "wandb_id").read_text()
    _log_all("wandb", tmp_path)
    assert (tmp_path / "wandb_id").read_text() == name and f"run-{name}" in stored[0].name


@pytest.mark.slow
def test_trackio_keeps_the_run_locally(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert _log_all("trackio", tmp_path) == ["tracker trackio: trackio show --project rung"]
