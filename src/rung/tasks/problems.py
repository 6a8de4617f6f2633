"""From settings to problems, the one way in: what a task's name stands for, or what an environment makes of it, in words.

Names of tasks are read in registry.py, names of environments in environments/named.py, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rung.errors import InputError, setting
from rung.settings.shared import Problems
from rung.tasks import registry
from rung.tasks.environments import named
from rung.tasks.environments.protocol import Conversational, Environment, Splits, title
from rung.tasks.rewards import functions as adapters
from rung.tasks.sources.given import refuse_told
from rung.tasks.sources.wording import Wording, worded, wording_of

PLAIN = Wording()


def problems_of(settings: Problems, objects: Mapping[str, Any] = MappingProxyType({})) -> Splits:
    """The problems that the settings of a run or of a command name, in the words that they want.

    objects: task, reward and environment that Python gave, instead of their names.
    """
    task, reward, environment = (objects.get(n, getattr(settings, n)) for n in ("task", "reward", "environment"))
    refuse_told(task=task, reward=reward, environment=environment)
    return load_problems(
        task, environment=environment, path=settings.task_path, reward=reward, options=settings.options(),
        wording=wording_of(settings),
    )  # fmt: skip


def load_problems(
    task: Any,
    *,
    environment: Any = None,
    path: Path | None = None,
    reward: Any = None,
    options: Mapping[str, Any] | None = None,
    wording: Wording = PLAIN,
) -> Splits:
    """The task as `registry.load` gives it, or what `environment` makes of it (`named.load`).

    task, environment, reward: their names, or the objects themselves.
    """
    options = dict(options or {})
    if environment is not None:
        return named.load(environment, task, path=path, reward=reward, options=options, wording=wording)
    if isinstance(task, Splits | Environment):
        return worded(_ready(task, path, reward, options), wording)
    return worded(registry.load("" if task is None else task, path=path, reward=reward, options=options), wording)


def _ready(task: Splits | Environment, path: Path | None, reward: Any, options: dict[str, Any]) -> Splits:
    """Problems that judge their answers themselves, or are judged by reward functions."""
    made = named.as_splits(task, title(task))
    judges = adapters.functions(reward) if reward is not None else []
    how = adapters.manner(options) if judges else {}
    if path is not None or options:
        raise InputError(
            f"{setting('task_path', path) if path else setting('task_options.' + next(iter(options)))} has no use for "
            "problems that Python "
            "made. Leave it out."
        )
    if judges and isinstance(made.train, Conversational):
        raise InputError(f"reward has no use for {made.name}, whose answers are conversations that it judges itself.")
    return adapters.judged(made, judges, **how) if judges else made
