"""Neither the scale of rewards nor where their zero lies decides whether something is learned, over 12 orders of magnitude."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rung.parts as p
from rung.maths.assess import advantages
from rung.maths.credit import Credit
from rung.maths.returns import EQUAL, has_signal, returns, sizes, varies
from rung.recipes import REINFORCE
from rung.records import State
from rung.training.metrics import signal_metrics

GROUPED = [
    p.LeaveOneOut(),
    *(p.GroupMean(scale=s) for s in ("group", "none", "batch", "mean")),
    p.LengthWeighted(),
    p.StepMean(),
]
WHOLE = [p.TotalReturn(), p.RewardToGo(), p.MovingAverage(), p.BatchMean(), p.BatchMean(leave_one_out=True), p.Greedy()]
LEARNED = [p.Value(e) for e in (p.MC(), p.TD(), p.NStep(3), p.GAE(), p.LengthAdaptiveGAE())]
ORDERS = st.floats(-9, 6).map(lambda k: 10.0**k)
SHIFTS = st.one_of(st.just(0.0), st.floats(-6, 12).map(lambda k: 10.0**k), st.floats(-6, 12).map(lambda k: -(10.0**k)))
PATTERN = st.lists(st.integers(0, 3), min_size=8, max_size=8)
LENGTHS = [1, 3, 2, 4, 2, 2, 5, 1]
EXACT = settings(max_examples=25, deadline=None)


def test_every_credit_part_is_here():
    def below(kind):
        return {kind, *(x for sub in kind.__subclasses__() for x in below(sub))}

    ours = {kind for kind in below(Credit) - {Credit} if kind.__module__.startswith("rung.")}
    assert {type(part) for part in (*GROUPED, *WHOLE, *LEARNED)} == ours


def build(batch_of, rewards, **more):
    groups = [0, 0, 0, 0, 1, 1, 1, 1]
    batch = batch_of(rewards, lengths=LENGTHS, group=groups, greedy_B=[rewards[0]] * 8, **more)
    return replace(batch, value_BT=torch.zeros_like(batch.reward_BT))


def advantages_of(part, batch):
    return advantages(replace(REINFORCE, credit=part), batch, batch)


def differing(batch):
    return has_signal(returns(batch), batch.valid_B, batch.group_B, sizes(batch))


@EXACT
@given(pattern=PATTERN, scale=ORDERS, shift=SHIFTS)
@example(pattern=[0, 1] * 4, scale=1e-6, shift=1e12)
@example(pattern=[0, 1] * 4, scale=1e-7, shift=0.0)
@example(pattern=[0, 1] * 4, scale=1.0, shift=1e8)
@pytest.mark.parametrize("part", GROUPED, ids=str)
def test_a_difference_within_a_group_is_learned_whatever_its_scale_and_shift(batch_of, part, pattern, scale, shift):
    batch = build(batch_of, [scale * (shift + x) for x in pattern])
    adv_BT, _ = advantages_of(part, batch)
    assert adv_BT.isfinite().all()
    learned_B, signal_B = (adv_BT != 0).any(1), differing(batch)
    assert not (learned_B & ~signal_B).any(), "what does not differ teaches nothing"
    for group in (0, 1):
        rows = batch.group_B == group
        assert bool(signal_B[rows].any()) == (len(set(pattern[4 * group : 4 * group + 4])) > 1)
        if signal_B[rows].any() and not (part == p.GroupMean(scale="mean") and float(returns(batch)[rows].mean()) <= 0):
            assert learned_B[rows].any(), "a difference teaches"
            best = returns(batch)[rows].argmax()
            assert adv_BT[rows][best].max() > 0, "the best answer is made more likely"
    if part != p.GroupMean(scale="mean"):
        assert signal_metrics(batch, adv_BT, None)["advantage/lost"] == 0


@EXACT
@given(pattern=PATTERN, scale=ORDERS)
@pytest.mark.parametrize(
    "part", [*WHOLE, *LEARNED, p.LeaveOneOut(), p.GroupMean(scale="none"), p.LengthWeighted()], ids=str
)
def test_advantages_have_the_scale_of_the_rewards(batch_of, part, pattern, scale):
    one, many = (part(build(batch_of, [c * x for x in pattern])) for c in (1.0, scale))
    assert torch.allclose(many, scale * one, rtol=1e-9, atol=1e-12 * scale)


@EXACT
@given(pattern=PATTERN, shift=SHIFTS, scale=ORDERS)
@pytest.mark.parametrize("part", [*WHOLE, *LEARNED], ids=str)
def test_a_shift_leaves_what_answers_are_worth_against_each_other(batch_of, part, pattern, shift, scale):
    """Parts with one baseline or none: two answers of one length differ in advantage by what their rewards differ."""
    batch = build(batch_of, [scale * (shift + x) for x in pattern])
    adv_BT = part(batch)
    a, b = 2, 4  # both have two tokens
    assert LENGTHS[a] == LENGTHS[b]
    difference = float(adv_BT[a, 1] - adv_BT[b, 1]) / scale
    want = pattern[a] - pattern[b]
    if isinstance(part, p.BatchMean) and part.leave_one_out:
        want *= 8 / 7
    assert difference == pytest.approx(want, abs=1e-3), "at a shift of 1e12 scales a thousandth is float64's resolution"


@EXACT
@given(pattern=PATTERN, scale=ORDERS)
@pytest.mark.parametrize(
    "scaled", [p.GroupMean(eps=0.0), p.GroupMean(scale="batch", eps=0.0), p.StepMean(eps=0.0)], ids=str
)
def test_division_by_the_std_takes_the_scale_away(batch_of, scaled, pattern, scale):
    one, many = (scaled(build(batch_of, [c * x for x in pattern])) for c in (1.0, scale))
    assert torch.allclose(many, one, rtol=1e-9)


@EXACT
@given(pattern=PATTERN, scale=ORDERS, shift=SHIFTS)
def test_whitening_takes_scale_and_shift_away(batch_of, pattern, scale, shift):
    batch = build(batch_of, [scale * (shift + x) for x in pattern])
    adv_BT = p.Whiten(eps=0.0)(p.TotalReturn()(batch), batch.mask_BT, varies(batch))
    assert varies(batch) == (len(set(pattern)) > 1)
    if varies(batch):
        assert float(adv_BT[batch.mask_BT].std()) == pytest.approx(1)
    else:
        assert (adv_BT == 0).all()


@given(value=st.floats(-1e300, 1e300), part=st.sampled_from([*GROUPED, p.BatchMean(), p.Greedy()]))
def test_equal_rewards_are_equal_at_every_size(batch_of, value, part):
    batch = build(batch_of, [value] * 8)
    assert not differing(batch).any() and not varies(batch)
    assert (part(batch) == 0).all()


@pytest.mark.parametrize("size", [1e39, 1e60, 1e100])
@pytest.mark.parametrize("part", [*GROUPED, *WHOLE, *LEARNED], ids=str)
def test_rewards_beyond_float32_are_kept(batch_of, part, size):
    adv_BT = part(build(batch_of, [size, 0.0] * 4))
    assert adv_BT.isfinite().all() and (adv_BT != 0).any()


@pytest.mark.parametrize("part", [p.GroupMean(), p.GroupMean(scale="batch"), p.StepMean()], ids=str)
def test_eps_says_where_it_dominates(batch_of, part):
    for scale, want in ((1.0, 0.0), (1e-2, 0.0), (1e-5, 1.0), (1e-7, 1.0)):
        _, dominated = advantages_of(part, build(batch_of, [0.0, scale] * 4))
        assert dominated == want, scale
    mixed = [0.0, 1.0, 0.0, 1.0, 0.0, 1e-6, 0.0, 1e-6]
    want = 0.0 if part == p.GroupMean(scale="batch") else 0.5
    assert advantages_of(part, build(batch_of, mixed))[1] == want, "one of two prompts"
    assert advantages_of(part, build(batch_of, [1.0] * 8))[1] == 0.0, "no signal, nothing to dominate"


def test_whitening_says_where_eps_dominates(batch_of):
    for scale, want in ((1.0, 0.0), (1e-3, 0.0), (1e-5, 1.0)):
        batch = build(batch_of, [0.0, scale] * 4)
        assert advantages(replace(REINFORCE, normalize=p.Whiten()), batch, batch)[1] == want, scale
    assert advantages_of(p.TotalReturn(), batch)[1] is None, "no eps in sight"


def test_a_converged_baseline_leaves_no_residue(batch_of):
    """MovingAverage and BatchMean of equal rewards: 0.1 - mean(0.1, 0.1, 0.1) is 1e-17, and no advantage."""
    batch = build(batch_of, [0.1] * 8)
    state, part = State(), p.MovingAverage()
    for _ in range(5):
        state = part.observe(replace(batch, state=state))
    assert (part(replace(batch, state=state)) == 0).all()
    assert (p.BatchMean()(build(batch_of, [0.1] * 7 + [0.1 * (1 + EQUAL / 10)])) == 0).all()


def test_a_lost_group_is_counted(batch_of):
    """MaxRL divides by a success rate, which a mean below 0 is not."""
    batch = build(batch_of, [-1.0, 1.0, -1.0, -1.0, 0.0, 1.0, 0.0, 0.0])
    adv_BT, _ = advantages_of(p.GroupMean(scale="mean"), batch)
    assert signal_metrics(batch, adv_BT, None)["advantage/lost"] == 0.5


def test_whitening_without_a_signal_is_nothing_however_much_the_advantages_vary():
    adv_BT, mask_BT = torch.tensor([[1e-7, 3e-7]]), torch.tensor([[True, True]])
    for shift in (True, False):
        assert (p.Whiten(shift=shift)(adv_BT, mask_BT, False) == 0).all(), "the error of a critic"
        assert (p.Whiten(shift=shift, eps=0.0)(adv_BT, mask_BT, True).abs() > 0.5).all(), "a small signal is one"


def test_max_rl_does_not_divide_by_the_residue_of_a_mean(batch_of):
    batch = build(batch_of, [0.1, 0.2, -0.3, 0.0, 1.0, 0.0, 0.0, 0.0])
    assert 0 < 0.1 + 0.2 - 0.3 < 1e-16
    adv_BT = p.GroupMean(scale="mean")(batch)
    assert (adv_BT[:4] == 0).all() and (adv_BT[4:] != 0).any()
