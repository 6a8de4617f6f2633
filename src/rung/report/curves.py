"""Which of a run's metrics are drawn, in which order, and together with what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.io.definitions import as_html, definition
from rung.io.held_out import NAMES
from rung.report.charts import Charts, Series
from rung.report.markup import Markup, number, tag
from rung.report.numbers import POINTS, dense, running, thin, window
from rung.report.timeline import TIMES

UNIT = (0.0, 1.0)
DASHES = ("solid", "dashed", "dotted")


@dataclass(frozen=True)
class Plot:
    """One chart: its title, and the metrics in it with their short labels."""

    title: str
    metrics: tuple[tuple[str, str], ...]
    fixed: tuple[float, float] | None = None


def _plot(title: str, *metrics: str | tuple[str, str], fixed: tuple[float, float] | None = None) -> Plot:
    return Plot(title, tuple((m, "") if isinstance(m, str) else m for m in metrics), fixed)


GROUPS: tuple[tuple[str, tuple[Plot, ...]], ...] = (
    (
        "Learning",
        (
            _plot("Reward while training", "reward"),
            _plot("Zero-variance groups", ("frac_reward_zero_std", "all alike"), ("frac_all_right", "all right")),
        ),
    ),
    (
        "Answers",
        (
            _plot(
                "Length of right and wrong answers",
                ("completions/mean_length_right", "right"),
                ("completions/mean_length_wrong", "wrong"),
            ),
            _plot("Entropy", "entropy"),
            _plot(
                "Answers that end badly",
                ("completions/clipped_ratio", "cut"),
                ("completions/no_answer_ratio", "no answer"),
            ),
        ),
    ),
    (
        "How far each step goes",
        (
            _plot("KL to the reference", "kl"),
            _plot(
                "KL to the policy before the step",
                ("old_kl", "sampled"),
                ("trust/kl", "exact"),
                ("trpo/kl", "accepted"),
            ),
            _plot(
                "Tokens whose gradient is clipped",
                ("clip_ratio/low_mean", "low"),
                ("clip_ratio/high_mean", "high"),
                ("clip_ratio/dual_mean", "dual"),
            ),
            _plot(
                "Ratio of single tokens",
                ("ratio/token_p01", "1 %"),
                ("ratio/token_p50", "median"),
                ("ratio/token_p99", "99 %"),
            ),
            _plot("Ratio of whole answers", ("ratio/sequence_p01", "1 %"), ("ratio/sequence_p99", "99 %")),
            _plot("Share of the full step taken", "trpo/fraction"),
            _plot("Weights of the KL terms", ("kl_coef", "reference"), ("trust/coef", "trust")),
        ),
    ),
    (
        "Quality of the gradient",
        (
            _plot("Norm of the gradient", "grad_norm"),
            _plot("Size of the advantages", "advantage/abs_mean"),
            _plot("Tokens that carry the weight", "ratio/ess"),
            _plot("Weights that a step changes", "update/changed"),
            _plot(
                "Gap of sampler and trainer", ("sampling/logp_gap_mean", "mean"), ("sampling/logp_gap_max", "largest")
            ),
        ),
    ),
    (
        "The critic",
        (
            _plot("Variance that the critic explains", "critic/explained_variance"),
            _plot("Predicted value and reward", ("critic/value_mean", "value"), ("reward", "reward")),
            _plot("Loss of the critic", "critic/loss"),
        ),
    ),
)
ELSEWHERE = ("step", "num_tokens", *TIMES)  # shown in tables or a picture of their own, or a mere count


def groups(runs: Sequence[dict[str, Any]], charts: Charts) -> list[tuple[str, list[Markup]]]:
    """[(heading, figures)], without what none of the runs logged and without charts in which nothing moves."""
    out, used = [], set(ELSEWHERE)
    for heading, plots in GROUPS:
        figures = list[Markup]()
        for plot in plots:
            used |= {name for name, _ in plot.metrics}
            figures += _drawn(plot, runs, charts)
        if heading == "Learning":
            figures += _components(runs, charts, used)
        if any(figures):
            out.append((heading, [figure for figure in figures if figure]))
    rest = [name for name in _names(runs) if name not in used and not name.startswith(("time/", "memory/"))]
    out.append(("Everything else", [figure for name in rest if (figure := draw(_plot("", name), runs, charts))]))
    return out


def held_out(runs: Sequence[dict[str, Any]], charts: Charts) -> Markup:
    """Held-out accuracy or mean reward of every evaluation, with its stored interval; a line only where they are many."""
    series = [
        Series(
            run["name"] if len(runs) > 1 else "", e["step"], e["mean"], e.get("low", ()), e.get("high", ()), color=run["color"],
            markers=True, joined=dense(len(e["step"])),
        )
        for run in runs
        if (e := run["eval"])
    ]  # fmt: skip
    note = "Every evaluation, on the same held-out problems, with its 95 % interval."
    if not all(s.joined for s in series):
        note += " No line is drawn between so few: nothing was measured there."
    kind = runs[0]["kind"]
    fixed = UNIT if kind == "accuracy" else None
    own = f", {runs[0]['name']}" if len(runs) == 1 and runs[0]["color"] + runs[0]["scale"] else ""
    return charts.lines(f"Held-out {NAMES[kind]}{own}", series, note=note, name=f"eval/{kind}", fixed=fixed)


def draw(plot: Plot, runs: Sequence[dict[str, Any]], charts: Charts) -> Markup:
    """The plot, or nothing where no run logged its first metric or none of its metrics ever moved."""
    if not any(plot.metrics[0][0] in run["train"] for run in runs):
        return Markup()
    logged = [(name, label) for name, label in plot.metrics if any(name in run["train"] for run in runs)]
    moving = [(name, label) for name, label in logged if not all(still(run, name) for run in runs)]
    if not moving:
        return Markup()
    several = len(runs) > 1
    series = [
        _series(
            run,
            name,
            label if len(moving) > 1 or not several else "",
            run["color"] + (0 if several else j),
            j if several else 0,
        )
        for run in runs
        for j, (name, label) in enumerate(moving)
        if name in run["train"]
    ]
    names = {run["color"]: run["name"] for run in runs}
    if several and len(moving) == 1:
        series = [replace(s, label=names[s.color]) for s in series]
    elif several:  # colours are the runs; each metric has a dash and is named at the first run's line
        series = [replace(s, labelled=s.color == series[0].color) for s in series]
    name = moving[0][0] if len(moving) == 1 else ""
    return charts.lines(
        plot.title or name, series, note=_notes(moving, several), name=name if plot.title else "", fixed=plot.fixed
    )


def _series(run: dict[str, Any], name: str, label: str, color: int, dash: int) -> Series:
    x, y = thin(run["train"]["step"], run["train"][name])
    width = window(len(x))
    mean, low, high = running(y, width)
    return Series(label, x, mean, low, high, y if width > 1 else (), color, dash)


def _components(runs: Sequence[dict[str, Any]], charts: Charts, used: set[str]) -> list[Markup]:
    """Each component of the reward, where there are several."""
    names = [name for name in _names(runs) if name.startswith("rewards/") and name.endswith("/mean")]
    used |= set(names)
    if len(names) < 2:
        return []
    return [
        figure for name in names for figure in _drawn(_plot(f"Reward for {name.split('/')[1]}", name), runs, charts)
    ]


def scales(runs: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The runs whose answers earn by the same rule, together: only their rewards share an axis."""
    known = dict.fromkeys(run["scale"] for run in runs)
    return [[run for run in runs if run["scale"] == scale] for scale in known]


