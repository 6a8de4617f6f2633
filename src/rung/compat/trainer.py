"""TRL's GRPOTrainer: rows, reward functions and an adapter as a run of rung's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rung.compat.config import GRPOConfig
from rung.compat.fields import lora, refuse
from rung.errors import InputError, unknown
from rung.records import Group, Task
from rung.tasks.adapters import Rewarded
from rung.tasks.environment import Splits
from rung.tasks.environments import with_tools
from rung.tasks.reward_arguments import Progress

HELD_OUT = 8  # without an eval_dataset every eighth row is for the evaluations before and after
# Arguments of TRL's trainer that are not translated, and what stands for "not given".
NOT_TRANSLATED: Mapping[str, str] = {
    "processing_class": "rung loads the model's tokenizer itself",
    "reward_processing_classes": "reward models are not translated",
    "callbacks": "nothing of rung's calls them",
    "optimizers": "rung's optimizer is AdamW",
    "quantization_config": "rung trains weights as they are",
    "tools": "give a class with environment_factory whose methods are the tools",
    "rollout_func": "rung samples itself",
}
_NOT_GIVEN: tuple[Any, ...] = (None, [], (), {}, (None, None))
Rows = Sequence[Mapping[str, Any]]


class GRPOTrainer:
    """TRL's GRPOTrainer: `train()` returns a rung Run, `save_model(DIR)` copies the trained model."""

    def __init__(
        self,
        model: str,
        reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        args: GRPOConfig | None = None,
        train_dataset: Rows | Mapping[str, Rows] | None = None,
        eval_dataset: Rows | None = None,
        peft_config: Any = None,
        environment_factory: Callable[[], Any] | None = None,
        **others: Any,
    ) -> None:
        self.args = args or GRPOConfig()
        judges = [reward_funcs] if callable(reward_funcs) else list(reward_funcs or [])
        adapter, adapter_notes = lora(peft_config) if peft_config is not None else ([], [])
        found = [*_others(others), *self._misfits(model, judges, environment_factory), *adapter]
        refuse("GRPOTrainer", [*found, *self.args.misfits()])
        train, held_out = _sides(train_dataset, eval_dataset)
        weights = [float(w) for w in self.args.reward_weights or [1.0] * len(judges)]
        at = Progress()
        sides = [_Judged.of(_tasks(x, n), judges, weights, at) for x, n in ((train, "train"), (held_out, "eval"))]
        splits = Splits("python", sides[0], sides[1], notes=(*self.args.notes, *adapter_notes))
        if environment_factory is not None:
            splits = with_tools(environment_factory, splits, judge=bool(judges))
        self.splits = splits
        self.settings = {**self.args.settings(), "model": model, **_lora(peft_config)}
        self.run: Any = None

    def _misfits(self, model: Any, judges: Sequence[Any], environment_factory: Any) -> list[str]:
        found = []
        if not isinstance(model, str):
            found.append("model: give the model's directory or hub id; rung loads it itself.")
        if isinstance(environment_factory, Mapping):
            found.append("environment_factory: one class is translated, not a dictionary of them.")
        if not judges and environment_factory is None:
            found.append("GRPOTrainer needs reward_funcs, or an environment_factory whose class has get_reward.")
        if not all(map(callable, judges)):
            found.append("reward_funcs: only functions are translated, not reward models.")
        if self.args.reward_weights is not None and len(self.args.reward_weights) != len(judges):
            count = len(self.args.reward_weights)
            found.append(f"reward_weights has {count} numbers for {len(judges)} reward functions.")
        return found

    def train(self) -> Any:
        from rung.api import train

        self.run = train(task=self.splits, **self.settings)
        return self.run

    def save_model(self, directory: str | Path) -> None:
        if self.run is None:
            raise InputError("save_model: there is nothing to save before train().")
        shutil.copytree(self.run.model_path, directory, ignore=shutil.ignore_patterns("state.*", "COMPLETE"))


@dataclass(frozen=True)
class _Judged:
    """Rows judged by several functions; two of the same name are told apart by their numbers."""

    tasks: Sequence[Task]
    judges: Sequence[Rewarded]
    progress: Progress

    @classmethod
    def of(
        cls,
        tasks: Sequence[Task],
        functions: Sequence[Callable[..., Any]],
        weights: Sequence[float],
        progress: Progress,
    ) -> _Judged:
        made, pairs = cls(tasks, [], progress), zip(functions, weights, strict=True)
        return replace(made, judges=[Rewarded(made, f, weight=w, progress=progress) for f, w in pairs])

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def begin_step(self, step: int) -> dict[str, float]:
        self.progress.global_step = step
        return {}

    def score(self, group: Group) -> list[dict[str, float]]:
        out: list[dict[str, float]] = [{} for _ in group.completions]
        for i, judge in enumerate(self.judges):
            for parts, scored in zip(out, judge.score(group), strict=True):
                for name, value in scored.items():
                    parts[f"{name}_{i}" if name in parts else name] = value
        return out


def _others(given: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in given.items():
        if name not in NOT_TRANSLATED:
            found.append(f"{name}: there is no such argument.")
        elif not any(value is x or (type(value) is type(x) and value == x) for x in _NOT_GIVEN):
            found.append(f"{name}: {NOT_TRANSLATED[name]}.")
    return found


def _sides(train: Any, held_out: Any) -> tuple[list[Any], list[Any]]:
    """Rows to train on and to evaluate on; a dictionary of splits, as load_dataset gives it, is taken apart."""
    if train is None:
        raise InputError(
            "GRPOTrainer(train_dataset=...) is missing; rows that an environment makes are not translated."
        )
    if isinstance(train, Mapping):
        if "train" not in train:
            raise unknown("split of train_dataset", "train", train)
        other = next((train[name] for name in ("test", "validation") if name in train), None)
        train, held_out = train["train"], other if held_out is None else held_out
    if isinstance(held_out, Mapping):
        raise InputError(f"GRPOTrainer(eval_dataset=...) holds {', '.join(held_out)}: give one of them.")
    rows = list(train)
    if held_out is None:
        kept, apart = [r for i, r in enumerate(rows) if i % HELD_OUT], rows[::HELD_OUT]
    else:
        kept, apart = rows, list(held_out)
    if not kept or not apart:
        raise InputError(
            f"GRPOTrainer: {len(kept)} rows to train on and {len(apart)} to evaluate on; both need one. train_dataset has "
            f"{len(rows)} rows; without an eval_dataset one in {HELD_OUT} is held out."
        )
    return kept, apart


def _tasks(rows: Rows, split: str) -> list[Task]:
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(
                f"row {i} of the {split} dataset is a {type(row).__name__}; each row must be a dictionary."
            )
        if "prompt" not in row:
            raise unknown(f"column of row {i}:", "prompt", row)
    return [Task(f"{split}/{i}", row["prompt"], dict(row)) for i, row in enumerate(rows)]


def _lora(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    targets = config.target_modules or "all-linear"
    names = targets if isinstance(targets, str) else ",".join(sorted(targets))
    return {"lora_rank": config.r, "lora_alpha": float(config.lora_alpha), "lora_targets": names}
