"""From a task's name, as the user types it, to its training and evaluation problems."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rung.errors import InputError, unknown
from rung.tasks import adapters, dataset, gym
from rung.tasks.environment import Splits
from rung.tasks.rows import SUFFIXES

BUILT_IN = ("chained_arithmetic", "gsm8k")
_NONE: Mapping[str, Any] = MappingProxyType({})


def names() -> list[str]:
    """Every name that `load` knows, besides paths of files."""
    return sorted([*BUILT_IN, *gym.names()])


def load(
    name: str,
    *,
    path: Path | None = None,
    reward: str | None = None,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    verifier: str = "auto",
    options: Mapping[str, Any] = _NONE,
) -> Splits:
    """The task `name`: a built-in task, a reasoning-gym dataset, or the path of a JSONL, CSV or Parquet file.

    path:     the data of a task that has none of its own (gsm8k).
    reward:   FILE.py:NAME, a reward function of TRL's signature that replaces the task's verifier.
    verifier: auto, exact, numeric, choice or math; for tasks from files.
    options:  settings of the task itself, such as a reasoning-gym dataset's configuration.
    """
    judge = adapters.load_function(reward) if reward is not None else None  # before anything slow is loaded
    if name == "gsm8k":
        if path is None:
            raise InputError("the task gsm8k needs its data. Give its JSONL file or directory with --task-path.")
        splits = dataset.gsm8k(path, verifier=verifier, options=options)
    elif name.endswith(SUFFIXES) or Path(name).is_dir():
        _refuse(name, path=path)
        columns = {"prompt_column": prompt_column, "answer_column": answer_column}
        splits = dataset.splits(Path(name), **columns, verifier=verifier, answers=judge is None, options=options)
    else:
        splits = _generated(name, path, verifier, options)
    if judge is None:
        return splits
    train, held_out = (adapters.Rewarded(split, judge) for split in (splits.train, splits.eval))
    return dataclasses.replace(splits, train=train, eval=held_out)


def _generated(name: str, path: Path | None, verifier: str, options: Mapping[str, Any]) -> Splits:
    """A task that makes its own problems and judges them itself."""
    if name == "chained_arithmetic":
        _refuse(name, path=path, verifier=verifier)
        from rung.tasks import arithmetic

        known = inspect.signature(arithmetic.splits).parameters
        for option in options:
            if option not in known:
                raise unknown(f"option of {name}", option, known)
        return arithmetic.splits(**options)
    known_datasets = gym.names()
    if name not in known_datasets:
        more = " Or give the path of a .jsonl, .csv or .parquet file."
        if not known_datasets:
            more += " For reasoning-gym's datasets: pip install 'rung[gym]'."
        raise unknown("task", name, [*BUILT_IN, *known_datasets], more=more)
    _refuse(name, path=path, verifier=verifier)
    return gym.splits(name, options)


def _refuse(name: str, *, path: Path | None, verifier: str = "auto") -> None:
    """A setting that would be ignored is a mistake that the user should hear of."""
    if path is not None:
        raise InputError(f"--task-path {path} has no use for the task {name}, which has its own data. Leave it out.")
    if verifier != "auto":
        raise InputError(f"the verifier {verifier!r} has no use for the task {name}, which judges its answers itself.")
