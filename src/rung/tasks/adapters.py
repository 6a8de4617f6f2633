"""A reward function with TRL's signature as the judge of any task: f(prompts, completions, **columns) -> floats."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import warnings
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rung.errors import InputError, unknown
from rung.records import Completion, Group, Task
from rung.tasks.environment import Environment


@dataclass(frozen=True)
class Rewarded:
    """The problems of `environment`, judged by `function` instead of its verifier.

    The function gets one prompt, completion and column value per answer; for chat prompts a completion is a list with
    one assistant message, as in TRL. It returns a float per answer, or None for "could not tell" (NaN, left out).
    on_error: "stop" raises when the function does; "skip" gives the whole group NaN and warns, once per function.
    weight:   the values are multiplied by it, and so reported.
    """

    environment: Environment
    function: Callable[..., Any]
    on_error: Literal["stop", "skip"] = "stop"
    weight: float = 1.0

    @property
    def name(self) -> str:
        return str(getattr(self.environment, "name", type(self.environment).__name__))

    def __len__(self) -> int:
        return len(self.environment)

    def __getitem__(self, index: int) -> Task:
        return self.environment[index]

    def extract(self, task: Task, completion: Completion) -> str | None:
        """The answer as the task's own verifier reads it; None if it has none."""
        extract = getattr(self.environment, "extract", None)
        return extract(task, completion) if extract else None

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        """The task's own right answers, where its rows hold any; the function may want others."""
        right = getattr(self.environment, "right_answers", None)
        try:
            found: tuple[str | None, list[str]] = right(task) if right else (None, [])
        except KeyError:  # rows for a reward function need no answer column
            return None, []
        return found

    def score(self, group: Group) -> list[dict[str, float]]:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        where = f"the reward function {name!r} for {group.task.id}"
        try:
            values = _settled(self.function(**_arguments(self.function, group, where)))
        except InputError:
            raise
        except Exception as error:
            if self.on_error == "skip":
                _warn_once(self.function, f"{where} raised {type(error).__name__}: {error}. {_line(error)} Not scored.")
                return [{name: math.nan} for _ in group.completions]
            raise InputError(
                f"{where} raised {type(error).__name__}: {error}. {_line(error)} Mend it, or leave such answers unscored "
                "with --task-options.on_error skip."
            ) from error
        return [{name: self.weight * value} for value in _rewards(values, len(group.completions), where)]


@dataclass(frozen=True)
class Several:
    """Several reward functions for the problems of one environment; their values are summed, NaN left out."""

    judges: Sequence[Rewarded]

    @property
    def name(self) -> str:
        return self.judges[0].name

    def __len__(self) -> int:
        return len(self.judges[0])

    def __getitem__(self, index: int) -> Task:
        return self.judges[0][index]

    def extract(self, task: Task, completion: Completion) -> str | None:
        return self.judges[0].extract(task, completion)

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        return self.judges[0].right_answers(task)

    def score(self, group: Group) -> list[dict[str, float]]:
        scores = [judge.score(group) for judge in self.judges]
        return [{name: value for part in parts for name, value in part.items()} for parts in zip(*scores, strict=True)]


def judged(environment: Environment, judges: Sequence[tuple[Callable[..., Any], float]], on_error: str) -> Environment:
    """The problems of `environment`, judged by functions with weights."""
    if on_error not in ("stop", "skip"):
        raise unknown("on_error", on_error, ["stop", "skip"])
    parts = [Rewarded(environment, function, on_error, weight) for function, weight in judges]  # type: ignore[arg-type]
    return parts[0] if len(parts) == 1 else Several(parts)


_warned: set[int] = set()


def _warn_once(function: Callable[..., Any], message: str) -> None:
    if id(function) not in _warned:
        _warned.add(id(function))
        warnings.warn(message, stacklevel=3)


def _arguments(function: Callable[..., Any], group: Group, where: str) -> dict[str, Any]:
    """All columns, or only those that the function names if it takes no **kwargs."""
    count, prompt = len(group.completions), group.task.prompt
    chat = not isinstance(prompt, str)
    texts = [completion.text for completion in group.completions]
    offered: dict[str, Any] = {column: [value] * count for column, value in group.task.data.items()}
    offered |= {
        "prompts": [list(prompt) if chat else prompt] * count,
        "completions": [[{"role": "assistant", "content": text}] for text in texts] if chat else texts,
        "completion_ids": [list(completion.tokens) for completion in group.completions],
    }
    parameters = inspect.signature(function).parameters.values()
    wanted = {p.name: p.default is p.empty for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for name, required in wanted.items():
        if required and name not in offered:
            raise unknown(f"argument of {where}:", name, offered, more=" The task has no such column.")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {name: value for name, value in offered.items() if takes_all or name in wanted}


def _settled(values: Any) -> Any:
    """The value of an async function's coroutine; anything else as it is."""
    if not isinstance(values, Coroutine):
        return values
    with ThreadPoolExecutor(1) as thread:  # a notebook's own event loop runs in this one
        return thread.submit(asyncio.run, values).result()


def _rewards(values: Any, count: int, where: str) -> list[float]:
    try:
        rewards = [math.nan if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} must return a list of numbers or None, but: {error}.") from error
    if len(rewards) != count:
        raise InputError(f"{where} returned {len(rewards)} rewards for {count} completions, but each needs one.")
    if any(math.isinf(reward) for reward in rewards):
        raise InputError(f"{where} returned an infinite reward. Return None where the answer cannot be judged.")
    return rewards


def _line(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"See {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}." if trace else ""


def load_functions(spec: str) -> list[tuple[Callable[..., Any], float]]:
    """Functions with weights from `FILE.py:NAME`, several divided by commas, a weight after a star: `a.py:f,a.py:g*0.5`."""
    found: list[tuple[Callable[..., Any], float]] = []
    for part in spec.split(","):
        place, star, weight = part.strip().rpartition("*")
        try:
            factor = float(weight) if star else 1.0
        except ValueError:
            factor = math.nan
        if not math.isfinite(factor):
            raise InputError(f"--reward {part.strip()!r}: {weight!r} is no weight. Write FILE.py:NAME*0.5.")
        found.append((load_function(place if star else part.strip()), factor))
    names = [getattr(function, "__name__", type(function).__name__) for function, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--reward names two functions {name!r}; their rewards need different names.")
    return found


def load_function(spec: str, flag: str = "--reward") -> Callable[..., Any]:
    """The function (or class) that FILE.py:NAME names."""
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise InputError(f"{flag} {spec!r} names no function. Write FILE.py:NAME, as in rewards.py:length.")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{flag} {spec!r}: the file {path} does not exist. Check the path (read from {Path.cwd()}).")
    module_spec = importlib.util.spec_from_file_location(f"rung_reward_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path} cannot be imported: {type(error).__name__}: {error}. {_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            k
            for k, v in vars(module).items()
            if inspect.isfunction(v) or getattr(v, "__module__", "") == module.__name__
        ]
        raise unknown(f"function in {path}:", name, own)
    return function  # type: ignore[no-any-return]
