"""Objects that listen to a run: called after each step, evaluation and checkpoint, and able to end it.

    class UntilRight:
        def on_step(self, step: StepRecord): print(step.step, step.metrics["reward"])
        def on_evaluate(self, evaluation: Evaluation): return evaluation.accuracy < 0.9
        def on_save(self, folder: Path): print("saved", folder)

What returns False ends the run: it is saved and evaluated as at any other end. Any other answer means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rung.errors import InputError, unknown
from rung.io.held_out import NAMES
from rung.io.terminal import figure
from rung.records import Scored, StepResult
from rung.training.evaluation import Evaluation

HOOKS = ("on_step", "on_evaluate", "on_save")


@dataclass(frozen=True)
class StepRecord:
    """One training step.

    step:    its number, from 1.
    metrics: its row of metrics.jsonl (docs/metrics.md).
    answers: what was sampled and scored, in the rows' order.
    result:  the advantage of each token, and its ratio and clipping where the batch served several updates.
    """

    step: int
    metrics: Mapping[str, Any]
    answers: Sequence[Scored]
    result: StepResult


class Relay:
    """A listener that passes on what it hears. `spoke`: which of its own listeners wanted the run to end, as Class.method."""

    spoke: str = ""


@dataclass
class Until(Relay):
    """Ends the run with the first evaluation whose mean is at least `aim`."""

    aim: float

    def on_evaluate(self, evaluation: Evaluation) -> bool:
        what = NAMES["accuracy" if evaluation.binary else "reward"]
        self.spoke = f"held-out {what} {figure(evaluation.reward)}, at least {self.aim:g},"
        return not evaluation.reward >= self.aim  # NaN is not


@dataclass
class Listeners:
    """All callbacks of a run. `ended`: which of them wanted it to end, once one did."""

    callbacks: Sequence[Any] = ()
    ended: str = ""

    def __post_init__(self) -> None:
        for callback in self.callbacks:
            if isinstance(callback, type):
                raise InputError(
                    f"callbacks holds the class {callback.__name__}. Give an object: {callback.__name__}()."
                )
            if not any(callable(getattr(callback, hook, None)) for hook in HOOKS):
                raise _deaf(callback)

    def until(self, aim: float | None) -> Listeners:
        """The same, and the run ends where its evaluation reaches `aim`; None: it does not."""
        return self if aim is None else Listeners([*self.callbacks, Until(aim)])

    def step(self, record: StepRecord) -> None:
        self._tell("on_step", record)

    def evaluated(self, evaluation: Evaluation) -> None:
        self._tell("on_evaluate", evaluation)

    def saved(self, folder: Path) -> None:
        self._tell("on_save", folder)

    def _tell(self, hook: str, what: Any) -> None:
        for callback in self.callbacks:
            hear = getattr(callback, hook, None)
            said = hear(what) if hear is not None else None
            if isinstance(said, bool | np.bool_) and not said:
                own = callback.spoke if isinstance(callback, Relay) else ""
                self.ended = self.ended or own or f"{type(callback).__name__}.{hook}"


def _deaf(callback: Any) -> InputError:
    own = [name for name in dir(callback) if name.startswith("on")]
    if dead := [hook for hook in HOOKS if hook in own]:
        what = getattr(callback, dead[0])
        return InputError(
            f"{dead[0]} of the callback {type(callback).__name__} is {what!r:.80}. It must be a method: {dead[0]}(self, ...)."
        )
    if own:
        return unknown(f"method of the callback {type(callback).__name__}:", own[0], HOOKS)
    return InputError(
        f"callbacks holds {callback!r}, which has none of on_step(step), on_evaluate(evaluation) and on_save(folder). Give an "
        "object that has one of them, such as types.SimpleNamespace(on_step=FUNCTION)."
    )
