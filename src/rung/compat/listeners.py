"""transformers' TrainerCallback objects as listeners of a run, and the state that TRL's trainer shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from rung.compat.config import GRPOConfig
from rung.errors import InputError, unknown
from rung.io.run_dir import RunDir
from rung.training.callbacks import Relay, StepRecord
from rung.training.evaluation import Evaluation

ASKED = {
    "should_save": "save_steps",
    "should_evaluate": "eval_steps",
}  # what a callback may ask for, and what does it here

EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
HEARD = ("on_init_end", "on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_log", "on_evaluate", "on_save",
         "on_epoch_end", "on_train_end")  # fmt: skip


@dataclass
class Listener(Relay):
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
    in_epoch: bool = False
    spoke: str = ""

    def on_step(self, record: StepRecord) -> bool:
        self._begin()
        if not self.in_epoch:
            self.in_epoch = True
            self.tell("on_epoch_begin")
        self._at(record.step)
        row = {k: v for k, v in record.metrics.items() if k != "step"}
        self._log(row)
        self.tell("on_step_begin")
        self.tell("on_step_end")
        self.tell("on_log", logs=row)
        if record.step % self.per_epoch == 0:
            self.in_epoch = False
            self.tell("on_epoch_end")
        return not self.control.should_training_stop

    def on_evaluate(self, evaluation: Evaluation) -> bool:
        self._begin()
        if evaluation.step:
            self._at(evaluation.step)
        row = evaluated(evaluation)
        self._log(row)
        self.tell("on_evaluate", metrics=row)
        self._keep_best(row, trained=bool(evaluation.step))
        return not self.control.should_training_stop

    def on_save(self, folder: Path) -> None:
        self.tell("on_save")

    def remember(self, run: RunDir) -> None:
        """Of a run that goes on, what was logged up to its checkpoint, and the best of it; nobody hears it again."""
        done = run.latest_checkpoint()
        rows = [] if done is None else [r for r in run.metrics() if r["step"] <= int(done.name.removeprefix("step_"))]
        for row in rows if not self.state.log_history else ():
            if row["step"]:
                self._at(row["step"])
            shown = {_named(k): v for k, v in row.items() if k != "step"}
            self._log(shown)
            if "step_time" not in row:
                self._keep_best(shown, trained=bool(row["step"]))

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.tell("on_train_begin")

    def _at(self, step: int) -> None:
        self.state.global_step, self.state.epoch = step * self.updates, step / self.per_epoch

    def _log(self, row: dict[str, Any]) -> None:
        self.state.log_history.append({**row, "epoch": self.state.epoch or 0.0, "step": self.state.global_step})

    def _keep_best(self, row: Mapping[str, float], *, trained: bool) -> None:
        """The best of metric_for_best_model; the model that the run began with counts as little as with eval_on_start."""
        if self.args.metric_for_best_model is None:
            return
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        if name not in row:
            raise unknown("metric_for_best_model", name, row)
        now, best, higher = row[name], self.state.best_metric, self.args.greater_is_better
        if trained and (best is None or (now > best if higher else now < best)):
            self.state.best_metric, self.state.best_global_step = now, self.state.global_step

    def tell(self, event: str, **more: Any) -> None:
        for callback in self.callbacks:
            hear = getattr(callback, event, None)
            answer = hear(self.args, self.state, self.control, **{**self.shown, **more}) if hear is not None else None
            if isinstance(answer, TrainerControl):
                self.control = answer
            if self.control.should_training_stop:
                self.spoke = self.spoke or f"{type(callback).__name__}.{event}"
            for name, setting in ASKED.items():
                if getattr(self.control, name):
                    raise InputError(
                        f"the callback {type(callback).__name__} set control.{name} in {event}: callbacks listen and may end the "
                        f"run, nothing else. Say when with {setting}."
                    )


def evaluated(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation's metrics under TRL's names: eval_reward for eval/reward."""
    return {_named(name): value for name, value in evaluation.metrics().items()}


def _named(metric: str) -> str:
    return metric.replace("eval/", "eval_", 1)


def made(callbacks: Any) -> list[Any]:
    """Objects, of those that are given as classes too."""
    return [c() if isinstance(c, type) else c for c in callbacks or []]


def misfits(callbacks: Sequence[Any], args: GRPOConfig) -> list[str]:
    """A sentence for each callback that could not do what it is for."""
    found = [
        f"callbacks holds {c!r:.80}, which has no method that is called. Give objects of transformers' TrainerCallback."
        for c in callbacks if not any(callable(getattr(c, event, None)) for event in EVENTS)
    ]  # fmt: skip
    if args.metric_for_best_model is None and any(isinstance(c, EarlyStoppingCallback) for c in callbacks):
        found.append('EarlyStoppingCallback needs metric_for_best_model in the config, such as "eval_reward".')
    return found


def notes(callbacks: Sequence[Any]) -> list[str]:
    """What callbacks define that nothing calls here."""
    found = []
    for callback in callbacks:
        own = [e for e in EVENTS if e not in HEARD and _defines(type(callback), e)]
        if own:
            found.append(
                f"callback {type(callback).__name__}: {', '.join(own)} {'is' if len(own) == 1 else 'are'} never called here; a "
                "step of rung's is one event, on_step_end"
            )
    return found


def _defines(kind: type, event: str) -> bool:
    return getattr(kind, event, None) not in (None, getattr(TrainerCallback, event))
