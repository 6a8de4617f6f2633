"""What a task is: data, sessions and scoring. A single-turn task writes `__len__`, `__getitem__` and `score`.

What an environment or a session may be able to do besides is a protocol of its own, asked for by isinstance. Since Python
3.12 isinstance does not see what `__getattr__` would find, so whoever wraps an environment writes out what it passes on
(wrapper.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from rung.errors import InputError
from rung.records import Completion, Group, Prompt, Step, Task


class Session(Protocol):
    """One conversation with the environment about one task. It may also count (Counts) and be closed (Closes)."""

    def reset(self) -> Prompt:
        """What the model reads first: the same for every session of a task, since its answers are compared."""
        ...

    def step(self, completion: Completion) -> Step:
        """What the environment says to the model's newest turn; `done` ends the conversation."""
        ...


def reward_of(value: Any, where: str) -> float:
    """What a user's code calls a reward, as a float; None is NaN: it could not tell."""
    try:
        reward = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} must give a number or None as a reward, but: {error}.") from error
    if math.isinf(reward):
        raise InputError(f"{where} gave an infinite reward. Give None where the answer cannot be judged.")
    return reward


@runtime_checkable
class Environment(Protocol):
    """Indexable problems, and a verifier that scores all answers to ONE of them at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task: ...

    def score(self, group: Group) -> list[dict[str, float]]:
        """Named rewards for each completion of the group, in order. NaN: the verifier could not tell."""
        ...


# -- what an environment may be able to do besides ------------------------------------------------------------------
@runtime_checkable
class Conversational(Environment, Protocol):
    """Its answers are conversations: each one is held with a session of its own, then scored.

    `score` finds the session in `Completion.session` and may return empty dicts if the steps' rewards say it all.
    """

    def session(self, task: Task) -> Session: ...


@runtime_checkable
class Extracts(Protocol):
    """It finds the final answer in what was said: for "no answer found", for majorities, for whether answers differ."""

    def extract(self, task: Task, completion: Completion) -> str | None: ...


@runtime_checkable
class HasGold(Protocol):
    """It knows right answers; without it a problem's gold answer is `task.data["answer"]`, where there is one."""

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        """The gold answer, None where there is no single one, and answers that hold it as a model may write it."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """It also knows how good each reasoning step is, for process supervision."""

    def steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        """(characters of the answer up to the end of the step, its reward) for each step but the last, in order."""
        ...


@runtime_checkable
class Staged(Protocol):
    """It is told when a training step begins: what it asks or pays depends on it."""

    def begin_step(self, step: int) -> dict[str, float]:
        """step: from 0. Returns what the step should report."""
        ...


@runtime_checkable
class Observes(Protocol):
    """It is told what training answers earned: what it asks depends on it."""

    def observe(self, tasks: Sequence[Task], rewards: Sequence[Sequence[float]]) -> None:
        """rewards: of the answers to each task, in order; NaN where an answer could not be scored."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """It has a state that checkpoints hold, as plain data (io/state.py)."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Bounded(Protocol):
    """It knows the most that an answer can earn, so that an aim above it is refused. None: it does not."""

    @property
    def most(self) -> float | None: ...


@runtime_checkable
class BoundedBelow(Protocol):
    """It knows the least that an answer can earn, so that an aim which every answer reaches is refused. None: it does not."""

    @property
    def least(self) -> float | None: ...


@dataclass(frozen=True)
class Judge:
    """Who judges the answers to a problem."""

    words: str = "the task judges its answers itself"
    needs_gold: bool = False  # whether that takes a gold answer that can be shown
    reads: Literal["text", "programs"] = "text"


@runtime_checkable
class Judged(Protocol):
    """It says who judges (`rung data`, `rung verify`)."""

    def judge(self, task: Task) -> Judge: ...


@runtime_checkable
class Waits(Protocol):
    """Scoring, a reward function, a session or its instance that may wait for others: if `waits` is true all groups of a step
    are scored at once, all sessions of a turn are asked at once, in threads.

    "in order" (scoring by coroutines): each group begins once the one before it waits, so that nothing but waiting overlaps.
    """

    @property
    def waits(self) -> bool | Literal["in order"]: ...


@runtime_checkable
class Begins(Protocol):
    """A session whose step begins, and is asked what came of it once those of all other conversations have begun."""

    def begin(self, completion: Completion) -> Callable[[], Step]: ...


@runtime_checkable
class Counts(Protocol):
    """An environment or a session that counts what it meets, in numbers to be logged.

    An environment's are logged as rewards/NAME; of a session's "calls" and "failures" become tools/*.
    """

    @property
    def counters(self) -> Mapping[str, float]: ...


@runtime_checkable
class Closes(Protocol):
    """A session to be closed once: after scoring, or when an error (Ctrl-C too) ends the conversations."""

    def close(self) -> None: ...


@runtime_checkable
class Named(Protocol):
    """It has a name for people."""

    @property
    def name(self) -> str: ...


def title(env: object) -> str:
    """An environment's name, else that of its class."""
    return str(env.name) if isinstance(env, Named) else type(env).__name__


def half_stateful(env: object) -> tuple[str, str] | None:
    """(the method that is there, the one that is missing) of an environment that only saves or only loads its state."""
    saves, loads = hasattr(env, "state_dict"), hasattr(env, "load_state_dict")
    if saves == loads:
        return None
    return ("state_dict", "load_state_dict") if saves else ("load_state_dict", "state_dict")


def judge_of(env: object, task: Task) -> Judge:
    """Who judges the answers to one of its problems."""
    return env.judge(task) if isinstance(env, Judged) else Judge()


def most_of(env: object) -> float | None:
    """The most that an answer to it can earn; None: not known."""
    return env.most if isinstance(env, Bounded) else None


def least_of(env: object) -> float | None:
    """The least that an answer to it can earn; None: not known."""
    return env.least if isinstance(env, BoundedBelow) else None


@dataclass(frozen=True)
class Splits:
    """Training and evaluation problems, disjoint by construction."""

    name: str
    train: Environment
    eval: Environment
    max_new_tokens: int = 64  # a sensible answer budget for this task
    notes: tuple[str, ...] = ()  # what was found out or decided unasked, a sentence each, for the user to read
