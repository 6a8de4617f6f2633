"""What a finished run says: before and after in numbers, three problems side by side, where it lies, what to try next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rung.io.console import Console
from rung.io.terminal import figure
from rung.maths.interval import Change


@dataclass(frozen=True)
class Shown:
    """One evaluation in numbers. binary: the mean is an accuracy; else it is a mean reward on its own scale.

    problems: those with a scored answer, over which the mean and its 95 % interval go.  low, high: NaN where there is none.
    """

    binary: bool
    mean: float
    low: float
    high: float
    problems: int
    unscored: int
    answers: int


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


def _line(console: Console, label: str, result: Shown | None) -> Text:
    out = Text(f"  {label:8}", no_wrap=True, overflow="ellipsis")
    if result is None:
        return out.append("not evaluated", "dim")
    if not result.problems:
        return out.append(f"none of the {result.answers} answers could be scored, so there is no number")
    out.append(f"{figure(result.mean)}  ", "bold")
    if result.binary:
        full, empty = ("#", "-") if console.ascii_only else ("█", "░")
        size = max(0, min(30, console.rich.width - 56))
        filled = round(result.mean * size)
        out.append(full * filled, "green").append(empty * (size - filled), "dim").append("  " if size else "")
    if math.isfinite(result.low):
        out.append(f"95% CI {figure(result.low)} to {figure(result.high)}  ")
    out.append(f"n = {result.problems}")
    return out.append(f", {result.unscored} of {result.answers} answers not scored" if result.unscored else "")


def said(change: Change | None) -> str:
    """The change in one sentence, with the interval that it rests on."""
    if change is None:
        return "no problem was scored both times"
    interval = "" if math.isnan(change.low) else f" (95% CI {figure(change.low, '+')} to {figure(change.high, '+')})"
    return f"{figure(change.mean, '+')}{interval} over the same {change.n} problem{'s' if change.n > 1 else ''}: {change.words}"


def _examples(console: Console, examples: Sequence[Example], binary: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False)
    for name in ("problem", "before", "after"):
        table.add_column(name, ratio=1, overflow="fold")

    limit = max(120, min(280, console.rich.width * 2))

    def answer(text: str, reward: float) -> Text:
        mark, style = _mark(console, reward, binary)
        shown = console.clean(shorten(text, limit), lines=True)
        return Text.assemble((mark, style), "\n", shown)

    for index, example in enumerate(examples):
        if index:
            table.add_row()
        table.add_row(
            Text(console.clean(shorten(example.prompt, limit), lines=True)),
            answer(example.before, example.before_reward),
            answer(example.after, example.after_reward),
        )
    return table


def _mark(console: Console, reward: float, binary: bool) -> tuple[str, str]:
    """What an answer earned: right or wrong only where that is what rewards say."""
    if math.isnan(reward):
        return "not scored", "bold yellow"
    if not binary:
        return f"reward {figure(reward)}", "bold"
    right = reward > 0
    tick = "" if console.ascii_only else "✓ " if right else "✗ "
    return f"{tick}{'right' if right else 'wrong'}", "bold green" if right else "bold red"


def summary(
    console: Console,
    before: Shown | None,
    after: Shown | None,
    change: Change | None,
    examples: Sequence[Example],
    run_path: Path,
    next_steps: Sequence[str],
    health: Sequence[str] = (),
) -> None:
    """Prints it. `before`, `after`: None where an interrupted run did not evaluate; `change`: between the two.

    health: what went wrong, a line each.
    """
    console.close()
    show = console.rich.print
    binary = all(result.binary for result in (before, after) if result is not None)
    show(Text(f"\nheld-out {'accuracy' if binary else 'mean reward'}", "bold"))
    show(_line(console, "before", before))
    show(_line(console, "after", after))
    if before is not None and after is not None and before.problems and after.problems:
        show(Text(f"  {'change':8}{said(change)}"))
    if examples:
        show()
        show(_examples(console, examples, binary))
    else:
        show()
    for index, line in enumerate(health):
        show(
            Text.assemble(("health   " if index == 0 else " " * 9, "bold yellow"), console.clean(line)), soft_wrap=True
        )
    show(Text.assemble(("run      ", "bold"), console.clean(str(run_path))), soft_wrap=True)  # whole: it gets copied
    for index, step in enumerate(next_steps):
        show(Text.assemble(("next     " if index == 0 else " " * 9, "bold"), console.clean(step)), soft_wrap=True)
