"""Returns and baselines, computed by hand. Each row says why its number is right."""

import math
from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.maths.credit import group_sum, has_signal, outcome_to_token, reward_to_go, total_return
from rung.records import State

NAN = math.nan
R2 = math.sqrt(2)


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def same(got, want, why=None):
    torch.testing.assert_close(got, f(want) if isinstance(want, list) else want, rtol=1e-12, atol=1e-12, msg=why)


def first_tokens(adv_BT, mask_BT):
    """The advantage of each answer, after checking that all of its action tokens hold it and nothing else does."""
    at_B = mask_BT.long().argmax(1)
    adv_B = adv_BT[torch.arange(len(at_B)), at_B]
    same(adv_BT, torch.where(mask_BT, adv_B[:, None], 0.0))
    return adv_B


# -- returns -------------------------------------------------------------------------------------------------------
REWARD, MASK = f([[1.0, NAN, 4.0, 9.0]]), torch.tensor([[True, False, True, False]])


@pytest.mark.parametrize(
    ("gamma", "to_go", "total", "why"),
    [
        (1.0, [[5.0, 0.0, 4.0, 0.0]], [5.0], "no discount: 1 + 4, then 4; masked rewards are never read"),
        (0.5, [[3.0, 0.0, 4.0, 0.0]], [3.0], "1 + 0.5 * 4: the observation between them costs no discount"),
        (0.0, [[1.0, 0.0, 4.0, 0.0]], [1.0], "each action sees its own reward only; the answer sees its first"),
    ],
)
def test_returns_step_over_what_the_policy_did_not_sample(gamma, to_go, total, why):
    same(reward_to_go(REWARD, MASK, gamma), to_go, why)
    same(total_return(REWARD, MASK, gamma), total, why)


def test_outcome_lies_on_the_last_action():
    mask_BT = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
    got = outcome_to_token(f([5.0, 7.0, 9.0, NAN, 3.0]), mask_BT)
    want = [
        [0.0, 5.0, 0.0],  # the end token is an action and holds the reward
        [0.0, 0.0, 7.0],  # past an observation
        [0.0, 0.0, 0.0],  # no action, no place for a reward
        [NAN, 0.0, 0.0],  # an unknown reward stays unknown; validity is decided elsewhere
        [0.0, 3.0, 0.0],
    ]
    torch.testing.assert_close(got, f(want), equal_nan=True)


@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.TotalReturn(), [[5.0, 0.0, 5.0, 0.0]], "the whole return on every action"),
        (p.TotalReturn(gamma=0.5), [[3.0, 0.0, 3.0, 0.0]], "1 + 0.5 * 4, powers count actions"),
        (p.RewardToGo(), [[5.0, 0.0, 4.0, 0.0]], "the second action cannot have caused the first reward"),
        (p.RewardToGo(gamma=0.5), [[3.0, 0.0, 4.0, 0.0]], "the usual discounted return"),
        (p.RewardToGo(0.5, discount_state_weight=True), [[3.0, 0.0, 2.0, 0.0]], "gamma^t G_t: 0.5 * 4"),
    ],
)
def test_returns_as_credit(batch_of, part, want, why):
    same(part(batch_of(REWARD.tolist(), mask=MASK.tolist())), want, why)


# -- baselines on one batch: two prompts, interleaved --------------------------------------------------------------
#          rewards            group 0: 1, 0, 2 (mean 1, std 1)    group 1: 10, 30 (mean 20, std sqrt 200)
OUTCOMES = [1.0, 10.0, 0.0, 30.0, 2.0]
GROUPS = [0, 1, 0, 1, 0]
LENGTHS = [1, 2, 3, 1, 2]
BATCH_STD = math.sqrt(635.2 / 4)  # squares of the deviations from 8.6: 57.76 + 1.96 + 73.96 + 457.96 + 43.56


def over(values, divisor):
    return [x / divisor for x in values]


CENTERED = [0.0, -10.0, -1.0, 10.0, 1.0]


