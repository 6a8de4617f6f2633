"""What a task is: data, sessions and scoring. A single-turn task writes `__len__`, `__getitem__` and `score`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

from rung.errors import InputError
from rung.records import Completion, Group, Prompt, Step, Task


class Session(Protocol):
    """One conversation with the environment about one task.

    A session may also have `counters`, a dict of numbers to be logged ("calls", "failures"), and `close()`, which is
    called once: after scoring, or when an error (Ctrl-C too) ends the conversations.
    """

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


class Conversational(Environment, Protocol):
    """An environment whose answers are conversations: each one is held with a session of its own, then scored.

    `score` finds the session in `Completion.session` and may return empty dicts if the steps' rewards say it all.
    """

    def session(self, task: Task) -> Session: ...


@runtime_checkable
class Stepwise(Protocol):
    """An environment that also knows how good each reasoning step is, for process supervision."""

    def steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        """(characters of the answer up to the end of the step, its reward) for each step but the last, in order."""
        ...


def talks(env: Environment) -> TypeGuard[Conversational]:
    """Whether answers are conversations: the environment has `session` (a wrapper may pass it on)."""
    return callable(getattr(env, "session", None))


@dataclass(frozen=True)
class Splits:
    """Training and evaluation problems, disjoint by construction."""

    name: str
    train: Environment
    eval: Environment
    max_new_tokens: int = 64  # a sensible answer budget for this task
    notes: tuple[str, ...] = ()  # what was found out or decided unasked, a sentence each, for the user to read
