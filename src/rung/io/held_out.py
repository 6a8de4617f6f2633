"""How a run's evaluations are read from its metrics: as accuracies if all of them are, else as mean rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rung.io.terminal import counted
from rung.statistics import FEWEST

Row = Mapping[str, Any]
Kind = Literal["accuracy", "reward"]
NAMES: dict[Kind, str] = {"accuracy": "accuracy", "reward": "mean reward"}


def evaluations(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows that hold an evaluation, in order."""
    return [dict(row) for row in rows if "eval/reward" in row or "eval/accuracy" in row]


def is_graded(row: Row) -> bool:
    """Whether the evaluation, or one before it in its run, had rewards other than 0 and 1."""
    return row.get("eval/reward") is not None and row.get("eval/accuracy") is None


def kind(rows: Sequence[Row]) -> Kind:
    """One for all evaluations that are shown together; what could not be scored says nothing."""
    return "reward" if any(map(is_graded, rows)) else "accuracy"


def mean(row: Row, as_kind: Kind) -> float | None:
    """The evaluation's mean; None where nothing could be scored."""
    value: float | None = row.get("eval/reward") if as_kind == "reward" else row.get("eval/accuracy")
    return row.get("eval/accuracy") if value is None else value  # of rewards 0 and 1 they are the same number


def interval(row: Row, as_kind: Kind) -> tuple[float | None, float | None]:
    """95 %, on the scale of the kind; None where there is none."""
    return row.get(f"eval/{as_kind}_ci_low"), row.get(f"eval/{as_kind}_ci_high")


def problems(row: Row) -> int:
    """Over how many problems the mean goes."""
    return int(row.get("eval/reward_n", row.get("eval/accuracy_n", 0)))


def too_few(held_out: int) -> str:
    """What is said of a held-out side so small that no test can show a change on it; empty: it is large enough."""
    if not 0 < held_out < FEWEST:
        return ""
    return f"only {counted(held_out, 'held-out problem')}: a change cannot be shown; add rows or give train/test files"
