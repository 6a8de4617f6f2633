"""What `rung eval` says of its models: the verdict in words, the table turned, and notes on what it does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.evaluation.scores import Paired, visible_difference
from rung.io.held_out import NAMES
from rung.io.tables import cell
from rung.io.terminal import counted, figure

if TYPE_CHECKING:
    from rung.evaluation.models import Measured

SEEN = 0.1  # a set that cannot show this difference gets a warning


def verdict_on(measured: Sequence[Measured], comparison: Paired | None) -> str:
    """What one model reaches, or which of two is better, if the interval shows it."""
    first = measured[0]
    if comparison is None and len(measured) == 2:
        return f"{first.model} and {measured[1].model} cannot be compared: no problem was judged for both."
    if comparison is None and not first.result.means:
        return (
            f"{first.model}: no answer to {counted(first.result.n, 'problem')} could be judged, so there is no number."
        )
    if comparison is None:
        low, high = first.interval()
        sure = "" if math.isnan(low) else f", 95 % interval {figure(low)} to {figure(high)}"
        return f"{first.model}: {first.kind} {figure(first.reward)}{sure}, on {counted(first.result.n, 'problem')}."
    c, other = comparison, measured[1].model
    if math.isnan(c.low) and c.n == 1 and c.difference:
        by = f"{figure(c.difference, '+')} {first.kind}"
        return f"No difference is shown between {first.model} and {other}: {by}, and one problem shows none."
    if math.isnan(c.low):
        by = f"differ by {figure(c.difference, '+')} {first.kind}" if c.difference else "are alike"
        return f"{first.model} and {other} {by} on every problem, so there is no interval."
    ends = f"{figure(c.low, '+')} to {figure(c.high, '+')}" if math.isfinite(c.low) else "none of so few"
    sure = f"95 % interval {ends}, p = {figure(c.p)}, {counted(c.n, 'problem')}"
    if c.low > 0 or c.high < 0:
        word = "better" if c.difference > 0 else "worse"
        return f"{first.model} is {word} than {other} by {figure(abs(c.difference))} {first.kind} ({sure})."
    return (
        f"No difference is shown between {first.model} and {other}: {figure(c.difference, '+')} {first.kind} ({sure})."
    )


def heads(models: Sequence[str]) -> list[str]:
    """What stands above the columns of models and of their difference: the last part of a path, where that tells them apart."""
    short = [Path(name).name for name in models]
    names = short if len(set(short)) == len(short) else list(models)
    return [*names, "first - second"] if len(names) == 2 else names


def turned(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line a measure, one column a model; a value with its interval in one cell."""
    lines = []
    for name in rows[0]:
        low, high = ("95% low", "95% high") if name in NAMES else (f"{name} low", f"{name} high")
        if name in ("model", "task") or name.endswith((" low", " high")):
            continue
        line = [f"{name} (mean@{rows[0]['samples']})" if name in NAMES else name]
        for row in rows:
            interval = f" ({cell(row[low])} to {cell(row[high])})" if row.get(low) is not None else ""
            line.append(_why_none(name, row) if row[name] is None else f"{cell(row[name])}{interval}")
        lines.append(line)
    return lines


def _why_none(name: str, row: Mapping[str, Any]) -> str:
    """The reason in place of a number; nothing where the row has no such measure (of a difference)."""
    if (name in NAMES or name.startswith("rewards/")) and row["unscored"]:
        return "none: no answer could be judged"
    if name == "smallest visible" and row.get("p") is not None:
        return "none"
    if name.startswith(("pass@", "maj@")) and row["unscored"]:
        least = name.partition("@")[2] if name.startswith("pass@") else "1"
        return f"none: no problem has {least} answers that could be judged"
    return ""


def notes(measured: Sequence[Measured], comparison: Paired | None) -> list[str]:
    """Warnings: a set too small to see a difference, prompts that did not fit."""
    first = measured[0]
    size = f"{counted(first.result.n, 'problem')} x {counted(first.samples, 'sample')}"
    found = []
    if comparison is not None and comparison.low <= 0 <= comparison.high:
        seen, needed = abs(comparison.difference), comparison.problems_needed
        more = f" To show the {seen:.3g} that was seen takes about {counted(needed, 'problem')}." if needed else ""
        least = comparison.visible
        shows = f"one of {least:.2g} or more" if not (first.result.binary and least > 1) else "none, however large"
        found.append(f"warning: no difference is shown. {size} show {shows} (80 % power).{more}")
    few = comparison is None and first.result.binary  # what is few depends on the scale, which an accuracy's is known
    if few and (visible := visible_difference(list(first.result.means.values()))) > SEEN:
        shows = f"a difference of {visible:.2g} or more" if visible <= 1 else "no difference, however large"
        found.append(
            f"warning: {size} are few. Between two models they show {shows} (80 % power, "
            "models taken as independent; --compare pairs the problems and usually shows less)."
        )
    found += [
        f"warning: {one.result.too_long} prompts leave {one.model} no room for an answer; they "
        f"{'count as wrong' if one.result.binary else 'are left out'}."
        for one in measured
        if one.result.too_long
    ]
    found += [
        f"warning: {one.result.unscored} of {len(one.result.answers)} answers of {one.model} could not be scored; they are in no "
        f"mean{'' if one.result.means else ', so there is none'}."
        for one in measured
        if one.result.unscored
    ]
    return found
