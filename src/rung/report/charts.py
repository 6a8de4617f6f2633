"""Line charts and interval plots as SVG: colours and type from the page, labels at the lines, a description in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from rung.report.markup import Child, Markup, number, scientific, tag
from rung.report.numbers import tick_labels, ticks

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 216, 44, 12, 34
MANY = 3  # more series than this: fainter bands
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """y over x, with an interval where there is one; `dots` are the single values behind a mean."""

    label: str
    x: Sequence[float]
    y: Values
    low: Values = ()
    high: Values = ()
    dots: Values = ()
    color: int = 0
    dash: int = 0
    markers: bool = False
    labelled: bool = True
    joined: bool = True  # False: points alone, for nothing is known between them
    aside: float = 0.0  # pixels, so that points of several series at one x are told apart


@dataclass
class Charts:
    """Draws charts for one page; `data` is what the page's script reads out under the pointer or the arrow keys."""

    data: dict[str, Any] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: count(1))

    def lines(
        self,
        title: str,
        series: Sequence[Series],
        *,
        xlabel: str = "step",
        note: Child = None,
        name: str = "",
        fixed: tuple[float, float] | None = None,
        log_x: bool = False,
    ) -> Markup:
        """A figure with one chart. `name`: the metric's name, beside the title. `fixed`: the range of y."""
        series = [s for s in series if any(v is not None for v in s.y)]
        if not series:
            return Markup()
        series = _apart(series)
        key = f"chart{next(self.numbers)}"
        frame = _Frame.around(series, fixed, log_x)
        labels = _labels(series, frame)
        parts = [*_axes(frame, series, xlabel), *(_series(s, frame) for s in series), *labels]
        words = f"{title}. " + ". ".join(_in_words(s, xlabel) for s in series) + "."
        svg = tag(
            "svg", tag("title", title), tag("desc", words), *parts,
            viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=words, tabindex="0", id=key,
            class_="many" if len(series) > MANY else None,
        )  # fmt: skip
        self.data[key] = {
            "frame": [frame.left, frame.right, frame.top, frame.bottom],
            "xlabel": xlabel,
            "series": [
                {
                    "label": s.label, "color": s.color, "aside": s.aside, "x": list(s.x), "px": [round(frame.x(v), 1) for v in s.x],
                    "y": _short(s.y), "low": _short(s.low), "high": _short(s.high), "dots": _short(s.dots),
                    "py": [None if v is None else round(frame.y(v), 1) for v in s.y],
                }
                for s in series
            ],
        }  # fmt: skip
        head = tag("figcaption", tag("b", title), " ", tag("code", name) if name else None)
        foot = tag("p", note, class_="note") if note else None
        return tag("figure", head, tag("div", svg, class_="plot"), foot, class_="chart")


def _apart(series: Sequence[Series]) -> list[Series]:
    """Points that are not joined, beside each other where they share an x."""
    middle = (len(series) - 1) / 2
    return [s if s.joined else replace(s, aside=6.0 * (i - middle)) for i, s in enumerate(series)]


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    top: float
    bottom: float
    x0: float
    x1: float
    y0: float
    y1: float
    log_x: bool = False

    @classmethod
    def around(cls, series: Sequence[Series], fixed: tuple[float, float] | None, log_x: bool) -> _Frame:
        xs = [x for s in series for x in s.x if not log_x or x > 0]
        ys = [v for s in series for part in (s.y, s.low, s.high, s.dots) for v in part if v is not None]
        low, high = fixed or (min(ys), max(ys))
        if fixed is None:
            space = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            from_zero = 0 <= low < 0.4 * high
            low, high = (0.0 if from_zero else low - space), high + space
            if min(v for s in series for part in (s.y, s.dots) for v in part if v is not None) >= 0:
                low = max(low, 0.0)  # an interval may reach below zero, what it is about does not
        widest = max(len(s.label) for s in series) if len(series) > 1 else 0
        right = WIDTH - 10 - (min(widest, 16) * 6.2 + 8 if widest else 0)
        x0, x1 = min(xs), max(xs)
        left = max(LEFT, 6.4 * max(map(len, tick_labels(ticks(low, high)))) + 12)
        return cls(left, right, TOP, HEIGHT - BOTTOM, x0, x1 if x1 > x0 else x0 + 1, low, high, log_x)

    def x(self, value: float) -> float:
        from math import log

        if self.log_x:
            share = (log(max(value, 1e-300)) - log(self.x0)) / (log(self.x1) - log(self.x0))
        else:
            share = (value - self.x0) / (self.x1 - self.x0)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        share = (min(max(value, self.y0), self.y1) - self.y0) / (self.y1 - self.y0)
        return self.bottom - share * (self.bottom - self.top)


