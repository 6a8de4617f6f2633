"""What a finished run says: accuracy before and after, three problems side by side, where it lies, what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rung.io.console import Console


@dataclass(frozen=True)
class Example:
    """One held-out problem, answered before and after the training. All texts may hold anything."""

    prompt: str
    before: str
    after: str
    before_right: bool
    after_right: bool


def shorten(text: str, limit: int = 280) -> str:
    """Head and tail of a long answer, because the result stands at its end."""
    text = text.strip()
    if len(text) <= limit:
        return text
    tail = limit * 2 // 3
    return f"{text[: limit - tail].rstrip()} [...] {text[-tail:].lstrip()}"


def verdict(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What the two intervals allow to say, and no more."""
    change = f"{after['accuracy'] - before['accuracy']:+.3f}"
    if after["ci_low"] > before["ci_high"]:
        return f"{change}: better, the intervals do not overlap"
    if after["ci_high"] < before["ci_low"]:
        return f"{change}: WORSE, the intervals do not overlap"
    return f"{change}: the intervals overlap, so this alone does not show a change"


def _accuracy(console: Console, label: str, result: Mapping[str, float] | None) -> Text:
    out = Text(f"  {label:8}", no_wrap=True, overflow="ellipsis")
    if result is None:
        return out.append("not evaluated", "dim")
    full, empty = ("#", "-") if console.ascii_only else ("█", "░")
    size = max(0, min(30, console.rich.width - 56))
    filled = round(max(0.0, min(1.0, result["accuracy"])) * size)
    out.append(f"{result['accuracy']:.3f}  ", "bold")
    out.append(full * filled, "green").append(empty * (size - filled), "dim")
    gap = "  " if size else ""
    return out.append(f"{gap}95% CI {result['ci_low']:.3f} to {result['ci_high']:.3f}  n = {int(result['n'])}")


def _examples(console: Console, examples: Sequence[Example]) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False)
    for name in ("problem", "before", "after"):
        table.add_column(name, ratio=1, overflow="fold")

    limit = max(120, min(280, console.rich.width * 2))

    def answer(text: str, right: bool) -> Text:
        mark = ("right" if right else "wrong") if console.ascii_only else ("✓ right" if right else "✗ wrong")
        shown = console.clean(shorten(text, limit), lines=True)
        return Text.assemble((mark, "bold green" if right else "bold red"), "\n", shown)

    for index, example in enumerate(examples):
        if index:
            table.add_row()
        table.add_row(
            Text(console.clean(shorten(example.prompt, limit), lines=True)),
            answer(example.before, example.before_right),
            answer(example.after, example.after_right),
        )
    return table


def summary(
    console: Console,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
    examples: Sequence[Example],
    run_path: Path,
    next_steps: Sequence[str],
) -> None:
    """Prints it. `before`, `after`: accuracy, ci_low, ci_high, n; None where an interrupted run did not evaluate."""
    console.close()
    show = console.rich.print
    show(Text("\nheld-out accuracy", "bold"))
    show(_accuracy(console, "before", before))
    show(_accuracy(console, "after", after))
    if before is not None and after is not None:
        show(Text(f"  {'change':8}{verdict(before, after)}"))
    if examples:
        show()
        show(_examples(console, examples))
    else:
        show()
    show(Text.assemble(("run      ", "bold"), console.clean(str(run_path))), soft_wrap=True)  # whole: it gets copied
    for index, step in enumerate(next_steps):
        show(Text.assemble(("next     " if index == 0 else " " * 9, "bold"), console.clean(step)), soft_wrap=True)