@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.TotalReturn(), OUTCOMES, "no baseline"),
        (p.BatchMean(), [-7.6, 1.4, -8.6, 21.4, -6.6], "R - 43/5"),
        (p.BatchMean(leave_one_out=True), [-9.5, 1.75, -10.75, 26.75, -8.25], "1 - 42/4, 10 - 33/4, ..."),
        (p.LeaveOneOut(), [0.0, -20.0, -1.5, 20.0, 1.5], "1 - (0+2)/2; 10 - 30; 0 - 3/2; 30 - 10; 2 - 1/2"),
        (p.GroupMean(scale="none"), CENTERED, "R minus its group's mean"),
        (p.GroupMean(eps=0.0), [0.0, -1 / R2, -1.0, 1 / R2, 1.0], "two answers: +-1/sqrt 2 whatever the gap"),
        (p.GroupMean(eps=1.0), [0.0, -10 / (200**0.5 + 1), -0.5, 10 / (200**0.5 + 1), 0.5], "eps adds to the std"),
        (p.GroupMean(bessel=False, eps=0.0), [0.0, -1.0, -(1.5**0.5), 1.0, 1.5**0.5], "population std: 10, sqrt 2/3"),
        (p.GroupMean(scale="batch", eps=0.0), over(CENTERED, BATCH_STD), "one divisor for the whole batch"),
        (p.GroupMean(scale="batch", eps=2.0), over(CENTERED, BATCH_STD + 2), "eps adds to the batch's std"),
        (p.GroupMean(scale="batch", bessel=False, eps=0.0), over(CENTERED, 127.04**0.5), "635.2 / 5"),
        (p.GroupMean(scale="mean"), [0.0, -0.5, -1.0, 0.5, 1.0], "divided by the means 1 and 20"),
        (p.LengthWeighted(), [1 / 6, -20 / 3, -5 / 6, 40 / 3, 7 / 6], "baselines (1*1+3*0+2*2)/6 and (2*10+1*30)/3"),
    ],
)
def test_baselines_per_answer(batch_of, part, want, why):
    batch = batch_of(OUTCOMES, lengths=LENGTHS, group=GROUPS)
    same(first_tokens(part(batch), batch.mask_BT), want, why)


def test_the_default_eps_and_scale_are_those_of_grpo():
    part = p.GroupMean()
    assert (part.scale, part.bessel, part.eps, part.on_singleton) == ("group", True, 1e-4, "raise")


@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.MovingAverage(), [[5.0, 4.0], [2.0, 2.0]], "no update yet: the baseline is 0"),
        (p.BatchMean(), [[1.5, 0.5], [-1.5, -1.5]], "returns 5 and 2, mean 3.5, subtracted from the reward to go"),
        (p.BatchMean(leave_one_out=True), [[3.0, 2.0], [-3.0, -3.0]], "the other answer's return"),
        (p.Greedy(), [[4.5, 3.5], [1.5, 1.5]], "the greedy answer earned 0.5"),
    ],
)
def test_baselines_of_the_reward_to_go(batch_of, part, want, why):
    same(part(batch_of([[1.0, 4.0], [0.0, 2.0]], mask=[[1, 1], [1, 1]], greedy_B=[0.5, 0.5])), want, why)


def test_moving_average_debiases_and_excludes_the_batch_at_hand(batch_of):
    batch = batch_of([1.0, 3.0, NAN], lengths=[1, 1, 1], state=State(mean=0.3, mean_updates=2))
    same(p.MovingAverage(rate=0.5)(batch), [[0.6], [2.6], [0.0]], "b = 0.3 / (1 - 0.5^2) = 0.4; unknown rewards get 0")
    same(p.MovingAverage(rate=0.5, debias=False)(batch), [[0.7], [2.7], [0.0]], "b = 0.3 as stored")
    after = p.MovingAverage(rate=0.5).observe(batch)
    assert after.mean == pytest.approx(0.5 * 0.3 + 0.5 * 2.0), "the mean of the known rewards, 2, enters afterwards"
    assert after.mean_updates == 3
    slow = p.MovingAverage().observe(batch)
    assert slow.mean == pytest.approx(0.9 * 0.3 + 0.1 * 2.0), "the default rate is 0.1"


