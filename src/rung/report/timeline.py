"""When the answers of a few steps were drawn and when they were learned from: bars side by side where both go on at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.report.charts import WIDTH
from rung.report.markup import Child, Markup, number, tag
from rung.report.numbers import tick_labels, ticks

SHOWN = 8  # steps, the last ones
ROW, TOP, LEFT, BOTTOM = 22, 6, 62, 34
TIMES = tuple(f"cluster/{name}" for name in ("sample_start", "sample_end", "update_start", "update_end"))


@dataclass(frozen=True)
class Worked:
    """A step, and when it was drawn and learned from: seconds since its process began."""

    step: int
    drawing: float
    drawn: float
    learning: float
    learned: float


def worked(train: dict[str, Any]) -> list[Worked]:
    """The steps that a run tells the times of, since it last went on: each process counts from its own beginning."""
    if not all(name in train for name in TIMES):
        return []
    out = list[Worked]()
    for step, *times in zip(train["step"], *(train[name] for name in TIMES), strict=True):
        if any(at is None for at in times):
            continue
        one = Worked(int(step), *times)
        if out and one.learned < out[-1].learned:
            out = []
        out.append(one)
    return out


def overlap(steps: Sequence[Worked]) -> float:
    """The share of the time of learning in which answers were being drawn too: sum |learned & drawn| / sum |learned|."""
    drawn = _joined(sorted((s.drawing, s.drawn) for s in steps))
    both = sum(max(0.0, min(s.learned, end) - max(s.learning, start)) for s in steps for start, end in drawn)
    return both / max(sum(s.learned - s.learning for s in steps), 1e-12)


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that touch as one: answers in pieces are of several steps at once."""
    out = list[tuple[float, float]]()
    for start, end in spans:
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def timeline(run: dict[str, Any], name: str = "") -> Markup:
    """One figure, with the run's name where there are several; nothing of a run without these times: it takes turns."""
    every = worked(run["train"])
    steps = every[-SHOWN:]
    if not steps:
        return Markup()
    zero = min(s.drawing for s in steps)
    last = max(s.learned for s in steps)
    bottom = TOP + ROW * len(steps)

    def x(at: float) -> float:
        return round(LEFT + (WIDTH - 12 - LEFT) * (at - zero) / (last - zero or 1.0), 1)

    parts: list[Child] = []
    marks = ticks(0.0, last - zero)
    for value, text in zip(marks, tick_labels(marks), strict=True):
        parts.append(tag("line", x1=x(zero + value), x2=x(zero + value), y1=TOP, y2=bottom, class_="grid"))
        parts.append(tag("text", text, x=x(zero + value), y=bottom + 16, class_="tick mid"))
    for i, s in enumerate(steps):
        y = TOP + ROW * i
        parts.append(tag("text", f"step {s.step}", x=0, y=y + 15, class_="rowlabel"))
        for color, start, end, top in ((0, s.drawing, s.drawn, y + 3), (1, s.learning, s.learned, y + 11)):
            bar = tag(
                "rect", x=x(start), y=top, width=max(round(x(end) - x(start), 1), 1), height=7, rx=2, class_="span"
            )
            parts.append(tag("g", bar, class_=f"series c{color}"))
    parts.append(tag("text", "seconds", x=WIDTH - 12, y=bottom + 30, class_="tick end"))
    share = overlap(every)
    words = "Drawn and learned. " + ". ".join(
        f"Step {s.step}: drawn from {number(s.drawing - zero)} to {number(s.drawn - zero)} s, learned from "
        f"{number(s.learning - zero)} to {number(s.learned - zero)} s"
        for s in steps
    )
    svg = tag(
        "svg", tag("title", "Drawn and learned"), tag("desc", words + "."), parts,
        viewBox=f"0 0 {WIDTH} {bottom + BOTTOM}", role="img", aria_label=words + ".",
    )  # fmt: skip
    key = tag(
        "ul",
        [tag("li", tag("i", class_=f"swatch c{color}"), text) for color, text in enumerate(("drawn", "learned from"))],
        class_="key", aria_label="colours",
    )  # fmt: skip
    note = f"The last {len(steps)} steps. While learners learned, answers were being drawn for {share:.0%} of the time."
    head = tag("figcaption", tag("b", "When steps are drawn and learned from", f", {name}" if name else None))
    return tag("figure", head, key, tag("div", svg, class_="plot"), tag("p", note, class_="note"), class_="chart")
