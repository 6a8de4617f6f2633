"""pass@k, maj@k, intervals and paired tests: enumeration, the numbers of the books, and coverage."""

import itertools
import math

import numpy as np
import pytest

from rung.evaluation.scores import majority, paired, pass_at_k, share, visible_difference
from rung.statistics import EXACT, change, mcnemar, sign_flips
from rung.statistics import over_problems as resampled


def by_problem(values: list[float]) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (5, 0), (5, 2), (6, 6), (7, 1)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n: int, c: int) -> None:
    right = [i < c for i in range(n)]
    for k in range(1, n + 1):
        draws = list(itertools.combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not() -> None:
    p, n, k = 0.3, 6, 4
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(chance)) == pytest.approx(truth)
    assert abs(sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chance)) - truth) > 0.03


@pytest.mark.parametrize(
    ("answers", "right", "value"),
    [
        (["9", "9", "8"], [1, 1, 0], 1.0),
        (["8", "9", "8"], [0, 1, 0], 0.0),
        (["8", "9"], [0, 1], 0.5),  # a tie is decided by chance
        ([None, None, "9"], [0, 0, 1], 1.0),  # no answer is no vote
        ([None, None], [0, 0], 0.0),
        (["9", "8", "7", "9", "8"], [1, 0, 0, 1, 0], 0.5),
    ],
)
def test_majority(answers: list[str | None], right: list[float], value: float) -> None:
    assert majority(answers, right) == value


def test_the_bootstrap_is_the_normal_interval_for_many_problems() -> None:
    x = [0.0] * 300 + [1.0] * 100
    low, high = share(x)
    error = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - error, 0.25 + error), abs=0.005)
    assert share(x) == (low, high), "the same seed, the same interval"


def test_problems_that_all_agree_do_not_give_an_empty_interval() -> None:
    low, high = share([1.0] * 20)
    assert high == 1.0 and low == pytest.approx(0.839, abs=0.001)  # Wilson
    assert all(map(math.isnan, share([])))


def test_the_bootstrap_covers() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(120):
        low, high = share(rng.beta(2, 3, size=60))
        hits += low <= 0.4 <= high
    assert hits >= 106  # P[Binomial(120, .95) < 106] = .002; an 80 % interval would hit about 96 times


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (8, 2, 112 / 1024)])
def test_mcnemar(better: int, worse: int, p: float) -> None:
    assert mcnemar(better, worse) == pytest.approx(p) == mcnemar(worse, better)


