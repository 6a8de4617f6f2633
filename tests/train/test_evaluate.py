"""Accuracy's interval: the numbers of the books, and answers to one problem are one observation."""

import math

import pytest

from rung.records import Rollout, Scored, Task
from rung.train.evaluate import Evaluation, wilson


def answers(rewards):
    rollout = Rollout((1,), (2,), (0.0,), (0.0,), "stop")
    return [Scored(Task(str(i), "x"), rollout, "", {}, r) for i, r in enumerate(rewards)]


@pytest.mark.parametrize(
    ("p", "n", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.9, 50, 0.7864, 0.9565)],
)
def test_wilsons_interval(p, n, low, high):
    assert wilson(p, n) == pytest.approx((low, high), abs=2e-4)


def test_repeated_answers_do_not_count_as_problems():
    once = Evaluation(answers([1.0, 0.0, 1.0, 0.0]), 4)
    copied = Evaluation(answers([1.0] * 50 + [0.0] * 50 + [1.0] * 50 + [0.0] * 50), 4)
    assert once.accuracy == copied.accuracy == 0.5
    low, high = copied.interval()
    assert high - low > 0.9, "four problems are four observations, however often each is answered"


def test_several_answers_narrow_the_interval_as_far_as_problems_agree():
    mixed = Evaluation(answers([1.0, 0.0] * 40), 40)  # every problem is solved half of the time
    assert mixed.interval() == wilson(0.5, 40), "no spread between problems: fall back to Wilson"
    low, high = Evaluation(answers([1.0, 1.0] * 20 + [0.0, 0.0] * 20), 40).interval()
    assert high - low == pytest.approx(2 * 1.96 * 0.5 * math.sqrt(40 / 39) / math.sqrt(40), rel=1e-3)


def test_what_could_not_be_scored_is_counted_and_not_right():
    result = Evaluation(answers([1.0, math.nan]), 2)
    assert result.accuracy == 0.5 and result.metrics()["eval/unscored"] == 1


def test_components_are_means_over_the_answers_that_have_them():
    easy, hard = (
        [Scored(a.task, a.rollout, "", {f"{part}.correct": a.reward}, a.reward) for a in answers(rewards)]
        for part, rewards in (("easy", [1.0, 1.0, 0.0]), ("hard", [1.0, math.nan]))
    )
    assert Evaluation([*easy, *hard], 5).components() == {"easy.correct": pytest.approx(2 / 3), "hard.correct": 0.5}
    assert Evaluation(easy, 3).components() == {}, "a single one is the accuracy"
