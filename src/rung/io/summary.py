"""What a finished run says: before and after in numbers, three problems side by side, where it lies, what to try next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rung.io.console import Console
from rung.io.shown import Example, Shown, mark, shorten
from rung.io.terminal import figure
from rung.statistics import Change


def _line(console: Console, label: str, result: Shown | None) -> Text:
    label += "" if result is None or result.step is None else f", step {result.step}"
    out = Text(f"  {label:18}", no_wrap=True, overflow="ellipsis")
    if result is None:
        return out.append("not evaluated", "dim")
    if not result.problems:
        return out.append(f"none of the {result.answers} answers could be scored, so there is no number")
    out.append(f"{figure(result.mean)}  ", "bold")
    if result.binary:
        full, empty = ("#", "-") if console.ascii_only else ("█", "░")
        size = max(0, min(30, console.rich.width - 66))
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
    interval = (
        "" if not math.isfinite(change.low) else f" (95% CI {figure(change.low, '+')} to {figure(change.high, '+')})"
    )
    return f"{figure(change.mean, '+')}{interval} over the same {change.n} problem{'s' if change.n > 1 else ''}: {change.words}"


def _examples(console: Console, examples: Sequence[Example], binary: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False)
    for name in ("problem", "before", "after"):
        table.add_column(name, ratio=1, overflow="fold")

    limit = max(120, min(280, console.rich.width * 2))

    def answer(text: str, reward: float) -> Text:
        head, style = mark(reward, binary, console.ascii_only)
        shown = console.clean(shorten(text, limit), lines=True)
        return Text.assemble((head, style), "\n", shown)

    for index, example in enumerate(examples):
        if index:
            table.add_row()
        table.add_row(
            Text(console.clean(shorten(example.prompt, limit), lines=True)),
            answer(example.before, example.before_reward),
            answer(example.after, example.after_reward),
        )
    return table


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
