"""What a task's name stands for: built in, of reasoning-gym, rows in a file or on the hub, a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rung.advice import need, pip_install
from rung.errors import InputError, setting, unknown
from rung.settings.paths import path_of
from rung.settings.ranges import called
from rung.tasks.environments.protocol import Splits
from rung.tasks.rewards import functions as adapters
from rung.tasks.sources import dataset, given, gym, hub, mixture_text
from rung.tasks.sources.rows import is_path

BUILT_IN = ("chained_arithmetic", "gsm8k")
_NONE: Mapping[str, Any] = MappingProxyType({})


def names() -> list[str]:
    """Every name that `load` knows, besides paths of files."""
    return sorted([*BUILT_IN, *gym.names()])


def load(
    name: Any,
    *,
    path: Path | None = None,
    reward: Any = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    verifier: str = "auto",
    options: Mapping[str, Any] = _NONE,
    answers: bool = True,
) -> Splits:
    """The task `name`: a built-in task, a reasoning-gym dataset, a file or dataset with rows, or a mixture of these.

    name:     also the path of a file of rows (rows.py), of a directory with train.* and test.* files, or of a saved
              Hugging Face dataset; hf:NAME, one of the hub; A:3,B:1 or a .toml file, a mixture (mixture_text.py). Or the rows
              themselves (given.py).
    path:     the data of a task that has none of its own (gsm8k).
    reward:   FILE.py:NAME, reward functions of TRL's signature that replace the task's verifier (rewards/functions.py); or they
              themselves (given.py).
    verifier: auto, exact, numeric, choice, math or code; for tasks from rows.
    options:  settings of the task itself, such as a reasoning-gym dataset's configuration. For tasks from rows also
              prompt_column, answer_column and verifier; with a reward function on_error, "stop" or "skip".
    answers:  whether rows must have an answer; where a reward function judges they need none.
    """
    options = dict(options)
    judges = adapters.functions(reward) if reward is not None else []  # before anything slow is loaded
    rows = None if isinstance(name, str) else given.sources(name, options)
    name = name if rows is None else rows.name
    if rows is None and mixture_text.is_mixture(name):
        return mixture_text.splits(name, path, options, load, reward)
    how = adapters.manner(options) if judges else {}
    if rows is None and name == "gsm8k":
        splits = _gsm8k(path, str(options.pop("verifier", verifier)), options)
    elif rows is not None or is_path(name) or name.startswith(hub.PREFIX):
        _refuse(name, path=path)
        splits = dataset.splits(
            path_of(name),
            prompt_column=_name(options.pop("prompt_column", prompt_column)),
            answer_column=_name(options.pop("answer_column", answer_column)),
            verifier=str(options.pop("verifier", verifier)),
            answers=answers and not judges,
            options=options,
            given=rows,
        )
    else:
        splits = _generated(name, path, verifier, options)
    return adapters.judged(splits, judges, **how) if judges else splits


def _gsm8k(path: Path | None, verifier: str, options: Mapping[str, Any]) -> Splits:
    if path is None:
        raise InputError(
            f"the task gsm8k needs its data. Give its JSONL file or directory with {setting('task_path')}."
        )
    return dataset.gsm8k(path, verifier=verifier, options=options)


def _generated(name: str, path: Path | None, verifier: str, options: Mapping[str, Any]) -> Splits:
    """A task that makes its own problems and judges them itself."""
    if name == "chained_arithmetic":
        _refuse(name, path=path, verifier=verifier)
        from rung.tasks.sources import arithmetic

        return called(arithmetic.splits, options, name)
    if name in gym.DEFAULTS:  # one of them is what is trained on if nobody names a task
        instead = f"Train on problems of your own ({setting('task', 'FILE.jsonl')})"
        need(f"the task {name}, a dataset of reasoning-gym,", "reasoning_gym", instead=instead)
    known_datasets = gym.names()
    if name not in known_datasets:
        more = " Or give the path of a .jsonl, .csv or .parquet file."
        if not known_datasets:
            more += f" The datasets of reasoning-gym are not installed: {pip_install(['reasoning_gym'])}"
        raise unknown("task", name, [*BUILT_IN, *known_datasets], more=more)
    _refuse(name, path=path, verifier=verifier)
    return gym.splits(name, options)


def _name(column: Any) -> str | None:
    return None if column is None else str(column)


def _refuse(name: str, *, path: Path | None, verifier: str = "auto") -> None:
    """A setting that would be ignored is a mistake that the user should hear of."""
    if path is not None:
        raise InputError(
            f"{setting('task_path', path)} has no use for the task {name}, which has its own data. Leave it out."
        )
    if verifier != "auto":
        raise InputError(f"the verifier {verifier!r} has no use for the task {name}, which judges its answers itself.")
