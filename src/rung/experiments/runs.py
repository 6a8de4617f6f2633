"""Training runs that are made once: a store of run directories, keyed by everything that their result depends on.

    OUT/runs/ppo-3f2a91c04b7d/   an ordinary run directory, and result.json, written last

A run with a result is never trained again; one that was killed goes on from its checkpoint, or is set aside and redone.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from rung import __version__
from rung.errors import InputError
from rung.experiments.curves import area
from rung.experiments.workers import side_by_side
from rung.io.console import Console
from rung.io.files import readable, replace_kept, to_json
from rung.io.held_out import NAMES, evaluations, kind, mean
from rung.io.run_dir import RunDir
from rung.io.terminal import figure
from rung.io.terminal import say as say_it
from rung.kernels.device import choose
from rung.network import model as models
from rung.recipe_io import LABELS, to_dict
from rung.recipes import Recipe
from rung.records import Scored, Tokens
from rung.settings.paths import path_of
from rung.tasks.sources.rows import SUFFIXES
from rung.training.config import TrainConfig
from rung.training.loop import Outcome, train
from rung.training.policy import Policy, in_parts
from rung.training.setup import locate

RESULT = "result.json"
NO_MATTER = {  # to a result
    "recipe", "overrides", "out", "resume", "threads", "save_every", "keep_last", "keep_best", "save_rollouts", "tracker",
    "reward_deadline", "activation_gib",
}  # fmt: skip
TAIL = 0.2  # what a run "ends at" is the mean over this last share of its steps

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training: `label` says in words which arm of an experiment it is."""

    label: str
    config: TrainConfig


# -- keys ----------------------------------------------------------------------------------------------------------
def parts_of(recipe: Recipe) -> Row:
    """What a recipe computes, without its name and story."""
    return {k: v for k, v in to_dict(recipe).items() if k not in LABELS}


def digest(path: Path) -> str:
    """sha256 of a file, or of a directory's files: of a model its configuration and weights, of a task its rows."""
    kinds = ("*.json", "*.safetensors", *(f"*{suffix}" for suffix in SUFFIXES))
    files = [path] if path.is_file() else sorted({file for kind in kinds for file in path.glob(kind)})
    return _digest(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files as they are now: read once, until one of them is changed."""
    total = hashlib.sha256()
    for file, _, _ in stamps:
        total.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def fingerprint(value: Any) -> str:
    """Twelve digits that stand for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def key(config: TrainConfig) -> str:
    """Of the recipe's parts, every setting that matters, the starting weights, the files it reads, and our version."""
    config = config.resolved()
    settings = {k: v for k, v in vars(config).items() if k not in NO_MATTER}
    settings["device"] = choose(config.device).type  # auto is what it stands for
    for name, text in (("model", locate(config.model)), ("task", config.task), ("task_path", config.task_path)):
        if text and path_of(text).exists():
            settings[name] = digest(path_of(text))
    for name in ("reward", "environment"):
        settings[f"{name} files"] = [digest(file) for file in python_files(getattr(config, name))]
    return fingerprint({"recipe": parts_of(config.build_recipe()), "settings": settings, "version": __version__})


def python_files(spec: str | None) -> list[Path]:
    """The files of `a.py:f,b.py:g*0.5`."""
    files = [path_of(part.strip().rpartition(":")[0]) for part in (spec or "").split(",")]
    return [file for file in files if file.is_file()]


# -- one run -------------------------------------------------------------------------------------------------------
def place(job: Job, out: Path) -> Path:
    name = re.sub(r"[^A-Za-z0-9_+-]+", "-", job.config.build_recipe().name)
    return out / "runs" / f"{name}-{key(job.config)}"


def stored(job: Job, out: Path) -> Row | None:
    """The result of an earlier run with the same key, under this job's label."""
    path = place(job, out) / RESULT
    if not path.is_file():
        return None
    with readable(path):
        return {**json.loads(path.read_bytes()), "label": job.label}


def run(job: Job, out: Path) -> Row:
    """Train, unless that was done before, and say what came out."""
    found = stored(job, out)
    if found is not None:
        return found
    path, resume = place(job, out), False
    path.parent.mkdir(parents=True, exist_ok=True)
    if (path / "config.toml").is_file():  # a killed run
        with RunDir.open(path, write=True) as torn:  # refused while somebody else writes it
            resume = torn.latest_checkpoint() is not None
        if not resume:
            _set_aside(path)
    config = replace(job.config, out=path, resume=resume, threads=1)
    _forget_peak()
    done = train(config, Console(io.StringIO()))
    if done.interrupted:
        raise KeyboardInterrupt
    result = {"label": job.label, **row_of(done, config), "peak_mb": _peak()}
    write_json(path / RESULT, result)
    return {**json.loads((path / RESULT).read_bytes()), "label": job.label}  # as a later call will read it


def ready(out: Path) -> None:
    """Make the directory --out, before the hours of work whose results it should hold."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {out}: no directory can be made there ({error.strerror}). Give another name."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """The value as a JSON file, whole or not at all; another result that was there stays beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_kept(path, (to_json(value, indent=1) + "\n").encode())


def _set_aside(path: Path) -> None:
    n = 1
    while (aside := path.with_name(f"{path.name}.incomplete-{n}")).exists():
        n += 1
    path.rename(aside)


def row_of(done: Outcome, config: TrainConfig) -> Row:
    """One run as a row: what it reached, what it cost, how far the policy moved. Curves lie beside the numbers.

    measure: "accuracy", or "reward" where some evaluation had rewards other than 0 and 1.
    accuracy: that, on the held-out problems after the run.  area: its mean over the tokens from 0 to the budget.
    tokens: sampled, discarded answers included.  kl: KL(end || start) in nats a token, from the held-out answers.
    state_mb: weights, reference, critic and optimizers, as the checkpoint holds them.
    """
    config = config.resolved()
    steps = [row for row in done.metrics if "step_time" in row]
    at = {0: 0.0, **{row["step"]: row["num_tokens"] for row in steps}}
    evals = evaluations(done.metrics)
    assert done.after is not None, "it was not interrupted"
    measured = kind(evals)
    curve = {at[row["step"]]: value for row in evals if (value := mean(row, measured)) is not None}
    if not curve:
        raise InputError(f"{done.path}: no held-out answer could be scored, so there is nothing to compare.")
    x, y = list(curve), list(curve.values())
    tail = steps[-max(1, round(TAIL * len(steps))) :]
    checkpoint = RunDir.open(done.path).model_path()
    held = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    recipe = config.build_recipe()
    return {
        "recipe": recipe.name,
        "parent": recipe.parent,
        "lr": config.learning_rate,
        "step_size": step_size(config, recipe),
        "seed": config.seed,
        "measure": measured,
        "accuracy": y[-1],
        "accuracy_start": y[0],
        "area": area(x, y, float(config.tokens or x[-1])),
        "tokens": x[-1],
        "steps": len(steps),
        "seconds": sum(row["step_time"] for row in steps),
        "seconds_per_step": median(row["step_time"] for row in steps),
        "update_seconds": median(row["time/update"] for row in steps),
        "kl": moved(config, done.after.answers),
        "entropy": _end(tail, "entropy"),
        "length": _end(tail, "completions/mean_length"),
        "length_wrong": _end(tail, "completions/mean_length_wrong"),
        "no_signal": _end(tail, "frac_reward_zero_std"),
        "state_mb": held / 2**20,
        "curve": {"tokens": x, "accuracy": y},
        "run": done.path.name,
    }


def measured_as(rows: Sequence[Row]) -> str:
    """What the rows' `accuracy` is: one name for all that are compared."""
    return NAMES["reward" if any(row.get("measure") == "reward" for row in rows) else "accuracy"]


def step_size(config: TrainConfig, recipe: Recipe) -> float:
    """How far one step goes, in the setting that the recipe's update rule takes it from."""
    where, _, name = recipe.update.step_size.rpartition(".")
    return float(getattr(getattr(recipe, where) if where else config, name))


def _end(rows: Sequence[Row], name: str) -> float:
    values = [row[name] for row in rows if row.get(name) is not None and math.isfinite(row[name])]
    return fmean(values) if values else math.nan


@torch.no_grad()
def moved(config: TrainConfig, answers: Sequence[Scored]) -> float:
    """KL(pi_end || pi_start) = E_end[log pi_end - log pi_start], mean per token over answers drawn from pi_end."""
    start = models.load(locate(config.model), dtype=getattr(torch, config.dtype), device=choose(config.device))
    kept = [a.rollout for a in answers if a.rollout.tokens]
    length_B = torch.tensor([len(r.tokens) for r in kept])
    wide = torch.nn.utils.rnn.pad_sequence([torch.tensor(r.tokens) for r in kept], batch_first=True)
    logp_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(r.logp) for r in kept], batch_first=True)
    mask_BT = torch.arange(wide.shape[1]) < length_B[:, None]
    tokens = Tokens([torch.tensor(r.prompt) for r in kept], wide, mask_BT, length_B, torch.arange(len(kept)))
    policy = Policy(start, config.temperature)
    begun_BT = in_parts(tokens, 8192, lambda part: policy.score(part).logp_BT)
    return float(((logp_BT - begun_BT) * mask_BT).sum()) / max(int(mask_BT.sum()), 1)