def test_moving_average_of_a_constant_reward_is_that_constant_from_the_first_update(batch_of):
    part, batch = p.MovingAverage(), batch_of([7.0, 7.0])
    for _ in range(4):
        batch = replace(batch, state=part.observe(batch))
        assert part.baseline(batch.state) == pytest.approx(7.0)


def test_moving_average_learns_nothing_from_a_batch_without_a_known_reward(batch_of):
    state = State(mean=0.3, mean_updates=2)
    assert p.MovingAverage().observe(batch_of([NAN, NAN], state=state)) == state


def test_other_credits_leave_the_state_alone(batch_of):
    state = State(mean=0.3, mean_updates=2, kl_coef=0.5)
    batch = batch_of([1.0, 2.0], state=state)
    assert all(c().observe(batch) == state for c in (p.TotalReturn, p.RewardToGo, p.BatchMean, p.GroupMean))


def test_greedy_without_a_known_greedy_reward_teaches_nothing(batch_of):
    batch = batch_of([1.0, 1.0, NAN], greedy_B=[0.25, NAN, 0.25])
    same(p.Greedy()(batch), [[0.75], [0.0], [0.0]])


# -- steps ---------------------------------------------------------------------------------------------------------
def test_step_mean_pools_the_steps_of_a_group_and_sums_them_to_go(batch_of):
    batch = batch_of(
        [[8.0, 1.0, 8.0, 3.0], [2.0, 6.0, 0.0, 0.0], [8.0, 8.0, 5.0, 8.0]],
        mask=[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]],
        group=[0, 1, 0],
        step_end_BT=[[False, True, False, True], [True, True, False, False], [False, False, True, True]],
    )
    # group 0: steps 1, 3, 5 (mean 3, std 2): -1, 0, 1. Group 1: steps 2, 6 (mean 4, std sqrt 8): +-1/sqrt 2.
    # Rewards beside a step's end and the "step" on padding are never read.
    want = [[-1.0, -1.0, 0.0, 0.0], [0.0, 1 / R2, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    same(p.StepMean(eps=0.0)(batch), want)
    population = math.sqrt(8 / 3)
    same(p.StepMean(eps=0.0, bessel=False)(batch)[2], [2 / population] * 3 + [0.0], "std over n: sqrt(8/3)")
    same(p.StepMean(eps=2.0)(batch)[2], [0.5, 0.5, 0.5, 0.0], "2 / (2 + 2)")


def test_one_step_per_answer_is_the_outcome(batch_of):
    batch = batch_of(OUTCOMES, lengths=LENGTHS, group=GROUPS)
    same(p.StepMean()(batch), p.GroupMean()(batch))


def test_equal_steps_and_no_steps_get_zero(batch_of):
    steps = {"mask": [[1, 1], [1, 1]], "step_end_BT": [[True, True], [False, True]]}
    for eps in (1e-4, 0.0):
        same(p.StepMean(eps=eps)(batch_of([[0.1, 0.1], [0.0, 0.1]], **steps)), [[0.0, 0.0], [0.0, 0.0]])
    none = {"mask": [[1, 1], [1, 1]], "step_end_BT": [[False, False], [False, False]]}
    same(p.StepMean()(batch_of([[1.0, 2.0], [3.0, 4.0]], **none)), [[0.0, 0.0], [0.0, 0.0]])


# -- edges ---------------------------------------------------------------------------------------------------------
GROUPED = [p.LeaveOneOut(), p.LengthWeighted(), *(p.GroupMean(scale=s) for s in ("group", "none", "batch", "mean"))]


@pytest.mark.parametrize("part", GROUPED, ids=str)
def test_one_answer_to_a_prompt_is_refused_or_zero_never_raw(batch_of, part):
    batch = batch_of([0.7, 0.1, 0.9], group=[0, 1, 1])
    with pytest.raises(ValueError, match="at least 2 answers per prompt"):
        part(batch)
    got = replace(part, on_singleton="zero")(batch)
    assert got[0] == 0
    assert (got[1:] != 0).all()


@pytest.mark.parametrize(
    ("rewards", "signal", "why"),
    [
        ([0.1, 0.1, 0.1], False, "equal rewards"),
        ([0.1 + 0.2, 0.3, 0.3], False, "float residue is not a difference"),
        ([0.1, 0.1 + 1e-9, 0.1], True, "a small difference is one"),
        ([NAN, 0.1, 0.1], False, "an unknown reward is not a difference"),
        ([NAN, 0.1, 0.3], True, "two known rewards differ"),
        ([NAN, NAN, 0.3], False, "one known reward has nothing to differ from"),
        ([NAN, NAN, NAN], False, "nothing is known"),
        ([-1.0, -1.0, -0.5], True, "negative rewards differ like others"),
    ],
)
@pytest.mark.parametrize("part", [*GROUPED, p.StepMean()], ids=str)
def test_groups_without_signal_get_exactly_zero(batch_of, part, rewards, signal, why):
    adv_BT = part(batch_of([*rewards, 1.0, 2.0], group=[0, 0, 0, 1, 1]))
    assert adv_BT.isfinite().all(), why
    if isinstance(part, p.GroupMean) and part.scale == "mean" and sum(r for r in rewards if r == r) < 0:
        signal = False  # a mean below zero is no success rate
    assert (adv_BT[:3] != 0).any() == signal, why
    assert (adv_BT[3:] != 0).all(), "the other prompt still teaches"


def test_signal_is_decided_per_group_and_row():
    R_B, valid_B = f([1.0, 5.0, 1.0, 5.0, 9.0]), torch.tensor([True, True, True, True, False])
    got = has_signal(R_B, valid_B, torch.tensor([0, 1, 0, 2, 2]))
    assert got.tolist() == [False] * 5, "equal, alone, equal, alone beside an invalid row, invalid"
    got = has_signal(f([1.0, 5.0, 2.0, 7.0]), torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 0]))
    assert got.tolist() == [True, True, True, False]