def p_of(d: list[float]) -> float:
    """By the definition: all 2^n signs."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(d))))
    return float((abs(signs @ d) >= abs(sum(d)) - 1e-9).mean())


D = [0.5, 0.25, -0.25, 0.75, 0.0, 0.5, 0.125, -0.5, 1.0]


def test_sign_flips_agree_with_enumeration() -> None:
    assert sign_flips(D)[2] == pytest.approx(p_of(D)) and sign_flips([0.0] * 8)[2] == 1.0
    assert sign_flips([*D, *[0.0] * 5])[2] == pytest.approx(p_of(D), abs=0.015), "drawn; zeros say nothing"


@pytest.mark.parametrize("drawn", [False, True])
def test_the_interval_is_the_values_that_the_test_does_not_refuse(drawn: bool) -> None:
    d = [*D, *([0.25, 0.0, 0.5, -0.125, 0.75] if drawn else [])]
    assert drawn == (len(d) > EXACT)
    low, high, _ = sign_flips(d)
    for end, way in ((low, -1), (high, 1)):
        at, beyond = (p_of([x - m for x in d]) for m in (end - way * 0.05, end + way * 0.05))
        assert beyond <= 0.06 and at > 0.045, "the p-value passes 0.05 at the end"
        if not drawn:
            near, past = (p_of([x - m for x in d]) for m in (end - way * 1e-6, end + way * 1e-6))
            assert past <= 0.05 < near


def test_interval_p_and_words_never_contradict_each_other() -> None:
    rng, shown, hidden = np.random.default_rng(1), 0, 0
    for trial in range(300):
        n, samples = int(rng.integers(2, 40)), (1, 1, 4)[trial % 3]
        a, b = (by_problem((rng.binomial(samples, p, n) / samples).tolist()) for p in (0.3, 0.6))
        found = change(a, b, True)
        assert found is not None and -1 <= found.low <= found.mean <= found.high <= 1
        assert (found.p > 0.05) == (found.low <= 0 <= found.high) == (found.words not in ("better", "WORSE")), (a, b)
        low, _ = resampled([b[k] - a[k] for k in a])
        shown, hidden = shown + (found.p <= 0.05), hidden + (low > 0 and found.p > 0.05)
    assert shown > 60 and hidden > 10, (
        "both happen; in the second the bootstrap and the p-value would contradict each other"
    )


@pytest.mark.parametrize("way", [1, -1])
def test_an_exact_p_decides_over_draws_whether_0_is_in_the_interval(way: int) -> None:
    for better, worse in ((12, 3), (11, 3)):  # p = .035 and .057
        d = [way * 1.0] * better + [-way * 1.0] * worse
        for exact, held in ((0.0501, True), (0.0499, False)):
            low, high, p = sign_flips(d, exact)
            assert p == exact and (low <= 0 <= high) == held and low < sum(d) / len(d) < high


def test_five_problems_for_the_better_show_nothing_yet() -> None:
    gained = change(by_problem([0.0] * 16), by_problem([1.0] * 5 + [0.0] * 11), True)
    assert gained.p == 2 / 32 and gained.low == 0.0 and "does not show" in gained.words
    more = change(by_problem([0.0] * 16), by_problem([1.0] * 6 + [0.0] * 10), True)
    assert more.p == 2 / 64 and more.low > 0 and more.words == "better"
    graded = change(by_problem([0.0] * 5), by_problem([1.0, 2.0, 3.0, 4.0, 5.0]), False)
    assert graded.high == math.inf and "does not show" in graded.words, "no five differences have a p below 0.06"


def test_the_interval_of_few_skewed_differences_covers_and_the_bootstrap_does_not() -> None:
    rng, ours, theirs = np.random.default_rng(5), 0, 0
    for _ in range(300):
        d = rng.exponential(1.0, 8).tolist()
        for low, high, which in ((*sign_flips(d)[:2], 0), (*resampled(d), 1)):
            ours, theirs = ours + (which == 0) * (low <= 1 <= high), theirs + (which == 1) * (low <= 1 <= high)
    assert ours / 300 > 0.9 > 0.88 > theirs / 300


def test_a_paired_comparison_sees_what_two_intervals_do_not() -> None:
    first = [1.0] * 60 + [0.0] * 40
    second = [1.0] * 50 + [0.0] * 50  # solves the same problems but ten
    result = paired(by_problem(first), by_problem(second), binary=True)
    assert result.difference == pytest.approx(0.1) and result.test == "exact McNemar"
    assert result.p == pytest.approx(2 / 1024) and result.low > 0
    assert share(first)[0] < share(second)[1], "the two intervals overlap"
    assert result.visible < visible_difference(first)


def test_equal_models_show_nothing() -> None:
    same = by_problem([0.5, 1.0, 0.0])
    result = paired(same, same, binary=True)
    assert (result.difference, result.p, result.problems_needed) == (0.0, 1.0, None)
    assert result.visible > 0.3, "three problems cannot show a small difference, however they agree"


def test_only_problems_that_both_have_scored_are_compared() -> None:
    result = paired({"a": 1.0, "b": 0.0, "c": 1.0}, {"b": 0.0, "c": 0.0, "d": 1.0}, binary=True)
    assert result is not None and result.difference == 0.5 and paired({"a": 1.0}, {"b": 1.0}, binary=True) is None


def test_rewards_of_another_scale_are_compared_on_it() -> None:
    first, second = by_problem([12.0 + i for i in range(40)]), by_problem([i - 0.5 - i % 2 for i in range(40)])
    result = paired(first, second, binary=False)
    assert result.difference == 13.0 and 12.8 < result.low < 13.0 < result.high < 13.2 and result.test == "sign flips"
    alike = paired(first, by_problem([i * 1.0 for i in range(40)]), binary=False)
    assert (
        alike.difference == 12.0
        and math.isnan(alike.low)
        and math.isnan(alike.visible)
        and alike.problems_needed is None
    )


def test_the_visible_difference_is_seen_four_times_out_of_five() -> None:
    n, rng = 400, np.random.default_rng(3)
    size = visible_difference([0.0] * (n // 2) + [1.0] * (n // 2))
    assert size == pytest.approx(2.8016 * math.sqrt(2 * 0.25 / n), rel=0.01)
    seen = 0
    for _ in range(400):
        a, b = rng.random(n) < 0.5 + size / 2, rng.random(n) < 0.5 - size / 2
        error = math.sqrt(a.var() / n + b.var() / n)
        seen += abs(a.mean() - b.mean()) > 1.96 * error
    assert 0.72 < seen / 400 < 0.88
