"""What people are shown of held-out problems: an evaluation in numbers, answers to one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rung.io.terminal import figure


@dataclass(frozen=True)
class Shown:
    """One evaluation in numbers. binary: the mean is an accuracy; else it is a mean reward on its own scale.

    problems: those with a scored answer, over which the mean and its 95 % interval go.  low, high: NaN where there is none.
    step: of the run; None: of no run.
    """

    binary: bool
    mean: float
    low: float
    high: float
    problems: int
    unscored: int
    answers: int
    step: int | None = None


@dataclass(frozen=True)
class Said:
    """One answer to a held-out problem. Texts may hold anything; reward NaN: not scored."""

    prompt: str
    text: str
    reward: float


@dataclass(frozen=True)
class Example:
    """One held-out problem, answered before and after the training. All texts may hold anything; NaN: not scored."""

    prompt: str
    before: str
    after: str
    before_reward: float
    after_reward: float


def shorten(text: str, limit: int = 280) -> str:
    """Head and tail of a long answer, because the result stands at its end."""
    text = text.strip()
    if len(text) <= limit:
        return text
    tail = limit * 2 // 3
    return f"{text[: limit - tail].rstrip()} [...] {text[-tail:].lstrip()}"


def mark(reward: float, binary: bool, ascii_only: bool = False) -> tuple[str, str]:
    """What an answer earned, and its style: right or wrong only where that is what rewards say."""
    if math.isnan(reward):
        return "not scored", "bold yellow"
    if not binary:
        return f"reward {figure(reward)}", "bold"
    right = reward > 0
    tick = "" if ascii_only else "✓ " if right else "✗ "
    return f"{tick}{'right' if right else 'wrong'}", "bold green" if right else "bold red"
