"""Intervals and tests: what a few numbers allow to say. Three kinds of numbers are met, and each has its own way.

problems  Many, whose answers are right or wrong, or earn a reward. Rewards of two values, 0 and 1, have an accuracy as their
          mean, with an interval that never leaves [0, 1]; others a mean on their own scale. Models are compared by the problem.
seeds     A handful. An effect is shown only if its interval excludes zero, where the interval is the wider of two: scipy's
          bootstrap (BCa), which assumes no shape but is too narrow for few seeds, and Student's t, which is honest about few
          seeds but assumes a shape. The level is Holm's: the more comparisons, the wider the intervals.
batches   Gradients of one policy: any statistic of them, by drawing batches with replacement.

scipy is imported where it is needed: a run without seeds to compare does not wait for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rung.errors import InputError

ALPHA = 0.05
Z = 1.959964
RESAMPLES = 10_000  # of problems
EXACT = 13  # problems whose signs are all tried: 8,192 ways


@dataclass(frozen=True)
class Interval:
    """A mean with its interval."""

    mean: float
    low: float
    high: float


# -- problems ------------------------------------------------------------------------------------------------------------
def is_binary(rewards: Iterable[float]) -> bool:
    """Whether all of them are 0 or 1; what is no number (not scored) says nothing."""
    return all(r in (0.0, 1.0) for r in rewards if math.isfinite(r))


def wilson(p: float, n: int, z: float = Z) -> tuple[float, float]:
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)   (Wilson 1927): never leaves [0, 1], never empty."""
    if n == 0:
        return 0.0, 1.0
    center, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (center - spread) / (1 + z * z / n), (center + spread) / (1 + z * z / n)


