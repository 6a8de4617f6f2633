"""What a handful of seeds allows to say: intervals, paired comparisons, and a correction for how many were made.

An effect is called shown only if its interval excludes zero, where the interval is the wider of two: scipy's bootstrap (BCa), which
assumes no shape but is too narrow for few seeds, and Student's t, which is honest about few seeds but assumes a shape.
The level is Holm's: the more comparisons, the wider the intervals.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rung.errors import InputError

ALPHA = 0.05
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], level: float = 1 - ALPHA) -> Interval:
    """Mean over seeds, and its BCa bootstrap interval (Efron 1987), percentile where BCa is undefined.

    One value has no interval: low and high are NaN. Values that are all the same have an interval of width zero.
    """
    x = np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    if len(x) == 0:
        return Interval(math.nan, math.nan, math.nan)
    if len(x) == 1:
        return Interval(float(x[0]), math.nan, math.nan)
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]))
    low = high = math.nan
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (x,),
                np.mean,
                confidence_level=level,
                n_resamples=RESAMPLES,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        low, high = float(found.low), float(found.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Interval(float(x.mean()), low, high)


def student(values: Sequence[float], level: float = 1 - ALPHA) -> Interval:
    """mean -+ t_{n-1} s / sqrt(n)   (Student 1908)."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Interval(float(x.mean()), math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def p_value(differences: Sequence[float]) -> float:
    """Two-sided paired t-test that the mean difference is zero; 1 where all are zero, 0 where all are the same."""
    x = np.asarray(differences, dtype=float)
    if np.ptp(x) == 0:
        return float(x[0] == 0)
    return float(stats.ttest_1samp(x, 0.0).pvalue)


@dataclass(frozen=True)
class Effect:
    """Child against parent, paired over seeds. p is Holm's; `shown`: the corrected interval excludes zero."""

    effect: float
    low: float
    high: float
    p: float
    n: int

    @property
    def shown(self) -> bool:
        return self.low > 0 or self.high < 0


def effects(differences: Sequence[Sequence[float]], alpha: float = ALPHA) -> list[Effect]:
    """One effect per row of paired differences, corrected by Holm (1979) for their number.

    Sorted by p, the k-th of m comparisons is held to alpha / (m - k + 1); from the first that fails on, all are held
    to that one's level, so that an interval excludes zero only where Holm's procedure rejects.

    Raises:
        InputError: fewer than two seeds.
    """
    for row in differences:
        if len(row) < 2:
            raise InputError(
                f"{len(row)} seed is too few for a comparison. Use at least 2; 5 or more show smaller effects."
            )
    raw = [p_value(row) for row in differences]
    order = sorted(range(len(raw)), key=raw.__getitem__)
    out: dict[int, Effect] = {}
    stopped: float | None = None
    largest = 0.0
    for k, i in enumerate(order):
        level = alpha / (len(raw) - k) if stopped is None else stopped
        if stopped is None and raw[i] > level:
            stopped = level
        largest = max(largest, min(1.0, raw[i] * (len(raw) - k)))
        boot, t = bootstrap(differences[i], 1 - level), student(differences[i], 1 - level)
        low, high = min(boot.low, t.low), max(boot.high, t.high)
        out[i] = Effect(t.mean, low, high, largest, len(differences[i]))
    return [out[i] for i in range(len(raw))]


def area(x: Sequence[float], y: Sequence[float], end: float) -> float:
    """Mean height of the curve from 0 to `end`, by trapezoids; beyond its last point it stays level."""
    xs, ys = [*x, max(end, x[-1])], [*y, y[-1]]
    grid = np.union1d([v for v in xs if v <= end], [0.0, end])
    return float(np.trapezoid(np.interp(grid, xs, ys), grid) / end)


def reaches(x: Sequence[float], y: Sequence[float], target: float) -> float | None:
    """Where the curve first reaches `target`, on the straight line between two points; None if it never does."""
    if y[0] >= target:
        return float(x[0])
    for i in range(1, len(y)):
        if y[i] >= target:
            share = (target - y[i - 1]) / (y[i] - y[i - 1])
            return float(x[i - 1] + share * (x[i] - x[i - 1]))
    return None
