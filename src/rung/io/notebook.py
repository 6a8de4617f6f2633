"""A run in a notebook: a small table and one curve as HTML, with nothing to load and the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rung.io.terminal import clean, figure

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 190, 52, 12, 12, 26
CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;white-space:pre-wrap"
TRAINING, HELD_OUT = "#7a869a", "#2f6feb"


@dataclass(frozen=True)
class Point:
    """One evaluation. low, high: its 95 % interval; None where there is none."""

    step: float
    mean: float
    low: float | None = None
    high: float | None = None


def page(title: str, rows: Sequence[tuple[str, str]], drawing: str = "") -> str:
    """A title, a row for each name with its value, and the drawing below."""
    return f"<div><b>{_text(title)}</b>{table((), rows)}{drawing}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of text, with names above them if there are any."""
    lines = [_row("th", head)] if head else []
    lines += [_row("td", row) for row in rows]
    return f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">{"".join(lines)}</table>'


def _row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<{kind} style="{CELL}">{_text(x)}</{kind}>' for x in cells) + "</tr>"


def curve(training: Sequence[tuple[float, float]], held_out: Sequence[Point], name: str) -> str:
    """The training reward as a line and the evaluations, called `name`, as dots with intervals; "" without a number."""
    training = [(x, y) for x, y in training if math.isfinite(y)]
    held_out = [p for p in held_out if math.isfinite(p.mean)]
    ys = [y for _, y in training] + [y for p in held_out for y in (p.mean, p.low, p.high) if y is not None]
    if not ys:
        return ""
    last = max([x for x, _ in training] + [p.step for p in held_out] + [1.0])
    low, high = min(ys), max(ys)
    span = high - low or max(abs(high), 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        right, floor = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + right * x / last, 1), round(TOP + floor * (1 - (y - low) / span), 1)

    line = " ".join("{},{}".format(*at(x, y)) for x, y in training)
    parts = [f'<polyline points="{line}" fill="none" stroke="{TRAINING}" stroke-width="1.3"/>' if training else ""]
    parts += [_dot(p, at) for p in held_out]
    axis = 'fill="currentColor" font-size="11" opacity="0.75"'
    for y in (low, high):
        parts.append(f'<text x="{LEFT - 6}" y="{at(0, y)[1] + 4}" text-anchor="end" {axis}>{figure(y)}</text>')
    for x, anchor in ((0.0, "start"), (last, "end")):
        parts.append(f'<text x="{at(x, low)[0]}" y="{HEIGHT - 8}" text-anchor="{anchor}" {axis}>step {x:.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle" font-size="11">{_legend(name)}</text>')
    words = escape(f"training reward and {name} by step, from {figure(low)} to {figure(high)}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{words}" '
        f'style="max-width:100%">{"".join(parts)}</svg>'
    )


def _dot(p: Point, at: object) -> str:
    assert callable(at)
    x, y = at(p.step, p.mean)
    bar = ""
    if p.low is not None and p.high is not None:
        bar = f'<line x1="{x}" x2="{x}" y1="{at(p.step, p.low)[1]}" y2="{at(p.step, p.high)[1]}" stroke="{HELD_OUT}"/>'
    return f'{bar}<circle cx="{x}" cy="{y}" r="3.5" fill="{HELD_OUT}"/>'


def _legend(name: str) -> str:
    return f'<tspan fill="{TRAINING}">training reward</tspan><tspan fill="{HELD_OUT}" dx="14">held-out {escape(name)}</tspan>'


def _text(value: str) -> str:
    """Model output is untrusted: it is text here, whatever it holds."""
    return escape(clean(value, lines=True))
