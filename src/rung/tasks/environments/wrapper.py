"""An environment around another one, with its abilities: each is passed on by a method that is written out.

isinstance looks for an ability in the class and does not see what `__getattr__` would find (since Python 3.12). So the
class of a wrapper is put together when it is made: its own, and one small class for each ability of what is inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, Self

from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import (
    Bounded,
    BoundedBelow,
    Conversational,
    Counts,
    Environment,
    Extracts,
    HasGold,
    Judge,
    Judged,
    Observes,
    Session,
    Staged,
    Stateful,
    Stepwise,
    Waits,
    title,
)


class Wrapper:
    """The problems and the verdicts of `environment`. A subclass changes some of it, and has the field `environment` first.

    passes_on: the abilities that it takes over where the inner one has them, as `ABILITIES` lists them all.
    """

    environment: Any  # an Environment; Any, since each ability below stands on an inner one that has it
    passes_on: ClassVar[Sequence[type]]
    plain: ClassVar[type[Wrapper]]  # of a class that was put together: the one that was written

    def __new__(cls, environment: Environment, *args: Any, **kwargs: Any) -> Self:
        made: Self = object.__new__(able(cls, environment))
        return made

    def __reduce__(self) -> Any:
        return _again, (vars(type(self)).get("plain", type(self)), self.environment, vars(self).copy())

    @property
    def name(self) -> str:
        return title(self.environment)

    def own(self, task: Task) -> Task:
        """The problem as the inner environment knows it."""
        return task

    def __len__(self) -> int:
        return len(self.environment)

    def __getitem__(self, index: int) -> Task:
        task: Task = self.environment[index]
        return task

    def score(self, group: Group) -> list[dict[str, float]]:
        rewards: list[dict[str, float]] = self.environment.score(group)
        return rewards


class _Conversational(Wrapper):
    def session(self, task: Task) -> Session:
        session: Session = self.environment.session(self.own(task))
        return session


class _Extracts(Wrapper):
    def extract(self, task: Task, completion: Completion) -> str | None:
        """From the words that were read, as `score` does."""
        answer: str | None = self.environment.extract(task, completion)
        return answer


class _HasGold(Wrapper):
    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        right: tuple[str | None, list[str]] = self.environment.right_answers(self.own(task))
        return right


class _Stepwise(Wrapper):
    def steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        steps: list[tuple[int, float]] = self.environment.steps(self.own(task), completion)
        return steps


class _Staged(Wrapper):
    def begin_step(self, step: int) -> dict[str, float]:
        report: dict[str, float] = self.environment.begin_step(step)
        return report


class _Observes(Wrapper):
    def observe(self, tasks: Sequence[Task], rewards: Sequence[Sequence[float]]) -> None:
        self.environment.observe([self.own(task) for task in tasks], rewards)


class _Stateful(Wrapper):
    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.environment.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.environment.load_state_dict(state)


class _Bounded(Wrapper):
    @property
    def most(self) -> float | None:
        most: float | None = self.environment.most
        return most


class _BoundedBelow(Wrapper):
    @property
    def least(self) -> float | None:
        least: float | None = self.environment.least
        return least


class _Judged(Wrapper):
    def judge(self, task: Task) -> Judge:
        judge: Judge = self.environment.judge(self.own(task))
        return judge


class _Waits(Wrapper):
    @property
    def waits(self) -> bool | Literal["in order"]:
        waits: bool | Literal["in order"] = self.environment.waits
        return waits


class _Counts(Wrapper):
    @property
    def counters(self) -> Mapping[str, float]:
        counters: Mapping[str, float] = self.environment.counters
        return counters


ABILITIES: Mapping[type, type[Wrapper]] = {
    Conversational: _Conversational,
    Extracts: _Extracts,
    HasGold: _HasGold,
    Stepwise: _Stepwise,
    Staged: _Staged,
    Observes: _Observes,
    Stateful: _Stateful,
    Bounded: _Bounded,
    BoundedBelow: _BoundedBelow,
    Judged: _Judged,
    Waits: _Waits,
    Counts: _Counts,
}
Wrapper.passes_on = tuple(ABILITIES)


def able(written: type[Wrapper], environment: Environment) -> Any:
    """The class of a wrapper of this environment: what was written, and what is passed on."""
    plain: Any = vars(written).get("plain", written)
    return _joined(plain, tuple(a for a in plain.passes_on if isinstance(environment, a)))


@cache
def _joined(written: type[Wrapper], abilities: tuple[type, ...]) -> type[Wrapper]:
    about = {"plain": written, "__doc__": written.__doc__, "__module__": written.__module__}
    return type(written.__name__, (written, *(ABILITIES[a] for a in abilities)), about)


def _again(written: type[Wrapper], environment: Environment, fields: Mapping[str, Any]) -> Wrapper:
    """A copy, or what was pickled: a class that was put together is in no module."""
    made: Wrapper = object.__new__(able(written, environment))
    vars(made).update(fields)
    return made


class Part(Wrapper):
    """Problems first..last of an environment; everything else is the environment's own."""

    def __init__(self, environment: Environment, first: int, last: int) -> None:
        self.environment, self.first, self.last = environment, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return super().__getitem__(self.first + index)
