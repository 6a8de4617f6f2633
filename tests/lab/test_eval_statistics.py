"""pass@k, maj@k, intervals and paired tests: enumeration, the numbers of the books, and coverage."""

import itertools
import math

import numpy as np
import pytest

from rung.lab.eval_statistics import bootstrap, majority, mcnemar, paired, pass_at_k, sign_flips, visible_difference


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
    low, high = bootstrap(x)
    error = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - error, 0.25 + error), abs=0.005)
    assert bootstrap(x) == (low, high), "the same seed, the same interval"


def test_problems_that_all_agree_do_not_give_an_empty_interval() -> None:
    low, high = bootstrap([1.0] * 20)
    assert high == 1.0 and low == pytest.approx(0.839, abs=0.001)  # Wilson
    assert all(map(math.isnan, bootstrap([])))


def test_the_bootstrap_covers() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(120):
        low, high = bootstrap(rng.beta(2, 3, size=60))
        hits += low <= 0.4 <= high
    assert hits >= 106  # P[Binomial(120, .95) < 106] = .002; an 80 % interval would hit about 96 times


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (8, 2, 112 / 1024)])
def test_mcnemar(better: int, worse: int, p: float) -> None:
    assert mcnemar(better, worse) == pytest.approx(p) == mcnemar(worse, better)


def test_sign_flips_agree_with_enumeration() -> None:
    d = [0.5, 0.25, -0.25, 0.75, 0.0, 0.5]
    signed = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product((1, -1), repeat=len(d))]
    exact = sum(abs(x) >= sum(d) - 1e-12 for x in signed) / len(signed)
    assert sign_flips(d) == pytest.approx(exact, abs=0.015)
    assert sign_flips([0.0, 0.0]) == 1.0


def test_a_paired_comparison_sees_what_two_intervals_do_not() -> None:
    first = [1.0] * 60 + [0.0] * 40
    second = [1.0] * 50 + [0.0] * 50  # solves the same problems but ten
    result = paired(by_problem(first), by_problem(second), binary=True)
    assert result.difference == pytest.approx(0.1) and result.test == "exact McNemar"
    assert result.p == pytest.approx(2 / 1024) and result.low > 0
    assert bootstrap(first)[0] < bootstrap(second)[1], "the two intervals overlap"
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
