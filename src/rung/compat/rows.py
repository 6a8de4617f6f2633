"""TRL's data sets and reward functions as problems: rows with a prompt, judged by several functions with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rung.errors import InputError, unknown
from rung.records import Group, Task
from rung.tasks.environments.protocol import Splits
from rung.tasks.rewards.arguments import Progress
from rung.tasks.rewards.functions import Rewarded, any_waits

HELD_OUT = 8  # without an eval_dataset every eighth row is for the evaluations before and after
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Judged:
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
    ) -> Judged:
        made, pairs = cls(tasks, [], progress), zip(functions, weights, strict=True)
        return replace(made, judges=[Rewarded(made, f, weight=w, progress=progress) for f, w in pairs])

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    @property
    def waits(self) -> bool | Literal["in order"]:
        return any_waits(self.judges)

    def begin_step(self, step: int) -> dict[str, float]:
        self.progress.global_step = step
        return {}

    def score(self, group: Group) -> list[dict[str, float]]:
        out: list[dict[str, float]] = [{} for _ in group.completions]
        begun = [judge.begin(group) for judge in self.judges]
        for i, ended in enumerate(begun):
            for parts, scored in zip(out, ended(), strict=True):
                for name, value in scored.items():
                    parts[f"{name}_{i}" if name in parts else name] = value
        return out


def splits(train: Any, held_out: Any, judges: Sequence[Any], weights: Sequence[float], notes: Sequence[str]) -> Splits:
    """The problems of both sides, which share one count of steps."""
    said = [f"no eval_dataset: every {HELD_OUT}th row is held out, and not trained on"] if held_out is None else []
    kept, apart = _sides(train, held_out)
    if isinstance(train, Mapping):
        said = []
    at = Progress()
    sides = [Judged.of(_tasks(x, n), judges, weights, at) for x, n in ((kept, "train"), (apart, "eval"))]
    return Splits("python", sides[0], sides[1], notes=(*notes, *said))


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
        if not isinstance(row["prompt"], str | list | tuple) or row["prompt"] in ([], ()):
            raise InputError(
                f"row {i} of the {split} dataset has the prompt {row['prompt']!r:.80}. Give a text, or a list of messages, or "
                "leave the row out."
            )
    return [Task(f"{split}/{i}", row["prompt"], dict(row)) for i, row in enumerate(rows)]


def toolbox(tools: Sequence[Callable[..., Any]]) -> Any:
    """TRL's `tools=[f, g]` as a class whose methods they are."""

    def reset(self: Any, **row: Any) -> None:
        """Functions have no state."""

    return type("Tools", (), {"reset": reset, **{f.__name__: staticmethod(f) for f in tools}})
