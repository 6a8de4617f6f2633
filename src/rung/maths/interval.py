"""What answers to n problems allow to say about a mean: intervals over problems, and the change between two evaluations.

A reward of two values, 0 and 1, is right or wrong: its mean is an accuracy, with an interval that never leaves [0, 1]. Any
other reward has a mean on its own scale, with an interval on that scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
Z = 1.959964


def is_binary(rewards: Iterable[float]) -> bool:
    """Whether all of them are 0 or 1; what is no number (not scored) says nothing."""
    return all(r in (0.0, 1.0) for r in rewards if math.isfinite(r))


def wilson(p: float, n: int, z: float = Z) -> tuple[float, float]:
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)   (Wilson 1927): never leaves [0, 1], never empty."""
    if n == 0:
        return 0.0, 1.0
    center, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (center - spread) / (1 + z * z / n), (center + spread) / (1 + z * z / n)


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean, by drawing problems with replacement (Efron 1979). values: one a problem.

    NaN where there is nothing to draw from: fewer than two problems, or all the same.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0:
        return math.nan, math.nan
    low, high = np.quantile(_resampled(x, np.random.default_rng(seed)), [0.025, 0.975])
    return float(low), float(high)


def _resampled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of RESAMPLES draws, a few at a time so that large sets need little memory."""
    rows = max(1, min(RESAMPLES, 4_000_000 // len(x)))
    blocks = [x[rng.integers(len(x), size=(rows, len(x)))].mean(1) for _ in range(-(-RESAMPLES // rows))]
    return np.concatenate(blocks)[:RESAMPLES]


def problem_means(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """{problem: mean of its answers that were scored}, in their order; a problem without one is left out.

    Answers to one problem are no independent trials, so they count as one observation, their mean.
    """
    found: dict[str, list[float]] = {}
    for problem, score in scores:
        if math.isfinite(score):
            found.setdefault(problem, []).append(score)
    return {problem: sum(values) / len(values) for problem, values in found.items()}


@dataclass(frozen=True)
class Change:
    """The mean difference between two evaluations over the n problems that both have scored; NaN: no interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def words(self) -> str:
        """What the interval allows to say, and no more."""
        if math.isnan(self.low):
            return "the same on every problem" if self.mean == 0 else "the same difference on every problem"
        if self.low > 0:
            return "better"
        if self.high < 0:
            return "WORSE"
        return "the interval holds 0, so this alone does not show a change"


def change(before: Mapping[str, float], after: Mapping[str, float], binary: bool) -> Change | None:
    """mean (after - before) over the same problems, with a bootstrap interval over them; None without such problems.

    Where every problem changed alike there is nothing to draw from. Of right and wrong the interval then says how many
    other problems Wilson's allows to differ; another reward gets none.
    """
    d = [after[problem] - value for problem, value in before.items() if problem in after]
    if not d:
        return None
    mean, (low, high) = sum(d) / len(d), bootstrap(d)
    if binary and math.isnan(low):
        other = wilson(0.0, len(d))[1]
        low, high = mean - (1 + mean) * other, mean + (1 - mean) * other
    return Change(mean, low, high, len(d))
