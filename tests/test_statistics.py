"""Known answers: textbook values of the tests, coverage of the intervals, Holm's procedure by hand."""

import math

import numpy as np
import pytest

from rung.errors import InputError
from rung.experiments.curves import area, reaches
from rung.statistics import effects, over_seeds, p_value, student

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]  # Student 1908: extra hours of sleep, drug 2 - drug 1


def test_the_paired_test_gives_students_own_numbers():
    assert p_value(SLEEP) == pytest.approx(0.002833, abs=1e-6)
    i = student(SLEEP)
    assert (i.mean, i.low, i.high) == pytest.approx((1.58, 0.700114, 2.459886), abs=1e-5)


def test_differences_that_are_all_alike_need_no_test():
    assert p_value([0.0, 0.0, 0.0]) == 1.0 and p_value([0.2, 0.2, 0.2]) == 0.0
    same, apart = effects([[0.0] * 5, [0.25] * 5])
    assert not same.shown and (same.low, same.high) == (0, 0)
    assert apart.shown and (apart.low, apart.high) == (0.25, 0.25)


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        i = over_seeds(rng.normal(3.0, 1.0, 30).tolist())
        hits += i.low <= 3.0 <= i.high
    assert 50 <= hits <= 60  # 57 expected, standard deviation 1.7


def test_one_value_has_no_interval_and_nan_is_left_out():
    assert math.isnan(over_seeds([0.5]).low)
    assert over_seeds([0.5, math.nan, 0.7]).mean == pytest.approx(0.6)


def test_holm_stops_at_the_first_comparison_that_fails():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 8)
    noise = noise - noise.mean()

    def with_p(p):  # differences whose paired t-test gives exactly p
        from scipy.stats import t

        return (noise + t.isf(p / 2, 7) * noise.std(ddof=1) / math.sqrt(8)).tolist()

    rows = [with_p(p) for p in (0.04, 0.012, 0.03)]
    found = effects(rows)
    # sorted .012, .03, .04 against .05/3, .05/2, .05: the first holds, .03 fails, and .04 fails with it although .04 < .05
    assert [e.shown for e in found] == [False, True, False]
    assert [e.p for e in found] == pytest.approx([0.06, 0.036, 0.06])
    assert effects([with_p(0.04)])[0].shown, "alone it would be shown"


def test_the_interval_is_at_least_as_wide_as_either_of_its_two_sources():
    x = [0.1, 0.3, 0.2, 0.9, 0.4]
    e, boot, t = effects([x])[0], over_seeds(x), student(x)
    assert e.low == min(boot.low, t.low) and e.high == max(boot.high, t.high)


def test_a_single_seed_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        effects([[0.3]])


def test_area_and_target_on_a_straight_line():
    x, y = [0.0, 10.0, 20.0], [0.0, 0.5, 1.0]
    assert area(x, y, 20.0) == pytest.approx(0.5)
    assert area(x, y, 10.0) == pytest.approx(0.25)
    assert area(x, y, 40.0) == pytest.approx(0.75), "beyond its end the curve stays level"
    assert reaches(x, y, 0.75) == pytest.approx(15.0)
    assert reaches(x, y, 0.0) == 0.0 and reaches(x, y, 1.1) is None
