"""Critic-based advantages and the critic's loss, computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.maths.value import gae

NAN = math.nan
# r = 0, 0, 1 and V = .5, .2, .4, with an observation after the first action and padding at the end.
REWARD = [[0.0, NAN, 0.0, 1.0, NAN]]
VALUE = [[0.5, NAN, 0.2, 0.4, NAN]]
MASK = [[1, 0, 1, 1, 0]]


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def same(got, want, why=None):
    torch.testing.assert_close(got, f(want) if isinstance(want, list) else want, rtol=1e-12, atol=1e-12, msg=why)


def spread(a, b, c):
    return [[a, 0.0, b, c, 0.0]]


@pytest.mark.parametrize(
    ("estimator", "want", "why"),
    [
        (p.TD(), spread(-0.3, 0.2, 0.6), "delta: .2 - .5, .4 - .2, 1 - .4; V after the end is 0"),
        (p.TD(gamma=0.5), spread(-0.4, 0.0, 0.6), ".1 - .5, .2 - .2, 1 - .4"),
        (p.MC(), spread(0.5, 0.8, 0.6), "the return is 1 everywhere: 1 - V"),
        (p.MC(gamma=0.5), spread(0.25 - 0.5, 0.5 - 0.2, 0.6), "returns .25, .5, 1"),
        (p.GAE(lam=0.5), spread(-0.05, 0.5, 0.6), ".6; .2 + .5 * .6; -.3 + .5 * .5"),
        (p.GAE(gamma=0.5, lam=0.5), spread(-0.3625, 0.15, 0.6), ".6; 0 + .25 * .6; -.4 + .25 * .15"),
        (p.GAE(lam=0.0), spread(-0.3, 0.2, 0.6), "lambda 0 is TD"),
        (p.GAE(lam=1.0), spread(0.5, 0.8, 0.6), "lambda 1 is Monte Carlo"),
        (p.NStep(n=1), spread(-0.3, 0.2, 0.6), "one step is TD"),
        (p.NStep(n=2), spread(-0.1, 0.8, 0.6), "V(s_2) - V(s_0) = .4 - .5; the rest is cut at the end"),
        (p.NStep(n=2, gamma=0.5), spread(0.25 * 0.4 - 0.5, 0.5 - 0.2, 0.6), "gamma^2 V(s_2) - V(s_0); .5 * 1 - .2"),
        (p.NStep(n=9), spread(0.5, 0.8, 0.6), "longer than the answer: Monte Carlo"),
        (p.LengthAdaptiveGAE(alpha=0.5), spread(-0.3 + 0.4 / 3, 0.4, 0.6), "L = 3: lambda = 1 - 1/1.5 = 1/3"),
        (p.LengthAdaptiveGAE(), spread(-0.3, 0.2, 0.6), "L = 3, alpha = .05: lambda would be below 0, so 0"),
    ],
)
def test_estimators_skip_what_the_policy_did_not_sample(batch_of, estimator, want, why):
    batch = batch_of(REWARD, mask=MASK, value_BT=VALUE)
    same(p.Value(estimator)(batch), want, why)
    compact = batch_of([[0.0, 0.0, 1.0]], mask=[[1, 1, 1]], value_BT=[[0.5, 0.2, 0.4]])
    same(p.Value(estimator)(compact), [[x for x, m in zip(want[0], MASK[0], strict=True) if m]], "compacted")


def test_length_adaptive_lambda_is_per_row(batch_of):
    batch = batch_of([[0.0, 1.0], [1.0, 0.0]], mask=[[1, 1], [1, 0]], value_BT=[[0.0, 0.0], [0.0, 0.0]])
    got = p.Value(p.LengthAdaptiveGAE(alpha=2.0))(batch)
    same(got, [[0.75, 1.0], [1.0, 0.0]], "L = 2: lambda = 1 - 1/4")


def test_gae_takes_a_lambda_per_row_and_a_last_value():
    r, v, m = f([[0.0, 1.0]] * 2), f([[0.5, 0.4]] * 2), torch.ones(2, 2, dtype=torch.bool)
    same(gae(r, v, m, 1.0, f([0.0, 1.0])), [[-0.1, 0.6], [0.5, 0.6]], "TD in the first row, Monte Carlo in the second")
    same(gae(r, v, m, 0.5, 1.0, f([2.0, 0.0])), [[0.2 - 0.5 + 0.5 * 1.6, 1.6], [0.0, 0.6]], "1 + .5 * 2 - .4 = 1.6")
    same(gae(r, v, m), gae(r, v, m, 1.0, 0.95), "the defaults")


@pytest.mark.parametrize("estimator", [p.TD(), p.MC(), p.GAE(), p.NStep(n=1), p.LengthAdaptiveGAE()], ids=str)
def test_bootstrap_counts_only_for_truncated_rows_and_only_if_asked(batch_of, estimator):
    batch = batch_of(
        [1.0, 1.0], value_BT=[[0.4], [0.4]], bootstrap_B=[2.0, NAN], truncated_B=torch.tensor([True, False])
    )
    same(p.Value(estimator)(batch), [[0.6], [0.6]], "the token limit is the end")
    same(p.Value(estimator, bootstrap_truncated=True)(batch), [[2.6], [0.6]], "V(s_L) follows the cut answer only")


def test_targets_are_advantage_plus_value_of_their_own_estimator(batch_of):
    batch = batch_of(REWARD, mask=MASK, value_BT=VALUE)
    same(p.Value(p.TD()).targets(batch), spread(0.2, 0.4, 1.0), "delta + V = r + V(s_next)")
    same(p.Value(p.TD(), target=p.MC()).targets(batch), spread(1.0, 1.0, 1.0), "the Monte Carlo return")
    same(p.Value(p.GAE(lam=0.5)).targets(batch), spread(0.45, 0.7, 1.0), "-.05 + .5, .5 + .2, .6 + .4")


def test_a_critic_of_zero_is_reward_to_go(batch_of):
    batch = batch_of([[1.0, 0.5], [2.0, NAN]], mask=[[1, 1], [1, 0]], value_BT=[[0.0, 0.0], [0.0, 0.0]])
    same(p.Value(p.MC())(batch), p.RewardToGo()(batch))


def test_invalid_rows_have_no_advantage(batch_of):
    batch = batch_of([1.0, NAN], value_BT=[[0.4], [0.3]])
    same(p.Value(p.GAE())(batch), [[0.6], [0.0]])


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "slope", "why"),
    [
        (1.0, 0.0, 3.0, None, 1.0, -1.0, "w/2 (1 - 3)^2, slope w (V - target), w = 1/2"),
        (1.0, 0.0, 3.0, 0.2, 1.96, 0.0, "moved past .2 towards the target: held at w/2 (.2 - 3)^2, no slope"),
        (0.1, 0.0, 3.0, 0.2, 0.25 * 2.9**2, -1.45, "within the clip: plain"),
        (-1.0, 0.0, 3.0, 0.2, 4.0, -2.0, "moved away: the larger error keeps its slope"),
        (4.0, 0.0, 3.0, 0.2, 1.96, 0.0, "overshot, yet the clipped error is the larger"),
    ],
)
def test_critic_loss(value, old, target, clip, loss, slope, why):
    V = f([[value]]).requires_grad_()
    got = p.Critic(clip=clip).loss(V, f([[old]]), f([[target]]), f([[0.5]]))
    same(got, f(loss), why)
    same(torch.autograd.grad(got, V)[0], [[slope]], why)


def test_critic_loss_is_a_weighted_sum(batch_of):
    got = p.Critic().loss(
        f([[1.0, 5.0], [2.0, 9.0]]), f([[0.0] * 2] * 2), f([[0.0] * 2] * 2), f([[0.5, 0.0], [0.25, 0.0]])
    )
    same(got, f(0.5 * (0.5 * 1 + 0.25 * 4)))


def test_targets_ignore_what_padding_holds(batch_of):
    batch = batch_of(REWARD, mask=MASK, value_BT=VALUE)
    junk = replace(batch, value_BT=torch.where(batch.mask_BT, batch.value_BT, 1e9))
    same(p.Value(p.GAE()).targets(junk), p.Value(p.GAE()).targets(batch))