def _axes(f: _Frame, series: Sequence[Series], xlabel: str) -> list[Markup]:
    out, marks = [], ticks(f.y0, f.y1)
    for value, text in zip(marks, tick_labels(marks), strict=True):
        y = round(f.y(value), 1)
        out.append(tag("line", x1=f.left, x2=f.right, y1=y, y2=y, class_="zero" if value == 0 else "grid"))
        out.append(tag("text", text, x=f.left - 7, y=y + 4, class_="tick end"))
    at = sorted({x for s in series for x in s.x}) if f.log_x else ticks(f.x0, f.x1)
    at = at if f.log_x else [v for v in at if v == int(v) or f.x1 - f.x0 < 3] or [f.x0, f.x1]
    for value in at:
        text = _place(value, f.x1)
        out.append(tag("text", text, x=round(f.x(value), 1), y=f.bottom + 16, class_="tick mid"))
    out.append(tag("text", xlabel, x=f.right, y=HEIGHT - 4, class_="tick end"))
    return out


def _series(s: Series, f: _Frame) -> Markup:
    parts: list[Markup] = []

    def x(value: float) -> float:
        return f.x(value) + s.aside

    for run in _runs(s.x, s.low, s.high):
        up = [f"{x(at):.1f},{f.y(high):.1f}" for at, _, high in run]
        down = [f"{x(at):.1f},{f.y(low):.1f}" for at, low, _ in reversed(run)]
        if s.markers:
            parts += [
                tag("line", x1=_r(x(at)), x2=_r(x(at)), y1=_r(f.y(a)), y2=_r(f.y(b)), class_="whisker")
                for at, a, b in run
            ]
        if len(run) > 1 and s.joined:
            parts.append(tag("polygon", points=" ".join(up + down), class_="band"))
    parts += [
        tag("circle", cx=_r(x(at)), cy=_r(f.y(v)), r=1.8, class_="dot")
        for at, v in zip(s.x, s.dots, strict=False)
        if v is not None
    ]
    for run in _runs(s.x, s.y, s.y):
        points = " ".join(f"{x(at):.1f},{f.y(v):.1f}" for at, v, _ in run)
        parts += [tag("polyline", points=points, class_=f"curve dash{s.dash}")] if s.joined else []
        if s.markers or len(run) == 1:
            parts += [tag("circle", cx=_r(x(at)), cy=_r(f.y(v)), r=3.6, class_="marker") for at, v, _ in run]
    return tag("g", parts, class_=f"series c{s.color % 8}")


def _labels(series: Sequence[Series], f: _Frame) -> list[Markup]:
    """The name of each line at its right end, moved apart where two would touch."""
    if len(series) < 2:
        return []
    named = [s for s in series if s.labelled and s.label]
    ends = sorted(((f.y(next(v for v in reversed(s.y) if v is not None)), s) for s in named), key=lambda end: end[0])
    at: list[float] = []
    for y, _ in ends:
        at.append(max(y, at[-1] + 13) if at else y)
    over = max(0.0, at[-1] - (f.bottom + 4)) if at else 0.0
    for i in range(len(at) - 1, -1, -1):  # push back up from the bottom
        at[i] = at[i] - over if i == len(at) - 1 else min(at[i], at[i + 1] - 13)
    return [
        tag(
            "text",
            _cut(s.label),
            x=_r(f.right + 7 + max(s.aside for s in series)),
            y=_r(y + 4),
            class_="label" if len(named) < len(series) else f"label c{s.color % 8}",
        )
        for y, (_, s) in zip(at, ends, strict=True)
    ]


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    text: str = ""
    color: int = 0
    quiet: bool = False


