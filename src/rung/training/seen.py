"""What signs of trouble are read from: a run's rows so far, and what is known beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]

STEPS = 3  # for so many steps a sign must last that chance could give


@dataclass(frozen=True)
class Facts:
    """What is known beside the rows: answers a step and a prompt, what their numbers are, and what the prompts showed."""

    answers: int
    samples: int
    numbers: str = "float32"  # what sampler and trainer may differ by: the rounding of the weights' dtype, or `ENGINE`
    plain_prompts: bool = False  # although the model has a chat template
    unread: str | None = None  # letters that the tokenizer does not know


@dataclass(frozen=True)
class Seen:
    """The rows of a run so far, oldest first: its training steps, and its evaluations."""

    facts: Facts
    train: Sequence[Row] = field(default_factory=list)
    held_out: Sequence[Row] = field(default_factory=list)

    def last(self, name: str, n: int = STEPS) -> list[float]:
        """The newest n steps' values; empty where there are fewer steps, or one of them has no such value."""
        values = [number(row, name) for row in self.train[-n:]]
        known = [v for v in values if v is not None]
        return known if len(known) == n else []

    def mean(self, name: str, n: int = STEPS) -> float:
        return mean_of(self.last(name, n))


def number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
