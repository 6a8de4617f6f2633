"""What a task is: data, sessions and scoring. A single-turn task writes `__len__`, `__getitem__` and `score`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rung.records import Completion, Group, Message, Step, Task


class Session(Protocol):
    """One conversation with the environment about one task."""

    def reset(self) -> list[Message]: ...

    def step(self, completion: Completion) -> Step: ...


@runtime_checkable
class Environment(Protocol):
    """Indexable problems, and a verifier that scores all answers to ONE of them at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task: ...

    def score(self, group: Group) -> list[dict[str, float]]:
        """Named rewards for each completion of the group, in order. NaN: the verifier could not tell."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """An environment that also knows how good each reasoning step is, for process supervision."""

    def steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        """(characters of the answer up to the end of the step, its reward) for each step but the last, in order."""
        ...


@dataclass(frozen=True)
class Splits:
    """Training and evaluation problems, disjoint by construction."""

    name: str
    train: Environment
    eval: Environment
    max_new_tokens: int = 64  # a sensible answer budget for this task