def intervals(
    title: str, rows: Sequence[Interval], *, zero: bool = False, fixed: tuple[float, float] | None = None
) -> Markup:
    """Points with intervals, one row each, on one scale; `zero`: with a line at 0, for differences."""
    rows = [r for r in rows if r.value is not None]
    if not rows:
        return Markup()
    values = [v for r in rows for v in (r.value, r.low, r.high) if v is not None] + ([0.0] if zero else [])
    low, high = fixed or (min(values), max(values))
    space = 0.0 if fixed else (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    named = min(max(len(r.label) for r in rows), 26) * 6.7 + 14
    height = 26 * len(rows) + 34
    f = _Frame(named, WIDTH - 14, 8, height - 30, low - space, high + space, 0, 1)
    marks = _fitting(f)
    parts = [
        tag("line", x1=_r(f.x(v)), x2=_r(f.x(v)), y1=f.top, y2=f.bottom, class_="zero" if v == 0 and zero else "grid")
        for v in marks
    ]
    parts += [
        tag("text", text, x=_r(f.x(v)), y=f.bottom + 16, class_="tick mid")
        for v, text in zip(marks, tick_labels(marks), strict=True)
    ]
    for i, r in enumerate(rows):
        y = 8 + 26 * i + 13
        assert r.value is not None
        bar = (
            tag("line", x1=_r(f.x(r.low)), x2=_r(f.x(r.high)), y1=y, y2=y, class_="bar")
            if r.low is not None and r.high is not None
            else None
        )
        point = tag("circle", cx=_r(f.x(r.value)), cy=y, r=4.5, class_="marker")
        state = " quiet" if r.quiet else ""
        parts.append(tag("text", _cut(r.label, 26), x=0, y=y + 4, class_="rowlabel"))
        parts.append(tag("g", bar, point, class_=f"series interval c{r.color % 8}{state}"))
    words = f"{title}. " + ". ".join(
        f"{r.label}: {number(r.value)}"
        + (f", interval {number(r.low)} to {number(r.high)}" if r.low is not None and r.high is not None else "")
        for r in rows
    )
    svg = tag(
        "svg", tag("title", title), tag("desc", words), parts,
        viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=words,
    )  # fmt: skip
    return tag("figure", tag("figcaption", tag("b", title)), tag("div", svg, class_="plot"), class_="chart")


def _runs(x: Sequence[float], low: Values, high: Values) -> list[list[tuple[float, float, float]]]:
    """The stretches without a gap."""
    out: list[list[tuple[float, float, float]]] = [[]]
    for at, a, b in zip(x, low, high, strict=False):
        if a is None or b is None:
            out.append([])
        else:
            out[-1].append((at, a, b))
    return [run for run in out if run]


def _in_words(s: Series, xlabel: str) -> str:
    known = [(x, v) for x, v in zip(s.x, s.y, strict=False) if v is not None]
    (x0, first), (x1, last) = known[0], known[-1]
    label = f"{s.label}: " if s.label else ""
    return f"{label}{number(first)} at {xlabel} {x0:g}, {number(last)} at {xlabel} {x1:g}"


def _short(values: Values) -> list[float | None]:
    return [None if v is None else float(f"{v:.4g}") for v in values]


def _fitting(f: _Frame) -> list[float]:
    """Marks of a horizontal axis, so few that their labels do not touch."""
    for most in range(6, 1, -1):
        marks = ticks(f.x0, f.x1, most)
        if len(marks) * (6.4 * max(map(len, tick_labels(marks))) + 12) <= f.right - f.left:
            return marks
    return ticks(f.x0, f.x1, 1)


def _place(value: float, largest: float) -> str:
    """A mark of the x axis: 30, 120 k, 1.5 M, 4e-4."""
    if largest >= 1e4:
        scale, unit = (1e6, " M") if largest >= 1e6 else (1e3, " k")
        return f"{value / scale:g}{unit}" if value else "0"
    return f"{value:g}" if value >= 0.01 or value <= 0 else scientific(value, 2)


def _cut(text: str, limit: int = 16) -> str:
    """Cut in the middle: what tells two runs apart is often the number at the end."""
    tail = limit // 2
    return text if len(text) <= limit else text[: limit - 1 - tail] + "…" + text[-tail:]


def _r(value: float) -> float:
    return round(value, 1)