def _drawn(plot: Plot, runs: Sequence[dict[str, Any]], charts: Charts) -> list[Markup]:
    """The plot; of rewards one for each scale."""
    together = scales(runs)
    if len(together) == 1 or not plot.metrics[0][0].startswith("reward"):
        return [draw(plot, runs, charts)]
    return [
        draw(replace(plot, title=f"{plot.title}, {', '.join(run['name'] for run in alike)}"), alike, charts)
        for alike in together
    ]


def still(run: dict[str, Any], name: str) -> bool:
    """True if a metric never moved (or moves in the last digits that a float32 has)."""
    values = [v for v in run["train"].get(name, []) if v is not None]
    if not values:
        return True
    span, size = max(values) - min(values), max(abs(v) for v in values)
    return span <= 1e-6 * size or (size < 1e-9) or (name.startswith(("ratio/", "old_kl")) and span < 1e-4 * size)


def constants(run: dict[str, Any]) -> list[tuple[str, float]]:
    """Metrics that have no chart because they never moved, with their value."""
    out = []
    for name, values in run["train"].items():
        known = [v for v in values if v is not None]
        if name not in ELSEWHERE and not name.startswith(("time/", "memory/")) and still(run, name):
            out.append((name, known[-1]))
    return out


def _names(runs: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run["train"]))


def _notes(metrics: Sequence[tuple[str, str]], several: bool) -> list[Markup]:
    """What is shown, its unit and what is healthy, from the one table of definitions."""
    out = []
    for j, (name, label) in enumerate(metrics):
        d = definition(name)
        if d is not None:
            dash = f", {DASHES[j]}" if several else ""
            head = tag("b", label, dash, ": ") if len(metrics) > 1 else None
            healthy = [" Healthy: ", Markup(as_html(d.healthy)), "."] if d.healthy else None
            unit = f" ({d.unit})" if d.unit != "1" else ""
            out.append(tag("span", head, Markup(as_html(d.formula)), unit, ".", healthy, class_="def"))
    return out


def smoothing(run: dict[str, Any]) -> str:
    """How the curves were made, for the reader."""
    n = len(run["train"].get("step", []))
    if window(min(n, POINTS)) == 1:
        return "Lines join the single steps; the run is too short for means and intervals."
    bins = f" Each point stands for about {n / POINTS:.0f} steps." if n > POINTS else ""
    what = "points" if n > POINTS else "steps"
    return (
        f"Lines are means over {window(min(n, POINTS))} {what}, dots the single ones, bands the 95 % interval of the mean "
        f"from the spread between them (too wide where a curve is steep).{bins}"
    )


def value_text(name: str, value: float) -> Markup:
    return tag("span", tag("code", name), " ", number(value), class_="constant")
