"""What an environment's name stands for: a TRL class over the task's rows, a gymnasium environment, or the protocol itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rung.advice import need
from rung.errors import InputError, setting
from rung.settings.ranges import shown
from rung.tasks import registry
from rung.tasks.environments.protocol import Environment, Splits, half_stateful
from rung.tasks.environments.text_gymnasium import Gymnasium, refuse_actions
from rung.tasks.environments.tool_class import ToolEnvironment
from rung.tasks.environments.wrapper import Part
from rung.tasks.rewards import python_file
from rung.tasks.sources.wording import Wording, refused, worded

PREFIX = "gymnasium:"
NEEDED = ("__len__", "__getitem__", "score")  # of an environment
TURN_TOKENS = 256  # a budget for a conversation of whose answers nothing is known


def load(
    environment: Any,
    task: Any,
    *,
    path: Path | None,
    reward: Any,
    options: Mapping[str, Any],
    wording: Wording,
) -> Splits:
    """What `environment` makes of the task, or by itself.

    environment: gymnasium:ID, or FILE.py:NAME, where NAME is a class with reset(**row) whose public methods are tools (it
        needs a task for its rows), a gymnasium environment's class, a Splits, or an Environment (or what makes one). Or
        the object itself.
    """
    if isinstance(environment, str):
        if environment.startswith(PREFIX):
            _alone(environment, task, reward, wording)
            return _gymnasium(environment.removeprefix(PREFIX), options)
        found = python_file.load_object(environment, "environment")
    else:
        found, environment = environment, getattr(environment, "__name__", type(environment).__name__)
    if isinstance(found, type) and hasattr(found, "reset") and not hasattr(found, "__getitem__"):
        if hasattr(found, "step"):
            _alone(environment, task, reward, wording)
            _fit(found, environment, options)
            return _wrapped(found.__name__, partial(found, **options), {})
        rows = worded(_rows(found, environment, task, path, reward, options), wording)
        return with_tools(found, rows, judge=reward is not None)
    makes = inspect.isfunction(found) or (isinstance(found, type) and all(hasattr(found, name) for name in NEEDED))
    if not makes:
        found = as_splits(found, environment)
    _alone(environment, task, reward, wording)
    if makes:
        _fit(found, environment, options)
        found = found(**options)
    return as_splits(found, environment)


def _fit(make: Any, environment: str, options: Mapping[str, Any]) -> None:
    """Refuse options that are no arguments of what makes the environment; what it raises itself is its own affair."""
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise InputError(
            f"{setting('environment', environment)} cannot be made: {error}. Its arguments are {setting('task_options')}."
        ) from error


def with_tools(factory: Any, rows: Splits, *, judge: bool) -> Splits:
    """A TRL class (or any callable that makes an instance) over the problems of `rows`; see ToolEnvironment."""
    if not callable(getattr(factory(), "reset", None)):
        raise InputError(f"the environment {getattr(factory, '__name__', factory)!r} has no reset(**row).")
    train, held_out = (ToolEnvironment(x, factory, judge) for x in (rows.train, rows.eval))
    return replace(rows, train=train, eval=held_out, max_new_tokens=max(rows.max_new_tokens, TURN_TOKENS))


def as_splits(made: Any, name: str) -> Splits:
    """A Splits as it is; an Environment as both training and evaluation problems would be no evaluation, so it is cut."""
    if half := half_stateful(made.train if isinstance(made, Splits) else made):
        raise InputError(
            f"{name} has {half[0]} and no {half[1]}, so a run could not go on where its problems stood. Write both, or none."
        )
    if isinstance(made, Splits):
        return made
    if isinstance(made, Environment):
        if len(made) < 2:
            raise InputError(f"the environment {name} has {len(made)} problems; training and evaluation need one each.")
        cut = max(1, len(made) // 10)
        return Splits(name, Part(made, cut, len(made)), Part(made, 0, cut), TURN_TOKENS)
    raise InputError(
        f"environment {name}: {shown(made)}, of type {type(made).__name__}, is no environment. It needs {', '.join(NEEDED)}, and "
        "session for several turns; or give a Splits, a class with reset(**row), or a gymnasium environment."
    )


def _rows(
    found: Any, environment: str, task: Any, path: Path | None, reward: Any, options: Mapping[str, Any]
) -> Splits:
    if task is None:
        raise InputError(
            f"{setting('environment', environment)}: its reset(**row) needs rows. Give them with {setting('task')}."
        )
    return registry.load(task, path=path, reward=reward, options=options, answers=not hasattr(found, "get_reward"))


def _gymnasium(name: str, options: Mapping[str, Any]) -> Splits:
    need(setting("environment", PREFIX + name), "gymnasium")
    import gymnasium

    options = dict(options)
    ours: dict[str, Any] = {k: options.pop(k) for k in ("instruction", "size") if k in options}
    try:
        make = partial(gymnasium.make, name, **options)
        make().close()
    except (
        gymnasium.error.Error,
        ModuleNotFoundError,
    ) as error:  # no such environment, or a package of its own is missing
        raise InputError(f"{setting('environment', PREFIX + name)}: {error}") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) or not options:
            raise
        raise InputError(
            f"{setting('environment', PREFIX + name)}: {error}. Its arguments are {setting('task_options')}."
        ) from error
    return _wrapped(name, make, ours)


def _wrapped(name: str, make: Any, ours: Mapping[str, Any]) -> Splits:
    refuse_actions(name, make)
    return Splits(name, Gymnasium(name, make, "train", **ours), Gymnasium(name, make, "eval", **ours), TURN_TOKENS)


def _alone(environment: str, task: Any, reward: Any, wording: Wording) -> None:
    if wording:
        raise refused(wording, environment)
    for name, value in (("task", task), ("reward", reward)):
        if value is not None:
            raise InputError(
                f"{setting(name, value)} has no use for the environment {environment}, which has its own. Leave it out."
            )
