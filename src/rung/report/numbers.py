"""Curves for people: a running mean with its interval, and long curves made short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

from rung.report.markup import scientific
from rung.statistics import t_quantile

DENSE = 12  # fewer points than this are no curve
POINTS = 200  # more than this many points are averaged in bins: more than a chart can show


def dense(n: int) -> bool:
    """Whether a line through n points claims no more than they show."""
    return n >= DENSE


def window(n: int) -> int:
    """Steps in a running mean: a twelfth of the run, odd, at least 5; 1 (none) for fewer than 12 points."""
    return 1 if not dense(n) else max(5, n // 12) | 1


def running(y: Sequence[float | None], width: int) -> tuple[list[float | None], list[float | None], list[float | None]]:
    """Mean over `width` steps around each step, and a 95 % interval of that mean from the spread between the steps.

    At the ends the window is cut, not the curve. The spread includes the trend inside the window, so the interval is
    rather too wide than too narrow where the curve is steep. Missing values are skipped.
    """
    half, mean, low, high = width // 2, list[float | None](), list[float | None](), list[float | None]()
    for i in range(len(y)):
        near = [v for v in y[max(0, i - half) : i + half + 1] if v is not None]
        m = fmean(near) if near else None
        error = (
            t_quantile(0.95, len(near) - 1) * stdev(near) / math.sqrt(len(near))
            if len(near) > 2 and width > 1
            else None
        )
        mean.append(m)
        low.append(m - error if m is not None and error is not None else None)
        high.append(m + error if m is not None and error is not None else None)
    return mean, low, high


def thin(x: Sequence[float], y: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """At most POINTS points: means of equal bins."""
    if len(x) <= POINTS:
        return list(x), list(y)
    edges = [i * len(x) // POINTS for i in range(POINTS + 1)]
    bins = list(pairwise(edges))
    values = [[v for v in y[a:b] if v is not None] for a, b in bins]
    return [fmean(x[a:b]) for a, b in bins], [fmean(v) if v else None for v in values]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `count` of them: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= count + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) + 0.0 for i in range(int((high - first * step) / step + 1e-9) + 1)]


def tick_labels(marks: Sequence[float]) -> list[str]:
    """The marks of an axis with as many digits as tell them apart: 0.25, 1,200, 1.2e-6."""
    step = min((b - a for a, b in pairwise(marks)), default=abs(marks[0]) if marks else 1.0) or 1.0
    power, size = math.floor(math.log10(step) + 1e-9), max((abs(v) for v in marks), default=1.0)
    if power < -4 and size < 1e-3:
        digits = max(0, math.floor(math.log10(size) + 1e-9) - power)
        texts = [scientific(v, digits) if v else "0" for v in marks]
    else:
        texts = [f"{v:,.{min(12, max(0, -power))}f}" for v in marks]
    return [text.replace("-", "−", 1) if text.startswith("-") else text for text in texts]