def test_unknown_rewards_leave_the_statistics(batch_of):
    batch = batch_of([1.0, NAN, 0.0, 3.0])
    same(p.GroupMean(scale="none")(batch)[:, 0], [1 - 4 / 3, 0.0, -4 / 3, 5 / 3], "mean of three")
    same(p.LeaveOneOut()(batch)[:, 0], [1 - 3 / 2, 0.0, 0 - 4 / 2, 3 - 1 / 2], "the others are two")
    same(p.BatchMean()(batch)[:, 0], [1 - 4 / 3, 0.0, -4 / 3, 5 / 3])
    same(p.BatchMean(leave_one_out=True)(batch)[:, 0], [-0.5, 0.0, -2.0, 2.5])
    std = math.sqrt((1 / 9 + 16 / 9 + 25 / 9) / 2)
    for scale in ("group", "batch"):
        same(p.GroupMean(scale=scale, eps=0.0)(batch)[:, 0], over([-1 / 3, 0.0, -4 / 3, 5 / 3], std), scale)


def test_max_rl_gives_zero_where_nothing_succeeded(batch_of):
    same(p.GroupMean(scale="mean")(batch_of([-1.0, 1.0]))[:, 0], [0.0, 0.0], "mean 0: no division")
    same(p.GroupMean(scale="mean")(batch_of([0.0, 0.0, 0.0, 1.0]))[:, 0], [-1.0, -1.0, -1.0, 3.0], "(R - 1/4) * 4")


def test_kept_out_of_the_loss_is_not_kept_out_of_the_statistics(batch_of):
    whole = batch_of([1.0, 2.0, 6.0])
    cut = replace(whole, keep_B=torch.tensor([True, True, False]))
    for part in GROUPED:
        same(part(cut), part(whole))


def test_group_sum():
    same(group_sum(f([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2])), [2.0, 0.0, 5.0])
    assert group_sum(f([]), torch.tensor([], dtype=torch.long)).shape == (0,)
