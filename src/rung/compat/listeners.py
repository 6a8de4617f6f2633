"""transformers' TrainerCallback objects as listeners of a run, and the state that TRL's trainer shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerControl, TrainerState

from rung.compat.config import GRPOConfig
from rung.errors import InputError
from rung.training.callbacks import StepRecord
from rung.training.evaluation import Evaluation

ASKED = {
    "should_save": "save_steps",
    "should_evaluate": "eval_steps",
}  # what a callback may ask for, and what does it here


@dataclass
class Listener:
    """Passes what happens on to callbacks of transformers, and keeps `state` as TRL's trainer does.

    They listen: should_training_stop ends the run, should_save and should_evaluate are refused by name.
    """

    args: GRPOConfig
    callbacks: list[Any]
    updates: int  # optimizer steps, which TRL counts, of one step of rung's
    per_epoch: int
    shown: Mapping[str, Any]  # model, processing_class, ...
    state: TrainerState = field(default_factory=TrainerState)
    control: TrainerControl = field(default_factory=TrainerControl)
    begun: bool = False

    def on_step(self, record: StepRecord) -> bool:
        self._begin()
        self.state.global_step, self.state.epoch = record.step * self.updates, record.step / self.per_epoch
        row = {k: v for k, v in record.metrics.items() if k != "step"}
        self._log(row)
        self.tell("on_step_begin")
        self.tell("on_step_end")
        self.tell("on_log", logs=row)
        if record.step % self.per_epoch == 0:
            self.tell("on_epoch_end")
        return not self.control.should_training_stop

    def on_evaluate(self, evaluation: Evaluation) -> bool:
        self._begin()
        row = evaluated(evaluation)
        self._log(row)
        self.tell("on_evaluate", metrics=row)
        return not self.control.should_training_stop

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.tell("on_train_begin")
            self.tell("on_epoch_begin")

    def _log(self, row: dict[str, Any]) -> None:
        self.state.log_history.append({**row, "epoch": self.state.epoch or 0.0, "step": self.state.global_step})

    def tell(self, event: str, **more: Any) -> None:
        for callback in self.callbacks:
            hear = getattr(callback, event, None)
            answer = hear(self.args, self.state, self.control, **{**self.shown, **more}) if hear is not None else None
            if isinstance(answer, TrainerControl):
                self.control = answer
            for name, setting in ASKED.items():
                if getattr(self.control, name):
                    raise InputError(
                        f"the callback {type(callback).__name__} set control.{name} in {event}: callbacks listen and may end the "
                        f"run, nothing else. Say when with {setting}."
                    )


def evaluated(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's metrics under TRL's names: eval_reward for eval/reward."""
    return {name.replace("eval/", "eval_", 1): value for name, value in evaluation.metrics().items()}


def made(callbacks: Any) -> list[Any]:
    """Objects, of those that are given as classes too."""
    return [c() if isinstance(c, type) else c for c in callbacks or []]
