"""What k answers to each of n problems show: pass@k, maj@k, intervals over problems, and paired tests of two models."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rung.statistics import change, over_problems, wilson

POWERED = 1.959964 + 0.841621  # z of a two-sided test at 5 % plus z of 80 % power


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that one of k answers, drawn from n of which c are right, is right.

    Chen et al. 2021 (arXiv 2107.03374), eq. 1: unbiased, which 1 - (1 - c/n)^k is not. Needs 1 <= k <= n.
    """
    assert 1 <= k <= n and 0 <= c <= n
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers: Sequence[str | None], right: Sequence[float]) -> float:
    """Whether the answer that most samples gave is right; the mean over the answers that share the first place.

    Votes are extracted answers, equal as text; None does not vote. 0 if nobody votes.
    """
    votes: dict[str, list[float]] = defaultdict(list)
    for answer, value in zip(answers, right, strict=True):
        if answer is not None:
            votes[answer].append(value)
    most = max(map(len, votes.values()), default=0)
    first = [sum(values) / len(values) for values in votes.values() if len(values) == most]
    return sum(first) / len(first) if first else 0.0


def share(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of right (1) and wrong (0), or of shares of them, over problems.

    Where all problems agree there is nothing to draw from: then it is Wilson's.
    """
    if not len(values):
        return math.nan, math.nan
    low, high = over_problems(values, seed)
    if not math.isnan(low):
        return low, high
    low, high = wilson(values[0], len(values))
    return max(low, 0.0), min(high, 1.0)  # rounding


@dataclass(frozen=True)
class Paired:
    """The difference of two models on the same problems, first minus second."""

    difference: float
    low: float
    high: float
    p: float  # of the test that the interval inverts: it holds 0 exactly where p > 0.05
    test: str
    n: int  # problems that both have a reward for
    visible: float  # the smallest difference that this comparison shows with 80 % power
    problems_needed: int | None  # to show the difference that was seen; None if it was none


def paired(first: Mapping[str, float], second: Mapping[str, float], binary: bool) -> Paired | None:
    """Paired interval and test over the problems that both have a mean reward for; None if there are none.

    binary: rewards are 0 or 1. Then where every problem differs alike, Wilson's interval says how many others might not.
    """
    found = change(second, first, binary)
    if found is None:
        return None
    d = [value - second[problem] for problem, value in first.items() if problem in second]
    spread = _spread(d, binary)
    needed = math.ceil((POWERED * spread / found.mean) ** 2) if found.mean and spread == spread else None
    visible = POWERED * spread / math.sqrt(len(d))
    return Paired(found.mean, found.low, found.high, found.p, found.test, len(d), visible, needed)


def visible_difference(values: Sequence[float]) -> float:
    """Of accuracies: (z_.975 + z_.80) sqrt(2 s^2 / n): the smallest difference of two models that n problems show with 80 % power.

    s^2: variance over problems of one model's means (so more samples a problem make it smaller), the second model taken
    as alike and independent. On the same problems the paired comparison usually does better.
    """
    return POWERED * _spread(values, True) * math.sqrt(2 / len(values)) if values else math.nan


def _spread(values: Sequence[float], binary: bool) -> float:
    """Standard deviation; of right and wrong never that of agreement by luck: as if one more problem had gone the other way."""
    x = np.asarray(values, dtype=float)
    if len(x) > 1 and np.ptp(x) > 0:
        return float(x.std(ddof=1))
    return math.sqrt(1 / (len(x) + 1) * (1 - 1 / (len(x) + 1))) if binary else math.nan


def with_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high)."""
    return (sum(values) / len(values) if values else math.nan, *share(values, seed))
