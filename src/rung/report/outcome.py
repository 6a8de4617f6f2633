"""The first sections of a report on runs: the curve, three answers before and after, and runs compared problem by problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rung.io.held_out import NAMES, Kind
from rung.io.terminal import counted
from rung.report import curves
from rung.report.charts import Charts, Interval, intervals
from rung.report.markup import Child, Markup, name_tag, number, section, table, tag
from rung.statistics import Change

Run = dict[str, Any]
OPEN = 12  # a list of problems that is longer is folded


def outcome(runs: Sequence[Run], charts: Charts) -> Markup:
    """Accuracy or mean reward before and after in words, the curve beside it, and three answers before and after."""
    words = [
        tag("div", name_tag(run["name"], i, len(runs)), _in_words(run), class_="words") for i, run in enumerate(runs)
    ]
    pictures: list[Child] = []
    for alike in curves.scales(runs):
        pictures += [curves.held_out(alike, charts), _before_and_after(alike) if len(runs) > 1 else None]
    lead = tag("div", tag("div", words), tag("div", pictures, class_="pictures"), class_="lead")
    return section("outcome", "What came out", lead, _three_answers(runs))


def _before_and_after(runs: Sequence[Run]) -> Markup:
    rows = [
        Interval(
            f"{run['name']}, {when}", row["mean"], row["low"], row["high"], color=run["color"], quiet=when == "before"
        )
        for run in runs
        for when, row in (("before", run["before"]), ("after", run["after"]))
        if row
    ]
    kind = runs[0]["kind"]
    title = f"{NAMES[kind].capitalize()} on held-out problems, 95 % intervals"
    return intervals(title, rows, fixed=(0.0, 1.0) if kind == "accuracy" else None)


def _in_words(run: Run) -> list[Markup]:
    before, after, what = run["before"], run["after"], NAMES[run["kind"]]
    if before is None:
        return [tag("p", "This run holds no evaluation on held-out problems that could be scored.")]
    if after is None:
        now = tag("strong", number(before["mean"]), class_="big")
        return [tag("p", now, f" held-out {what} at step {before['step']}; the only evaluation.")]
    big = tag(
        "p",
        number(before["mean"]),
        tag("span", "→", class_="arrow", aria_label="to"),
        tag("strong", number(after["mean"])),
        class_="big",
    )
    text = (
        f"Held-out {what} after {after['step']} steps, on {counted(after['problems'], 'problem')}. 95 % intervals: "
        f"{_interval(before)} before, {_interval(after)} after. {_unscored(after)}"
    )
    out = [big, tag("p", text), *_changed(run)]
    if run["planned"] and run["steps"] < run["planned"]:
        out.append(tag("p", f"The run ended at step {run['steps']} of {run['planned']} planned.", class_="warn"))
    return out


def _changed(run: Run) -> list[Markup]:
    """The change over the same problems, and where answers are right or wrong, how many of them were gained and lost."""
    c = run["changes"]
    if not c or c["change"] is None:
        return []
    d = c["change"]
    out = [tag("p", f"Change over the same {counted(d.n, 'problem')}: {_difference(d)}: {d.words}.")]
    if run["kind"] == "accuracy":
        what = counted(c["total"], "problem" if c["total"] == d.n else "answer")
        gained, lost = f"{c['gained']} went from wrong to right", f"{c['lost']} from right to wrong"
        rest = f"; {c['right']} were right both times, {c['wrong']} wrong both times."
        out.append(tag("p", f"Of {what}, ", tag("b", gained), " and ", tag("b", lost), rest))
    return out


def _difference(d: Change) -> str:
    interval = "" if not math.isfinite(d.low) else f" (95 % interval {d.low:+.3g} to {d.high:+.3g})"
    return f"{d.mean:+.3g}{interval}".replace("-", "−")


def _interval(row: dict[str, Any]) -> str:
    return "none" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def _unscored(row: dict[str, Any]) -> str:
    n = int(row.get("eval/unscored") or 0)
    return f"{counted(n, 'answer')} could not be scored and {'is' if n == 1 else 'are'} in no mean." if n else ""


# -- three answers -------------------------------------------------------------------------------------------------
def _three_answers(runs: Sequence[Run]) -> Child:
    """Not the best three: one of each kind, so that what was lost is seen as well."""
    if not any(run["examples"] for run in runs):
        return None
    how = (
        "Held-out problems, not picked by hand: the first that gained, the first that lost and the first that stayed as it was; "
        "where there is none of a kind, the next one."
    )
    out: list[Child] = [tag("h3", "Three answers, before and after"), tag("p", how, class_="hint")]
    for i, run in enumerate(runs):
        rows = [
            (said(p["a"]["prompt"]), answer(p["a"], run["kind"]), answer(p["b"], run["kind"])) for p in run["examples"]
        ]
        if rows:
            head = ("problem", "before", f"after {run['after']['step'] if run['after'] else run['steps']} steps")
            out += [name_tag(run["name"], i, len(runs)), table(head, rows, "answers")]
    return out


def said(text: str) -> Markup:
    return tag("span", text.strip(), class_="said")


def answer(problem: dict[str, Any], kind: Kind) -> Child:
    """The answer with its verdict; a part of several answers that were right, or a reward, as a number."""
    earned = problem["earned"]
    if kind == "accuracy" and earned in (0, 1):
        verdict = tag(
            "span",
            "✓ " if earned else "✗ ",
            class_="right" if earned else "wrong",
            aria_label="right" if earned else "wrong",
        )
        return [verdict, said(problem["answer"])]
    return [said(problem["answer"]), tag("small", f" {'right' if kind == 'accuracy' else 'reward'} {number(earned)}")]


# -- problem by problem --------------------------------------------------------------------------------------------
def comparison(found: Sequence[dict[str, Any]], kind: Kind) -> Markup:
    """The paired difference of two runs with its interval, and the problems that make it, in both directions."""
    out: list[Child] = []
    for pair in found:
        first, second = pair["names"]
        if len(found) > 1:
            out.append(tag("h3", f"{second} against {first}"))
        if pair["unlike"]:
            out.append(tag("p", f"{second} and {first}: {pair['unlike']}."))
            continue
        if pair["found"] is None:
            out.append(
                tag("p", f"{first} and {second} have no held-out problem in common, so they cannot be compared.")
            )
            continue
        out += _compared(first, second, pair["found"], kind)
    return section("compare", "Problem by problem", out) if found else Markup()


def _compared(first: str, second: str, c: dict[str, Any], kind: Kind) -> list[Child]:
    d, steps = c["change"], c["steps"]
    when = (
        f"after step {steps[0]}"
        if steps[0] == steps[1]
        else f"{first} after step {steps[0]}, {second} after step {steps[1]}"
    )
    apart = f" Left out: {counted(c['apart'], 'problem')} that only one of them had." if c["apart"] else ""
    text = (
        f"{second} minus {first}, over the same {counted(d.n, 'held-out problem')} ({when}): {_difference(d)} {NAMES[kind]}: "
        f"{_verdict(d, first, second)}.{apart} The interval is over problems; other seeds may differ more."
    )
    low, high = (v if math.isfinite(v) else None for v in (d.low, d.high))
    row = Interval(f"{second} − {first}", d.mean, low, high)
    picture = intervals("Paired difference, 95 % interval", [row], zero=True)
    words = tag("div", tag("p", text), tag("p", _counts(first, second, c, kind)))
    lists = [_moved(first, second, c, kind, way) for way in (1, -1)]
    return [tag("div", words, picture, class_="lead"), *lists]


def _verdict(d: Change, first: str, second: str) -> str:
    if math.isnan(d.low) and d.mean:
        return "the same difference on all of them, so there is no interval, and no difference is shown"
    if not math.isnan(d.low) and d.low <= 0 <= d.high:
        return "the interval holds 0, so this alone shows no difference"
    if d.mean == 0:
        return "the same on every problem"
    return f"{second if d.mean > 0 else first} is better"


def _counts(first: str, second: str, c: dict[str, Any], kind: Kind) -> str:
    up, down, same = (c["counts"][s] for s in (1, -1, 0))
    if kind == "accuracy":
        rest = f"{c['solved']} are right in both and {same - c['solved']} the same in both otherwise"
        return f"{up} went better with {second}, {down} with {first}; {rest}."
    return f"{up} earned more with {second}, {down} with {first}, {same} the same."


def _moved(first: str, second: str, c: dict[str, Any], kind: Kind, way: int) -> Markup:
    rows, total = c["moved"][way], c["counts"][way]
    better = second if way > 0 else first
    title = f"{counted(total, 'problem')} that went better with {better}" + (
        f", the first {len(rows)}" if len(rows) < total else ""
    )
    if not rows:
        return tag("p", f"No problem went better with {better}.")
    lines = [(said(p["a"]["prompt"]), answer(p["a"], kind), answer(p["b"], kind)) for p in rows]
    body = table(("problem", first, second), lines, "answers")
    return tag("details", tag("summary", title), body, open=len(rows) <= OPEN)
