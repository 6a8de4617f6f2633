"""What `rung eval` says of its models: the verdict in words, the table turned, and notes on what it does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rung.evaluation.scores import Paired, visible_difference
from rung.io.held_out import NAMES
from rung.io.tables import cell
from rung.io.terminal import figure

if TYPE_CHECKING:
    from rung.evaluation.models import Measured

SEEN = 0.1  # a set that cannot show this difference gets a warning


def verdict_on(measured: Sequence[Measured], comparison: Paired | None) -> str:
    """What one model reaches, or which of two is better, if the interval shows it."""
    first = measured[0]
    if comparison is None and len(measured) == 2:
        return f"{first.model} and {measured[1].model} cannot be compared: no problem was judged for both."
    if comparison is None and not first.result.means:
        return f"{first.model}: no answer to the {first.result.n} problems could be judged, so there is no number."
    if comparison is None:
        low, high = first.interval()
        sure = "" if math.isnan(low) else f", 95 % interval {figure(low)} to {figure(high)}"
        return f"{first.model}: {first.kind} {figure(first.reward)}{sure}, on {first.result.n} problems."
    c, other = comparison, measured[1].model
    if math.isnan(c.low):
        by = f"differ by {figure(c.difference, '+')} {first.kind}" if c.difference else "are alike"
        return f"{first.model} and {other} {by} on every problem, so there is no interval."
    ends = f"{figure(c.low, '+')} to {figure(c.high, '+')}" if math.isfinite(c.low) else "none of so few"
    sure = f"95 % interval {ends}, p = {figure(c.p)}, {c.n} problems"
    if c.low > 0 or c.high < 0:
        word = "better" if c.difference > 0 else "worse"
        return f"{first.model} is {word} than {other} by {figure(abs(c.difference))} {first.kind} ({sure})."
    return (
        f"No difference is shown between {first.model} and {other}: {figure(c.difference, '+')} {first.kind} ({sure})."
    )


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
    if name.startswith(("pass@", "maj@")) and row["unscored"]:
        least = name.partition("@")[2] if name.startswith("pass@") else "1"
        return f"none: no problem has {least} answers that could be judged"
    return ""


def notes(measured: Sequence[Measured], comparison: Paired | None) -> list[str]:
    """Warnings: a set too small to see a difference, prompts that did not fit."""
    first = measured[0]
    size = f"{first.result.n} problems x {first.samples} samples"
    found = []
    if comparison is not None and comparison.low <= 0 <= comparison.high:
        seen, needed = abs(comparison.difference), comparison.problems_needed
        more = f" To show the {seen:.3g} that was seen takes about {needed} problems." if needed else ""
        found.append(
            f"warning: no difference is shown. {size} show one of {comparison.visible:.2g} or more (80 % power).{more}"
        )
    few = comparison is None and first.result.binary  # what is few depends on the scale, which an accuracy's is known
    if few and (visible := visible_difference(list(first.result.means.values()))) > SEEN:
        found.append(
            f"warning: {size} are few. Between two models they show a difference of {visible:.2g} or more (80 % power, "
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
