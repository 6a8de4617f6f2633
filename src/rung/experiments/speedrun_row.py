"""What `rung speedrun` prints: a table of its seeds, and the line for docs/speedrun.md."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import fields
from statistics import median
from typing import Any

from rung.experiments.runs import Row
from rung.io.terminal import counted, figure
from rung.settings.shared import Problems, as_typed, given
from rung.settings.speedrun import Speedrun

COLUMNS = ("seed", "minutes", "steps", "tokens", "accuracy", "95% low", "95% high", "reached", "waited")
BUSY = 0.05  # share of a seed's time in which other work had the processor
SEEDS = [0, 1, 2]
LONGEST = 16  # tokens of an answer
OPEN = {"train_size"}  # options of the task that say which training problems are drawn
HEAD = (
    "date",
    "command",
    "version",
    "machine",
    "precision",
    "minutes",
    "median",
    "accuracy then (95 %)",
    "shuffled rewards",
)


def table(rows: Sequence[Row]) -> tuple[Sequence[str], list[list[Any]]]:
    """A line a seed."""
    names = ("steps", "tokens", "accuracy", "low", "high", "reached")
    return COLUMNS, [
        [row["seed"], row["seconds"] / 60, *(row[name] for name in names), row.get("waited")] for row in rows
    ]


def outside(rows: Sequence[Row], control: Sequence[Row], args: Speedrun) -> list[str]:
    """Which rules of docs/speedrun.md keep the runs out of its table, in words; none: they belong there."""
    changed = given(args, Speedrun)
    own = [name for name in (f.name for f in fields(Problems)) if name in changed and name != "task_options"]
    own = [name for name in own if (name, changed[name]) != ("task", "chain_sum")]
    own += [f"task_options.{name}" for name in args.task_options if name not in OPEN]
    seeds, slowest = [row["seed"] for row in rows], max((row["steps"] for row in rows), default=0)
    found = [f"the model is {args.model}"] if args.model != "smollm2" else []
    found += [f"the problems are others ({', '.join(own)})"] if own else []
    found += [f"answers have up to {args.max_new_tokens} tokens"] if args.max_new_tokens > LONGEST else []
    found += [f"the target is {args.target:g}"] if args.target != Speedrun.target else []
    found += [f"the seeds are {', '.join(map(str, seeds)) or 'none'}, not 0, 1, 2"] if seeds != SEEDS else []
    if not any(row["steps"] >= slowest for row in control):
        found.append("there is no control of as many steps as the slowest seed (--control --seeds 1)")
    return found


def apart_in_words(apart: Sequence[str]) -> list[str]:
    return [f"not the table's of docs/speedrun.md: {'; '.join(apart)}"] if apart else []


def busy(rows: Sequence[Row]) -> list[str]:
    """A sentence for each seed that shared the processor, so that its minutes are too many."""
    found = [row for row in rows if (row.get("waited") or 0) > BUSY]
    return [
        f"the machine was busy: in {row['waited']:.0%} of the time of seed {row['seed']} other work had the processor"
        for row in found
    ]


def markdown(rows: Sequence[Row], control: Sequence[Row], args: Speedrun) -> str:
    """One line of the table in docs/speedrun.md, from what lies in the folder; empty cells where nothing does."""
    first = next(iter([*rows, *control]))
    cells = [
        first["started"][:10], f"`{typed(args, rows)}`", ", ".join(dict.fromkeys(map(_version, [*rows, *control]))),
        ", ".join(dict.fromkeys(map(_machine, rows or control))), first["dtype"],
        ", ".join(_minutes(row) if row["reached"] else f"not in {_minutes(row)}" for row in rows),
        _median(rows), "; ".join(map(_accuracy, rows)),
        "; ".join(f"{figure(row['before'])} to {_accuracy(row)} in {row['steps']} steps" for row in control),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


def typed(args: Speedrun, rows: Sequence[Row]) -> str:
    """The command with what is not as usual, for the seeds that there are."""
    flags = given(args, Speedrun)
    for name in ("recipe", "overrides", "control", "out", "json", "seed", "seeds"):
        flags.pop(name, None)
    seeds = [row["seed"] for row in rows]
    if seeds and seeds[0]:
        flags["seed"] = seeds[0]
    if len(seeds) not in (0, Speedrun.seeds):
        flags["seeds"] = len(seeds)
    recipe = "" if args.recipe is None else f" {args.recipe}"
    parts = "".join(f" --recipe.{path} {shlex.quote(str(value))}" for path, value in args.overrides.items())
    return f"rung speedrun{recipe}{parts}{as_typed(flags)}"


def _median(rows: Sequence[Row]) -> str:
    """Of the minutes; a seed that is not at the target takes longer than any."""
    found = median([row["seconds"] if row["reached"] else math.inf for row in rows]) if rows else math.inf
    return _minutes({"seconds": found}) if math.isfinite(found) else "-"


def _minutes(row: Row) -> str:
    minutes = row["seconds"] / 60
    return f"{minutes:.1f}" if minutes >= 1 else f"{minutes:.2g}"


def _accuracy(row: Row) -> str:
    interval = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{figure(row['accuracy'])}{interval}"


def _version(row: Row) -> str:
    """The version, the commit where there is one, and a + where files differed from it."""
    commit = f" ({row['commit'][:7]}{'+' if row['dirty'] else ''})" if row["commit"] else ""
    return f"{row['version']}{commit}"


def _machine(row: Row) -> str:
    return row["gpu"] or f"{row['cpu']}, {counted(row['cores'], 'core')}, {counted(row['threads'], 'thread')}"
