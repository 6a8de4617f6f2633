"""A reward function with TRL's signature as the judge of any task: f(prompts, completions, **columns) -> floats."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, Literal

from rung.errors import InputError, printable, setting, unknown
from rung.records import Group, Task
from rung.settings.ranges import shown
from rung.tasks.environments.protocol import (
    Environment,
    Extracts,
    HasGold,
    Judge,
    Observes,
    Splits,
    Staged,
    Stateful,
    Waits,
)
from rung.tasks.environments.wrapper import Wrapper
from rung.tasks.rewards.arguments import Progress, arguments, name_of, plain
from rung.tasks.rewards.coroutines import Begun, is_async
from rung.tasks.rewards.deadline import DEADLINE, LOOK, Late, Up, outcome, within
from rung.tasks.rewards.foreign import form_of
from rung.tasks.rewards.python_file import folder_of, line_of, load_object
from rung.tasks.sources.given import weighted
from rung.tasks.verify.probes import gold_of

# What a reward function leaves to the problems; how they would be judged, and at which steps, it replaces.
PROBLEMS_OWN = (Extracts, HasGold, Observes, Stateful)


@dataclass(frozen=True)
class Rewarded(Wrapper):
    """The problems of `environment`, judged by `function` instead of its verifier.

    The function gets what arguments.py says, and returns a float per answer, or None for "could not tell" (NaN, left out).
    on_error: "stop" raises when the function does; "skip" gives the whole group NaN and warns, once per function.
    deadline: seconds that the function may take for one group; then it has raised.
    weight:   the values are multiplied by it, and so reported.
    """

    environment: Environment
    function: Callable[..., Any]
    on_error: Literal["stop", "skip"] = "stop"
    weight: float = 1.0
    deadline: float = DEADLINE
    progress: Progress = field(default_factory=Progress, compare=False)
    passes_on: ClassVar[Sequence[type]] = PROBLEMS_OWN

    @property
    def waits(self) -> bool | Literal["in order"]:
        """Whether the function waits for others, so that all groups are scored at once: it says so, or is a coroutine's."""
        inner = plain(self.function)
        if isinstance(inner, Waits) and inner.waits:
            return inner.waits
        return "in order" if is_async(inner) else False

    def judge(self, task: Task) -> Judge:
        return Judge(f"answers are paid by {name_of(self.function)}")

    def begin_step(self, step: int) -> dict[str, float]:
        """What the function sees as `trainer_state.global_step`, and what the environment does then."""
        self.progress.global_step = step
        return self.environment.begin_step(step) if isinstance(self.environment, Staged) else {}

    def score(self, group: Group) -> list[dict[str, float]]:
        return self.begin(group)()

    def begin(self, group: Group) -> Callable[[], list[dict[str, float]]]:
        """Call the function; what comes back waits for a coroutine's end and gives the rewards."""
        where = f"the reward function {name_of(self.function)!r} for {group.task.id}"
        end, count = time.monotonic() + self.deadline, len(group.completions)
        called = outcome(lambda: within(self.deadline, lambda: Begun(_listed(self._called(group, where), count))))
        return lambda: self._ended(group, where, called, end)

    def _ended(self, group: Group, where: str, called: Callable[[], Begun], end: float) -> list[dict[str, float]]:
        name, count = name_of(self.function), len(group.completions)
        try:
            begun = called()
            left = max(LOOK, end - time.monotonic())
            try:
                values = within(left, lambda: _listed(begun(), count)) if begun.future else begun()
            except Late:
                begun.cancel()
                raise
        except (InputError, KeyboardInterrupt, Up):
            raise
        except Late as error:
            return self._unscored(
                group, name, f"{where} has not answered within {self.deadline:g} s.",
                f"Mend what it waits for, give it longer with {setting('reward_deadline')},", error,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001  exits and cancelled coroutines too: raised in `_unscored`, or told there
            line = line_of(error, folder_of(plain(self.function)))
            said = f"{where} raised {type(error).__name__}: {error}. {line}"
            return self._unscored(group, name, said, "Mend it,", error)
        return [{name: value} for value in _rewards(values, count, where, self.weight)]

    def _unscored(self, group: Group, name: str, why: str, remedy: str, error: BaseException) -> list[dict[str, float]]:
        """What is done about a function that gave no rewards: nothing is scored, or the run ends."""
        if self.on_error == "skip":
            _warn_once(self.function, f"{why} Not scored.")
            return [{name: math.nan} for _ in group.completions]
        skip = setting("task_options.on_error", "skip")
        raise InputError(f"{why} {remedy} or leave such answers unscored with {skip}.") from error

    def _called(self, group: Group, where: str) -> Any:
        """What the function returns: called as TRL calls it, or as the project that it was written for."""
        form = form_of(self.function, list(group.task.data))
        if form is not None:
            return form(self.function, group, gold_of(self.environment, group.task), self.name, where)
        positional, named = arguments(self.function, group, self.progress, where)
        return self.function(*positional, **named)


@dataclass(frozen=True)
class Several(Wrapper):
    """Several reward functions for the problems of one environment; their values are summed, NaN left out."""

    environment: Environment
    judges: Sequence[Rewarded]
    passes_on: ClassVar[Sequence[type]] = PROBLEMS_OWN

    @property
    def waits(self) -> bool | Literal["in order"]:
        return any_waits(self.judges)

    def judge(self, task: Task) -> Judge:
        return Judge(f"answers are paid by {', '.join(name_of(judge.function) for judge in self.judges)}")

    def begin_step(self, step: int) -> dict[str, float]:
        return self.judges[0].begin_step(step)  # they share one environment and one progress

    def score(self, group: Group) -> list[dict[str, float]]:
        begun = [judge.begin(group) for judge in self.judges]
        scores = [ended() for ended in begun]
        return [{name: value for part in parts for name, value in part.items()} for parts in zip(*scores, strict=True)]


def any_waits(judges: Sequence[Rewarded]) -> bool | Literal["in order"]:
    """Of functions that judge the same answers: what one of them says itself, else what coroutines ask for."""
    each = [judge.waits for judge in judges]
    return True if True in each else "in order" if "in order" in each else False


def manner(options: dict[str, Any]) -> dict[str, Any]:
    """How functions judge, taken out of a task's options: what happens where one raises, and how long it may take."""
    return {
        "on_error": shown(x) if not isinstance(x := options.pop("on_error", "stop"), str) else x,
        "deadline": float(options.pop("reward_deadline", DEADLINE)),
    }


def judged(
    splits: Splits, judges: Sequence[tuple[Callable[..., Any], float]], on_error: str, deadline: float = DEADLINE
) -> Splits:
    """The problems of `splits`, judged by functions with weights."""
    if on_error not in ("stop", "skip"):
        raise unknown("on_error", on_error, ["stop", "skip"])
    progress = Progress()

    def judge(environment: Environment) -> Environment:
        parts = [
            Rewarded(environment, function, on_error, weight, deadline, progress)  # type: ignore[arg-type]
            for function, weight in judges
        ]
        return parts[0] if len(parts) == 1 else Several(environment, parts)

    return replace(splits, train=judge(splits.train), eval=judge(splits.eval))


_warned: set[int] = set()


def _warn_once(function: Callable[..., Any], message: str) -> None:
    if id(function) not in _warned:
        _warned.add(id(function))
        warnings.warn(printable(message), stacklevel=3)


def _listed(values: Any, count: int) -> Any:
    """As a list; one that is made while it is read is read no further than needed. What is no list stays as it is."""
    none = (
        isinstance(values, str | bytes | Mapping | Set) or getattr(values, "shape", None) == ()
    )  # of an array: one number
    if none or not isinstance(values, Iterable):
        return values
    return list(islice(values, None if isinstance(values, Sized) else count + 1))


def _rewards(values: Any, count: int, where: str, weight: float) -> list[float]:
    if values is None:
        raise InputError(
            f"{where} returned None (is a `return` missing?). It must return a list: a number, or None, per answer."
        )
    if isinstance(values, str | bytes | Mapping | Set):
        raise InputError(
            f"{where} returned {shown(values)}, of type {type(values).__name__}. It must return a list of numbers, one (or None) "
            "per answer, in their order."
        )
    if isinstance(values, list) and (text := next((v for v in values if isinstance(v, str | bytes)), None)) is not None:
        raise InputError(
            f"{where} must return a list of numbers, and there is the text {shown(text)} in it. Return float(...) of it, or None "
            "where the answer cannot be judged."
        )
    try:
        rewards = [math.nan if value is None else float(value) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} must return a list with a number, or None, per answer, but: {error}.") from error
    if len(rewards) != count:
        raise InputError(f"{where} returned {len(rewards)} rewards for {count} completions, but each needs one.")
    if any(math.isinf(reward) for reward in rewards):
        raise InputError(f"{where} returned an infinite reward. Return None where the answer cannot be judged.")
    weighed = [weight * reward for reward in rewards]
    if any(math.isinf(reward) for reward in weighed):
        raise InputError(f"{where}: a reward times its weight {weight:g} is infinite. Give it a smaller weight.")
    return weighed


def functions(reward: Any) -> list[tuple[Callable[..., Any], float]]:
    """Functions with weights: as text, or they themselves (given.py)."""
    found: list[tuple[Callable[..., Any], float]] = []
    for part, weight in weighted(reward):
        found += [(f, w * weight) for f, w in _named(part)] if isinstance(part, str) else [(part, weight)]
    names = [name_of(function) for function, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{setting('reward')} names two functions {name!r}; their rewards need different names.")
    return found


def _named(spec: str) -> list[tuple[Callable[..., Any], float]]:
    """Functions with weights from `FILE.py:NAME`, several divided by commas, a weight after a star: `a.py:f,a.py:g*0.5`."""
    found: list[tuple[Callable[..., Any], float]] = []
    for part in spec.split(","):
        place, star, weight = part.strip().rpartition("*")
        try:
            factor = float(weight) if star else 1.0
        except ValueError:
            factor = math.nan
        if not math.isfinite(factor):
            raise InputError(f"{setting('reward', part.strip())}: {weight!r} is no weight. Write FILE.py:NAME*0.5.")
        found.append((load_function(place if star else part.strip()), factor))
    return found


def load_function(spec: str, name: str = "reward") -> Callable[..., Any]:
    """The function that FILE.py:NAME names."""
    found = load_object(spec, name)
    if not callable(found):
        raise InputError(f"{setting(name, spec)}: a {type(found).__name__}, which cannot be called. Name a function.")
    return found  # type: ignore[no-any-return]
