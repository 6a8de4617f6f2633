"""The sections of a report on a ladder or a `why`: what was found, each step's verdict, robustness, gradient quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.recipe_io import all_recipes
from rung.report.charts import Charts, Interval, Series, intervals
from rung.report.markup import Child, Markup, number, section, table, tag
from rung.report.numbers import dense

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
        robustness(e, charts, colors),
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
    if not isinstance(value, int | float):
        return "–"
    return ("−" if value < 0 else "+") + number(abs(value))


def result_table(e: Experiment) -> Child:
    """The table as it was made; without one, a row for each run."""
    made = e.get("table") or {}
    head, rows = made.get("columns") or [], made.get("rows") or []
    if rows:
        return [tag("h3", "Results"), table(*narrow(head, rows), "tight")]
    return [tag("h3", "Runs"), run_table(e["rows"])] if e.get("rows") else None


def narrow(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Child]]]:
    """The same numbers in fewer columns: an interval stands with its value, a parent with what was changed in it."""
    pairs = {"low": "high", "parent": "what changed"}
    joined = {i: head.index(pairs[name]) for i, name in enumerate(head) if pairs.get(name) in head}
    gone = set(joined.values())
    left = [i for i in range(len(head)) if i not in gone]
    names = [
        {"low": "95 % interval", "parent": "changed in its parent"}.get(head[i], head[i]) if i in joined else head[i]
        for i in left
    ]
    return names, [
        [_joined(head[i], row[i], row[joined[i]]) if i in joined else cell(row[i]) for i in left] for row in rows
    ]


def _joined(name: str, a: Any, b: Any) -> Child:
    if a is None and b is None:
        return "–"
    if name == "low":
        return tag("span", f"{cell(a)} to {cell(b)}", class_="nowrap")
    return [f"{cell(a)}: ", tag("code", cell(b), class_="changed")]


def run_table(rows: Sequence[dict[str, Any]]) -> Markup:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table(names, [[cell(row.get(name)) for name in names] for row in rows], "tight")


def cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
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
                markers=not dense(len(c.get("x", []))),
                joined=dense(len(c.get("x", []))),
            )
            for i, c in enumerate(same)
        ]
        sparse = "Points are evaluations, with their intervals over seeds; no line is drawn between so few."
        labels = {c.get("ylabel") for c in same} - {None, title}
        name = ", ".join(sorted(map(str, labels)))
        out.append(
            charts.lines(
                title or name or "curves", series, xlabel=str(same[0].get("xlabel", "step")), name=name,
                note=None if all(s.joined for s in series) else sparse,
            )
        )  # fmt: skip
    return [tag("h3", "Curves"), tag("div", out, class_="grid wide")] if any(out) else None


def robustness(e: Experiment, charts: Charts, colors: dict[str, int]) -> Child:
    """What was reached over step sizes, a chart for each recipe: a learning rate and a bound on the KL share no axis."""
    measure = str(e.get("measure", "accuracy"))
    fixed = (0.0, 1.0) if measure == "accuracy" else _range(e)
    known = all_recipes()
    drawn = []
    for r in e.get("robustness", []):
        if r.get("step_size") and r.get("accuracy"):
            name = str(r.get("recipe", ""))
            color, low, high = colors.get(name, 0), r.get("low", ()), r.get("high", ())
            series = Series(name, r["step_size"], r["accuracy"], low, high, color=color, markers=True, joined=False)
            xlabel = known[name].update.step_name if name in known else "step size"
            drawn.append(charts.lines(name, [series], xlabel=xlabel, fixed=fixed, log_x=True))
    note = (
        "A wide plateau is worth more than a high peak: nobody knows the best step size of a new task. Bars are the range over "
        "the sweep's seeds."
    )
    heading = tag("h3", f"{measure.capitalize()} over step sizes")
    return [heading, tag("p", note, class_="hint"), tag("div", drawn, class_="grid")] if drawn else None


def _range(e: Experiment) -> tuple[float, float] | None:
    """One range of y for all of them."""
    values = [
        v for r in e.get("robustness", []) for k in ("accuracy", "low", "high") for v in r.get(k, ()) if v is not None
    ]
    if not values:
        return None
    space = (max(values) - min(values)) * 0.06 or 1.0
    return min(values) - space, max(values) + space


def gradient(e: Experiment, colors: dict[str, int]) -> Child:
    """How noisy each estimator's gradient is, on scales that can be compared, and the trace as a number."""
    rows = e.get("gradient") or []

    def plot(title: str, key: str) -> Markup:
        lows, highs = (f"{key}_low", f"{key}_high")
        points = [
            Interval(
                str(r.get("recipe")), r.get(key), r.get(lows), r.get(highs), color=colors.get(str(r.get("recipe")), 0)
            )
            for r in rows
        ]
        return intervals(title, points)

    drawn = [
        plot("Signal to noise of one batch, |E g|² / trace (more is better)", "snr"),
        plot("Cosine of one batch to the mean (more is better)", "cosine"),
    ]
    traces = [
        (r.get("recipe"), cell(r["trace"]), _joined("low", r.get("low"), r.get("high"))) for r in rows if r.get("trace")
    ]
    if not any(drawn) and not traces:
        return None
    note = (
        "The trace of the gradient's covariance has the scale of each recipe's own advantages and divisor: half of them, and it is "
        "a quarter. It therefore has no common axis here. Divided by the squared norm of the mean gradient the scale is gone."
    )
    own = table(("recipe", "trace, each in its own scale", "95 % interval"), traces) if traces else None
    return [
        tag("h3", "Quality of the gradient"),
        tag("div", drawn, class_="grid wide"),
        tag("p", note, class_="hint"),
        own,
    ]


def command(e: Experiment) -> Child:
    return tag("p", "Made by ", tag("code", str(e["command"])), class_="command") if e.get("command") else None
