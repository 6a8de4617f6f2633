"""Accuracy or mean reward: the numbers of the books, what has no score is in no mean, and a change is paired."""

import math

import pytest

from rung.io.shown import Said
from rung.records import Rollout, Scored, Task
from rung.training.answers import Watched
from rung.training.evaluation import Evaluation, wilson


def answers(rewards, k=1):
    """`k` answers to each problem."""
    rollout = Rollout((1,), (2,), (0.0,), (0.0,), "stop")
    return [Scored(Task(str(i // k), "x"), rollout, "", {"r": r}, r) for i, r in enumerate(rewards)]


def evaluation(rewards, k=1, **more):
    return Evaluation(answers(rewards, k), len(rewards) // k, **more)


def too_long(n, k=1):
    rollout = Rollout((1,), (), (), (), "abort")
    return [Scored(Task(f"long{i // k}", "x"), rollout, "", {}, math.nan) for i in range(n * k)]


@pytest.mark.parametrize(
    ("p", "n", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.9, 50, 0.7864, 0.9565)],
)
def test_wilsons_interval(p, n, low, high):
    assert wilson(p, n) == pytest.approx((low, high), abs=2e-4)


def test_repeated_answers_do_not_count_as_problems():
    once, copied = evaluation([1.0, 0.0, 1.0, 0.0]), evaluation(([1.0] * 50 + [0.0] * 50) * 2, k=50)
    assert once.accuracy == copied.accuracy == 0.5
    low, high = copied.interval()
    assert high - low > 0.9, "four problems are four observations, however often each is answered"


def test_several_answers_narrow_the_interval_as_far_as_problems_agree():
    mixed = evaluation([1.0, 0.0] * 40, k=2)  # every problem is solved half of the time
    assert mixed.interval() == wilson(0.5, 40), "no spread between problems: fall back to Wilson"
    low, high = evaluation([1.0, 1.0] * 20 + [0.0, 0.0] * 20, k=2).interval()
    assert high - low == pytest.approx(2 * 1.96 * 0.5 * math.sqrt(40 / 39) / math.sqrt(40), rel=1e-3)


@pytest.mark.parametrize("rewards", [[4.0], [-0.5, 0.5], [0.0, 0.5, 1.0], [1e39, 0.0], [1.0, 1.0, 0.01]])
def test_a_reward_outside_zero_and_one_has_a_mean_on_its_own_scale_and_no_accuracy(rewards):
    result = evaluation(rewards * 20)
    mean = sum(rewards) / len(rewards)
    assert not result.binary and math.isnan(result.accuracy) and result.reward == pytest.approx(mean)
    row = result.metrics()
    assert not any(name.startswith("eval/accuracy") for name in row) and row["eval/reward_n"] == len(rewards) * 20
    low, high = result.interval()
    if len(set(rewards)) == 1:
        assert math.isnan(low) and math.isnan(high), "nothing to draw from, no interval"
    else:
        assert min(rewards) <= low < mean < high <= max(rewards)
        assert (low, high) == (row["eval/reward_ci_low"], row["eval/reward_ci_high"]) == result.interval(), "seeded"


def test_rewards_of_zero_and_one_have_both():
    row = evaluation([1.0, 0.0, 1.0, 1.0]).metrics()
    assert row["eval/accuracy"] == row["eval/reward"] == 0.75 and row["eval/accuracy_n"] == row["eval/reward_n"] == 4
    assert (row["eval/accuracy_ci_low"], row["eval/accuracy_ci_high"]) == wilson(0.75, 4)


def test_the_kind_is_settled_over_all_evaluations_that_are_shown_together():
    zeros = evaluation([0.0] * 4)
    assert zeros.binary and "eval/accuracy" in zeros.metrics()
    settled = evaluation([0.0] * 4, graded=True)
    assert not settled.binary and "eval/accuracy" not in settled.metrics() and settled.reward == 0.0


def test_what_could_not_be_scored_is_counted_and_neither_right_nor_wrong():
    result = evaluation([1.0, math.nan, 0.0, math.nan])
    assert result.accuracy == 0.5 and result.unscored == 2 and result.metrics()["eval/unscored"] == 2
    assert result.metrics()["eval/accuracy_n"] == 2 and result.interval() == wilson(0.5, 2)
    several = evaluation([1.0, math.nan, 1.0, 0.0], k=2)
    assert several.means == {"0": 1.0, "1": 0.5} and several.unscored == 1


def test_where_nothing_was_scored_there_is_no_accuracy():
    result = evaluation([math.nan] * 3)
    assert math.isnan(result.accuracy) and math.isnan(result.reward) and result.unscored == 3
    row = result.metrics()
    assert "eval/accuracy" not in row and math.isnan(row["eval/reward"]) and row["eval/unscored"] == 3
    assert all(map(math.isnan, result.interval()))


def test_a_prompt_without_room_is_wrong_where_that_means_something():
    binary = Evaluation([*answers([1.0, 1.0]), *too_long(2)], 4, too_long=2)
    assert binary.accuracy == 0.5 and binary.unscored == 0
    graded = Evaluation([*answers([3.0, 5.0]), *too_long(2)], 4, too_long=2)
    assert graded.reward == 4.0 and graded.unscored == 0, "0 is no reward of this scale"


def test_the_change_is_paired_over_the_problems_that_both_have_scored():
    before = evaluation([0.0, 1.0, math.nan, 0.0] * 25)
    after = evaluation([1.0, 1.0, 1.0, math.nan] * 25)
    change = before.change(after)
    assert change.n == 50 and change.mean == 0.5 and 0.3 < change.low < 0.5 < change.high < 0.7
    assert change.words == "better" and after.change(before).words == "WORSE"
    assert before.change(evaluation([math.nan] * 100)) is None


def test_the_change_where_all_problems_agree():
    zeros, ones = evaluation([0.0] * 50), evaluation([1.0] * 50)
    other = wilson(0.0, 50)[1]
    same, all_gained = zeros.change(zeros), zeros.change(ones)
    assert (same.mean, same.low, same.high) == (0.0, -other, other), "another problem might have changed, either way"
    assert (all_gained.mean, all_gained.low, all_gained.high) == (1.0, 1 - 2 * other, 1.0)
    graded = evaluation([2.0] * 50).change(evaluation([5.0] * 50))
    assert graded.mean == 3.0 and math.isnan(graded.low) and graded.words == "the same difference on every problem"


def test_pairing_shows_what_two_intervals_hide():
    rewards = [float(i) for i in range(100)]
    before, after = evaluation(rewards), evaluation([r + 1 + (r % 2) for r in rewards])
    assert before.interval()[1] > after.interval()[0], "the two intervals overlap"
    assert before.change(after).low > 1.3


def test_components_are_means_over_the_answers_that_have_them():
    easy, hard = (
        [Scored(a.task, a.rollout, "", {f"{part}.correct": a.reward}, a.reward) for a in answers(rewards)]
        for part, rewards in (("easy", [1.0, 1.0, 0.0]), ("hard", [1.0, math.nan]))
    )
    assert Evaluation([*easy, *hard], 5).components() == {"easy.correct": pytest.approx(2 / 3), "hard.correct": 1.0}
    assert Evaluation(easy, 3).components() == {}, "a single one is the accuracy"


def asked(*rows):
    """One answer each: (problem, prompt, text, reward)."""
    rollout = Rollout((1,), (2,), (0.0,), (0.0,), "stop")
    return Evaluation([Scored(Task(name, prompt), rollout, text, {}, r) for name, prompt, text, r in rows], len(rows))


def test_the_problem_that_is_watched_is_the_longest_that_was_wrong_and_fits_a_line():
    before = asked(
        ("a", "1+2+3+4+5+6=", "21", 1.0), ("b", "1+2=", "9", 0.0), ("c", "1+2+3=", "#", 0.0), ("d", "x" * 61, "", 0.0),
        ("e", "3+2+1=", "", 0.0), ("f", "1+1+1+1=", "", math.nan),
    )  # fmt: skip
    watched = Watched()
    assert watched.of(before) == Said("1+2+3=", "#", 0.0)
    later = asked(("c", "1+2+3=", "6", 1.0), ("b", "1+2=", "9", 0.0))
    assert watched.of(later) == Said("1+2+3=", "6", 1.0), "the same one from then on"
    assert watched.of(asked(("b", "1+2=", "9", 0.0))) is None and Watched().of(Evaluation([], 0)) is None
    assert Watched().of(asked(("d", "x" * 90, "", 0.0), ("e", "x" * 70, "", 0.0))).prompt == "x" * 70