def over_problems(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
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


FEWEST = (
    6  # problems: of 2^n sign flips, 2 are as far out as differences that all have one sign; 2 / 2^5 is above ALPHA
)


@dataclass(frozen=True)
class Change:
    """The mean difference between two evaluations over the n problems that both have scored; NaN: no interval.

    p: of the test whose interval [low, high] is, so that the interval holds 0 exactly where p is above 0.05.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan
    test: str = "sign flips"

    @property
    def words(self) -> str:
        """What the test allows to say, and no more."""
        if math.isnan(self.low):
            if self.n == 1 and self.mean:
                return "one problem alone does not show a change"
            return "the same on every problem" if self.mean == 0 else "the same difference on every problem"
        if self.low > 0:
            return "better"
        if self.high < 0:
            return "WORSE"
        return "the interval holds 0, so this alone does not show a change"


def change(before: Mapping[str, float], after: Mapping[str, float], binary: bool) -> Change | None:
    """mean (after - before) over the same problems, with the interval and the p-value of one test; None without any.

    Where every problem changed alike there is nothing to flip. Of right and wrong the interval then says how many
    other problems Wilson's allows to differ; another reward gets none.
    """
    first = [value for problem, value in before.items() if problem in after]
    second = [after[problem] for problem in before if problem in after]
    d = [b - a for a, b in zip(first, second, strict=True)]
    if not d:
        return None
    mean, verdicts = sum(d) / len(d), is_binary([*first, *second])
    exact = mcnemar(sum(x > 0 for x in d), sum(x < 0 for x in d)) if verdicts else None
    low, high, p = sign_flips(d, exact)
    if len(set(d)) == 1:
        other = wilson(0.0, len(d))[1] if binary else math.nan
        low, high = mean - (1 + mean) * other, mean + (1 - mean) * other
        low, high = (min(low, 0.0), max(high, 0.0)) if p > ALPHA else (low, high)
    low, high = (max(low, -1.0), min(high, 1.0)) if binary else (low, high)
    return Change(mean, low, high, len(d), p, "exact McNemar" if verdicts else "sign flips")


def mcnemar(better: int, worse: int) -> float:
    """min(1, 2 P[Binomial(b + w, 1/2) <= min(b, w)]): exact two-sided p-value (McNemar 1947) of two models' verdicts.

    better, worse: problems that only the one, or only the other model solved. It is what all 2^n sign flips of their
    differences give.
    """
    n = better + worse
    tail = sum(math.comb(n, i) for i in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**n))


def sign_flips(d: Sequence[float], exact: float | None = None) -> tuple[float, float, float]:
    """p(m) = P_s[ |mean s (d - m)| >= |mean (d - m)| ], signs s by chance (Fisher 1935): ends of {m: p(m) > 0.05}, and p(0).

    That holds for s exactly if m lies between the mean of the problems that keep their sign and the mean of the others
    (|x - y| >= |x + y| where x y <= 0), so the set is read off from those means (Hartigan 1969), with no search. Up to
    EXACT problems all signs are tried, else RESAMPLES drawn. The set is without end where p(m) cannot fall so low.

    exact: p(0) where it is known without draws; then it says whether 0 is in the set.
    """
    lows, highs, own = _halves(d)
    k = math.floor(ALPHA * (own + len(lows))) - own  # so many may lie beyond an end
    low, high = (-math.inf, math.inf) if k < 0 else (float(lows[k]), float(np.sort(highs)[::-1][k]))
    if exact is None:
        return low, high, float((own + ((lows <= 0) & (highs >= 0)).sum()) / (own + len(lows)))
    if exact > ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    elif low <= 0 <= high:  # the next end that the draws have
        low, high = (float(lows[lows > 0].min()), high) if sum(d) > 0 else (low, float(highs[highs < 0].max()))
    return low, high, exact


def _halves(d: Sequence[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """Of each vector of signs the smaller of the two means, sorted, and the larger; and how many more hold everything.

    The vector without a flip has only one mean, and holds every m; among draws it is counted besides.
    """
    x = np.asarray(d, dtype=float)
    n, rng = len(x), np.random.default_rng(seed)
    rows = max(1, min(RESAMPLES, 4_000_000 // n))
    if n <= EXACT:
        blocks = [(np.arange(2**n)[:, None] >> np.arange(n)) & 1]
    else:
        blocks = [rng.integers(0, 2, size=(rows, n), dtype=np.int8) for _ in range(-(-RESAMPLES // rows))]
    kept, total = [np.stack([block.sum(1), block @ x], 1) for block in blocks], float(x.sum())
    size, part = np.concatenate(kept)[: 2**n if n <= EXACT else RESAMPLES].T
    whole = (size == 0) | (size == n)
    one, other = part / np.maximum(size, 1), (total - part) / np.maximum(n - size, 1)
    tiny = 1e-12 * max(float(np.abs(x).max()), 1e-300)  # a rest of rounding is 0
    one, other = (np.where(np.abs(m) < tiny, 0.0, m) for m in (one, other))
    lows = np.where(whole, -math.inf, np.minimum(one, other))
    highs = np.where(whole, math.inf, np.maximum(one, other))
    order = np.argsort(lows, kind="stable")
    return lows[order], highs[order], 0 if n <= EXACT else 1


# -- seeds ---------------------------------------------------------------------------------------------------------------
def over_seeds(values: Sequence[float], level: float = 1 - ALPHA) -> Interval:
    """Mean over seeds, and its BCa bootstrap interval (Efron 1987), percentile where BCa is undefined.

    One value has no interval: low and high are NaN. Values that are all the same have an interval of width zero.
    """
    from scipy import stats

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
                n_resamples=2000,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        low, high = float(found.low), float(found.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Interval(float(x.mean()), low, high)


def t_quantile(level: float, df: int) -> float:
    """How many standard errors an interval of Student's t reaches to each side."""
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, df))


def student(values: Sequence[float], level: float = 1 - ALPHA) -> Interval:
    """mean -+ t_{n-1} s / sqrt(n)   (Student 1908)."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Interval(float(x.mean()), math.nan, math.nan)
    half = t_quantile(level, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def p_value(differences: Sequence[float]) -> float:
    """Two-sided paired t-test that the mean difference is zero; 1 where all are zero, 0 where all are the same."""
    x = np.asarray(differences, dtype=float)
    if np.ptp(x) == 0:
        return float(x[0] == 0)
    from scipy import stats

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
        boot, t = over_seeds(differences[i], 1 - level), student(differences[i], 1 - level)
        low, high = min(boot.low, t.low), max(boot.high, t.high)
        out[i] = Effect(t.mean, low, high, largest, len(differences[i]))
    return [out[i] for i in range(len(raw))]


# -- batches -------------------------------------------------------------------------------------------------------------
def over_batches(statistic: Callable[[np.ndarray], float], K: int, level: float) -> Interval:
    """The statistic over all batches, and its percentile interval over batches drawn with replacement."""
    every = np.arange(K)

    def of(index: np.ndarray) -> float:
        drawn = np.asarray(index, dtype=int)
        return statistic(drawn if np.ptp(drawn) else every)  # one batch K times says nothing; only few batches do that

    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (every,), of, vectorized=False, confidence_level=level, n_resamples=999, method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    return Interval(of(every), float(found.low), float(found.high))