def _forget_peak() -> None:
    """Start the process's peak memory anew, so that a run does not inherit that of the one before it (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float | None:
    """Peak resident memory in MiB since `_forget_peak`, the interpreter and torch included."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024 if found else None
    return None


# -- many runs -----------------------------------------------------------------------------------------------------
def say(text: str) -> None:
    """Progress goes to standard error: standard output may be JSON."""
    say_it(text, sys.stderr)


def run_all(jobs: Sequence[Job], out: Path, workers: int = 1, tell: Callable[[str], None] = say) -> list[Row]:
    """Every job's result, in order. What is stored is not trained again; `workers` processes of one thread each."""
    rows: dict[int, Row] = {i: row for i, job in enumerate(jobs) if (row := stored(job, out)) is not None}
    todo = [i for i in range(len(jobs)) if i not in rows]
    if not todo:
        return [rows[i] for i in range(len(jobs))]
    if rows:
        tell(f"{len(rows)} of {len(jobs)} runs are stored in {out} already")
    begun = time.monotonic()

    def done(i: int, row: Row) -> None:
        rows[i] = row
        left = (time.monotonic() - begun) / (len(rows) - len(jobs) + len(todo)) * (len(jobs) - len(rows))
        tell(
            f"{len(rows):>3}/{len(jobs)}  {jobs[i].label}, step size {row['step_size']:g}, seed {row['seed']}: "
            f"{measured_as([row])} {figure(row['accuracy'])}, {row['seconds']:.1f} s; {left / 60:.0f} min left"
        )

    try:
        if workers == 1:
            for i in todo:
                done(i, run(jobs[i], out))
        else:
            with side_by_side(workers) as pool:
                pending = {pool.submit(run, jobs[i], out): i for i in todo}
                for future in as_completed(pending):
                    done(pending[future], future.result())
    except KeyboardInterrupt:
        tell(f"stopped: {len(rows)} of {len(jobs)} runs are stored in {out}; the same command goes on with the others")
        raise
    return [rows[i] for i in range(len(jobs))]
