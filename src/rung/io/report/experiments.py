"""The sections of a report on a ladder or a `why`: what was found, each step's verdict, robustness, gradient quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.io.report.charts import Charts, Interval, Series, intervals
from rung.io.report.markup import Child, Markup, number, table, tag
from rung.io.report.sections import section

Experiment = dict[str, Any]


def experiment(e: Experiment, charts: Charts, index: int, alone: bool = False) -> Markup:
    """One experiment, of whose parts every one may be missing."""
    colors = _colors(e)
    sentence = tag("p", str(e["sentence"]), class_="finding") if e.get("sentence") else None
    parts: list[Child] = [
        sentence,
        verdicts(e),
        result_table(e),
        curve_charts(e, charts, colors),
        gradient(e, colors),
        command(e),
    ]
    return section(f"experiment{index}", "What was found" if alone else str(e.get("title") or e["name"]), parts)


def _colors(e: Experiment) -> dict[str, int]:
    """One colour a recipe, the same in every chart of the experiment."""
    names = [r.get("recipe") for key in ("rows", "verdicts", "robustness", "gradient") for r in e.get(key, [])]
    names += [c.get("label") for c in e.get("curves", [])]
    return {str(name): i for i, name in enumerate(dict.fromkeys(n for n in names if n))}


def verdicts(e: Experiment) -> Child:
    """Each step's effect with its interval; one that covers zero is called not shown, never a tendency."""
    found = e.get("verdicts") or []
    if not found:
        return None
    rows = [
        Interval(
            f"{v.get('parent')} → {v.get('recipe')}",
            v.get("effect"),
            v.get("low"),
            v.get("high"),
            color=0 if v.get("shown") else 5,
            quiet=not v.get("shown"),
        )
        for v in found
    ]
    items = [
        tag(
            "li",
            tag("span", "shown" if v.get("shown") else "not shown", class_="pill" if v.get("shown") else "pill no"),
            " ",
            str(v.get("sentence") or f"{v.get('recipe')} against {v.get('parent')}: {_signed(v.get('effect'))}"),
            tag("small", f" p\u00a0=\u00a0{number(v['p'])}") if isinstance(v.get("p"), int | float) else None,
        )
        for v in found
    ]
    picture = intervals("Child minus parent, with intervals", rows, zero=True)
    return [tag("h3", "What each step buys"), tag("div", tag("ul", items, class_="verdicts"), picture, class_="lead")]


def _signed(value: Any) -> str:
    return f"{value:+.3f}" if isinstance(value, int | float) else "–"


def result_table(e: Experiment) -> Child:
    """The table as it was made; without one, a row for each run."""
    made = e.get("table") or {}
    head, rows = made.get("columns") or [], made.get("rows") or []
    if rows:
        return [tag("h3", "Results"), table(head, [[cell(c) for c in row] for row in rows])]
    return [tag("h3", "Runs"), run_table(e["rows"])] if e.get("rows") else None


def run_table(rows: Sequence[dict[str, Any]]) -> Markup:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table(names, [[cell(row.get(name)) for name in names] for row in rows])


def cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float) and value and abs(value) < 0.01:
        return f"{value:.3g}"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def curve_charts(e: Experiment, charts: Charts, colors: dict[str, int]) -> Child:
    """Curves with the same title share a chart."""
    out = []
    for title in dict.fromkeys(str(c.get("title", "")) for c in e.get("curves", [])):
        same = [c for c in e["curves"] if str(c.get("title", "")) == title]
        series = [
            Series(
                str(c.get("label", "")),
                c.get("x", []),
                c.get("mean", []),
                c.get("low", ()),
                c.get("high", ()),
                color=colors.get(str(c.get("label")), i),
            )
            for i, c in enumerate(same)
        ]
        labels = {c.get("ylabel") for c in same} - {None, title}
        name = ", ".join(sorted(map(str, labels)))
        out.append(
            charts.lines(title or name or "curves", series, xlabel=str(same[0].get("xlabel", "step")), name=name)
        )
    out.append(robustness(e, charts, colors))
    return [tag("h3", "Curves"), tag("div", out, class_="grid wide")] if any(out) else None


def robustness(e: Experiment, charts: Charts, colors: dict[str, int]) -> Markup:
    """What was reached over step sizes: a wide plateau is worth more than a high peak."""
    series = [
        Series(
            str(r.get("recipe", "")),
            r["step_size"],
            r["accuracy"],
            r.get("low", ()),
            r.get("high", ()),
            color=colors.get(str(r.get("recipe")), 0),
            markers=True,
        )
        for r in e.get("robustness", [])
        if r.get("step_size") and r.get("accuracy")
    ]
    note = "A wide plateau is worth more than a high peak: nobody knows the best step size of a new task."
    measure = str(e.get("measure", "accuracy"))
    fixed = (0.0, 1.0) if measure == "accuracy" else None
    title = f"{measure.capitalize()} over step sizes"
    return charts.lines(
        title, series, xlabel="learning rate (trpo: bound on the KL)", note=note, fixed=fixed, log_x=True
    )


def gradient(e: Experiment, colors: dict[str, int]) -> Child:
    """How noisy each estimator's gradient is, and how well one batch points where all of them point."""
    rows = e.get("gradient") or []
    trace = [
        Interval(
            str(r.get("recipe")), r.get("trace"), r.get("low"), r.get("high"), color=colors.get(str(r.get("recipe")), 0)
        )
        for r in rows
    ]
    cosine = [
        Interval(
            str(r.get("recipe")),
            r.get("cosine"),
            r.get("cosine_low"),
            r.get("cosine_high"),
            color=colors.get(str(r.get("recipe")), 0),
        )
        for r in rows
    ]
    drawn = [
        intervals("Trace of the gradient's covariance (each in its own scale)", trace),
        intervals("Cosine of one batch to the mean (more is better)", cosine),
    ]
    return [tag("h3", "Quality of the gradient"), tag("div", drawn, class_="grid wide")] if any(drawn) else None


def command(e: Experiment) -> Child:
    return tag("p", "Made by ", tag("code", str(e["command"])), class_="command") if e.get("command") else None
