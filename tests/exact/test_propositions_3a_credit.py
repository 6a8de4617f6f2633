"""Semantics 3a: estimators and baselines. Every expectation is exact, by enumeration of a small token world."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import rung.parts as p
from rung.errors import InputError
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.logprob import token_logprob
from rung.recipes import GRPO, REINFORCE, REMAX, Recipe
from rung.records import State

F64 = torch.float64
WORLD = World(prompts=1, samples=1)


def recipe(credit: p.Credit = p.TotalReturn(), **parts) -> Recipe:  # noqa: B008
    return Recipe(name="trial", credit=credit, **parts)


def unbiased(e) -> bool:
    return e.relative_error < 1e-10


def test_P1_a_score_has_mean_zero_after_every_prefix():
    s = scene(WORLD, Condition())
    logp = s.jacobian[0].view(s.world.answers, s.world.horizon, -1)
    prob_A = s.prob_PA[0]
    torch.testing.assert_close(prob_A.sum(), torch.tensor(1.0, dtype=F64))
    assert (prob_A @ logp.sum(1)).abs().max() < 1e-12
    for state in range(s.world.states):
        at_AT = (s.tree.state_AT == state) & s.tree.mask_AT
        assert torch.einsum("at,atd->d", prob_A[:, None] * at_AT, logp).abs().max() < 1e-12


def test_P1_holds_for_the_head_that_trains():
    hidden, weight = torch.randn(1, 5).expand(4, 5), torch.randn(4, 5, requires_grad=True)
    logp, _ = token_logprob(hidden, weight, torch.arange(4), temperature=0.7)
    (logp.exp().detach() * logp).sum().backward()
    assert weight.grad.abs().max() < 1e-6


@pytest.mark.parametrize("reward", ["binary", "real", "dense"])
@pytest.mark.parametrize("policy", ["tabular", "mlp", "transformer"])
def test_P2_reinforce_is_unbiased(exact, reward, policy):
    assert unbiased(exact(REINFORCE, reward=reward, policy=policy))


def test_P3_reward_to_go_has_the_expectation_of_the_full_return(exact):
    full, to_go = (exact(recipe(c)) for c in (p.TotalReturn(), p.RewardToGo()))
    torch.testing.assert_close(full.gradient, to_go.gradient)
    assert full.trace != pytest.approx(to_go.trace)


def test_P4_one_reward_at_the_end_makes_them_equal_row_by_row():
    rows = scene(World(prompts=1, samples=1, reward="real"), Condition()).rows(REINFORCE)
    torch.testing.assert_close(p.TotalReturn()(rows), p.RewardToGo()(rows))


def test_P5_a_discount_needs_its_factor_at_the_state_as_well():
    s = scene(WORLD, Condition())
    truth = s.true_gradient(REINFORCE, gamma=0.8)
    usual, right = (
        expected_gradient(recipe(p.RewardToGo(gamma=0.8, discount_state_weight=keep)), s) for keep in (False, True)
    )
    torch.testing.assert_close(right.gradient, truth)
    full = expected_gradient(recipe(p.TotalReturn(gamma=0.8)), s)
    torch.testing.assert_close(full.gradient, truth)
    assert 0.8 < float(torch.cosine_similarity(usual.gradient, truth, dim=0)) < 1 - 1e-5


def test_P7_any_baseline_of_the_state_keeps_the_expectation(exact):
    assert unbiased(exact(recipe(p.Value(p.MC())), Condition(critic="wrong")))


@pytest.mark.parametrize("G", [2, 3])
def test_P9_P10_leave_one_out_is_unbiased_and_the_group_mean_shrinks_by_G_minus_1_over_G(exact, G):
    assert unbiased(exact(recipe(p.LeaveOneOut()), samples=G))
    centered = exact(recipe(p.GroupMean(scale="none")), samples=G)
    assert centered.bend < 1e-10
    assert centered.scale == pytest.approx((G - 1) / G)


def test_P11_leave_one_out_is_the_centered_group_times_a_constant_row_by_row(batch_of):
    batch = batch_of([0.3, 1.0, -2.0, 0.0, 5.0, 1.0], [0, 1, 0, 1, 0, 1])
    torch.testing.assert_close(p.LeaveOneOut()(batch), 3 / 2 * p.GroupMean(scale="none")(batch))


@pytest.mark.parametrize("gap", [1e-3, 1.0, 1e4])
def test_P12_two_answers_get_plus_minus_one_over_root_two_whatever_the_gap(batch_of, gap):
    batch = batch_of([2.0 + gap, 2.0])
    want = torch.tensor([[1.0], [-1.0]], dtype=F64)
    torch.testing.assert_close(p.GroupMean(eps=0.0)(batch), want / math.sqrt(2))
    torch.testing.assert_close(p.GroupMean(eps=0.0, bessel=False)(batch), want)


def coefficient(batch_of, G: int, chance: float) -> float:
    """E[A | right] - E[A | wrong] of one answer among G, the others right with this chance, by the part that trains."""
    part, out = p.GroupMean(eps=0.0), 0.0
    for others in range(G):
        weight = math.comb(G - 1, others) * chance**others * (1 - chance) ** (G - 1 - others)
        A = [part(batch_of([mine, *[1.0] * others, *[0.0] * (G - 1 - others)]))[0, 0] for mine in (1.0, 0.0)]
        out += weight * float(A[0] - A[1])
    return out


def test_P13_binary_rewards_scale_the_gradient_by_the_difference_of_expected_advantages(exact, batch_of):
    chance = 0.5 + math.sqrt(0.25 - 1 / 2.001**2)
    assert coefficient(batch_of, 2, chance) == pytest.approx(0.707, abs=5e-4)
    assert coefficient(batch_of, 3, chance) == pytest.approx(1.155, abs=5e-4)
    assert coefficient(batch_of, 64, chance) == pytest.approx(1.969, abs=5e-3)
    s = scene(World(prompts=1, samples=3, reward="binary", seed=2), Condition())
    p_right = float(s.prob_PA[0] @ s.reward_PAT[0].sum(1))
    e = expected_gradient(recipe(p.GroupMean(eps=0.0)), s)
    assert e.bend < 1e-10
    assert e.scale == pytest.approx(coefficient(batch_of, 3, p_right))


def test_P13_so_the_std_bends_the_gradient_of_several_prompts(exact):
    size = {"prompts": 2, "horizon": 2, "samples": 3, "reward": "real"}
    assert exact(recipe(p.GroupMean()), **size).cosine < 0.999
    assert exact(recipe(p.GroupMean(scale="none")), **size).bend < 1e-10


def keeps(s: Scene, G: int) -> list[float]:
    """1 - p^G - (1-p)^G of each prompt: how often its group has a difference."""
    chance_P = (s.prob_PA * s.reward_PAT.sum(2)).sum(1).tolist()
    return [1 - c**G - (1 - c) ** G for c in chance_P]


@pytest.mark.parametrize("G", [2, 3])
def test_P14_given_that_its_group_is_kept_a_prompt_weighs_more(G):
    s = scene(World(prompts=1, samples=G, reward="binary", seed=1), Condition())
    e = expected_gradient(
        recipe(p.LeaveOneOut(), data=p.Data(resample=400)), s
    )  # the only prompt: drawn again and again
    assert e.bend < 1e-10
    assert e.scale == pytest.approx(1 / keeps(s, G)[0])
    assert expected_gradient(recipe(p.LeaveOneOut()), s).relative_error < 1e-10


@pytest.mark.parametrize("P", [2, 3])
def test_P14_but_with_other_prompts_in_the_place_of_the_dropped_only_one_scale_is_left(P):
    s = scene(World(prompts=P, horizon=2, samples=2, reward="binary", seed=1), Condition())
    keep_P = keeps(s, 2)
    assert max(keep_P) > 1.2 * min(keep_P), "prompts that are kept equally often could not tell"
    e = expected_gradient(recipe(p.LeaveOneOut(), data=p.Data(resample=400)), s)
    assert e.bend < 1e-10
    assert e.scale == pytest.approx(P / sum(keep_P))


def test_P14_drawing_the_same_prompt_until_its_group_differs_does_weigh_the_prompts():
    world = World(prompts=2, horizon=2, samples=2, reward="binary", seed=1)
    s, own_P = scene(world, Condition()), []
    for x in range(2):  # the part of the gradient that comes from one prompt
        alone = Scene(world, Condition())
        alone.reward_PAT = alone.reward_PAT * (torch.arange(2) == x)[:, None, None]
        own_P.append(alone.true_gradient(recipe(p.LeaveOneOut())))
    weighed = sum(g / k for g, k in zip(own_P, keeps(s, 2), strict=True))
    assert float(torch.cosine_similarity(weighed, s.true_gradient(recipe(p.LeaveOneOut())), dim=0)) < 0.9999


def test_P16_the_greedy_answer_is_an_unbiased_baseline(exact):
    assert unbiased(exact(recipe(p.Greedy())))
    assert unbiased(exact(REMAX))


@dataclass(frozen=True)
class Leaky(p.MovingAverage):
    """The mistake of P44: the batch enters the baseline before it is subtracted."""

    def __call__(self, batch):
        return super().__call__(replace(batch, state=self.observe(batch)))


def test_P44_a_moving_average_that_holds_the_own_sample_shrinks_the_gradient(exact):
    assert unbiased(exact(recipe(p.MovingAverage(rate=0.1, debias=False))))
    leak = exact(recipe(Leaky(rate=0.1, debias=False)))
    assert leak.bend < 1e-10
    assert leak.scale == pytest.approx(0.9)


@pytest.mark.parametrize(("P", "G"), [(1, 2), (2, 1), (2, 2)])
def test_P46_the_mean_of_the_batch_shrinks_by_one_over_B_and_leaving_one_out_does_not(exact, P, G):
    size = {"prompts": P, "samples": G, "horizon": 2}
    mean = exact(recipe(p.BatchMean()), **size)
    assert mean.bend < 1e-10
    assert mean.scale == pytest.approx(1 - 1 / (P * G))
    assert unbiased(exact(recipe(p.BatchMean(leave_one_out=True)), **size))


@pytest.mark.parametrize(
    ("part", "power"),
    [
        (p.GroupMean(eps=0.0), 0),
        (p.GroupMean(scale="batch", eps=0.0), 0),
        (p.GroupMean(scale="none"), 1),
        (p.LeaveOneOut(), 1),
        (p.BatchMean(), 1),
        (p.LengthWeighted(), 1),
    ],
)
def test_P47_rewards_in_other_units(batch_of, part, power):
    a, c = 3.7, -11.0
    R, group, length = [0.1, 2.0, 0.7, -1.0, 0.4, 0.4], [0, 0, 0, 1, 1, 1], [1, 3, 2, 2, 1, 3]
    plain, moved = (part(batch_of(x, group, length)) for x in (R, [a * r + c for r in R]))
    last = batch_of(R, group, length).mask_BT
    torch.testing.assert_close(moved[last], a**power * plain[last])


def test_P48_a_kl_before_the_std_has_another_weight_in_each_group(batch_of):
    R, group = [0.0, 1.0, 0.0, 5.0], [0, 0, 1, 1]
    delta_BT = torch.tensor([[0.3], [-0.2], [0.1], [0.4]], dtype=F64)
    batch = batch_of(R, group, ref_logp_BT=-delta_BT, state=State(kl_coef=0.1))
    shaped = p.K1(0.1).shape_reward(batch)
    for part in (p.LeaveOneOut(), p.GroupMean(scale="none")):
        penalty = part(replace(batch, reward_BT=delta_BT))
        torch.testing.assert_close(part(shaped), part(batch) - 0.1 * penalty)
    std, scaled = p.GroupMean(eps=0.0), p.GroupMean(scale="none")
    sigma = shaped.reward_BT.view(2, 2).std(1).repeat_interleave(2)[:, None]
    torch.testing.assert_close(std(shaped), (scaled(batch) - 0.1 * scaled(replace(batch, reward_BT=delta_BT))) / sigma)
    with pytest.raises(InputError, match="beta/std"):
        replace(GRPO, kl=p.K1(0.1))


@pytest.mark.parametrize("G", [2, 3])
def test_P56_dividing_by_the_mean_sums_the_first_terms_of_the_log_likelihood(G):
    s = scene(World(prompts=1, samples=G, reward="binary", seed=1), Condition())
    chance = float(s.prob_PA[0] @ s.reward_PAT[0].sum(1))
    e = expected_gradient(recipe(p.GroupMean(scale="mean")), s)
    assert e.bend < 1e-10
    assert e.scale == pytest.approx((1 - (1 - chance) ** (G - 1)) / chance)


def test_P66_process_supervision_normalizes_the_pooled_steps_and_sums_them_to_go(batch_of):
    reward = [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    ends = torch.tensor([[True, False, True], [False, True, False]])
    got = p.StepMean(eps=0.0)(batch_of(reward, step_end_BT=ends))
    z = (torch.tensor([1.0, 2.0, 3.0], dtype=F64) - 2) / 1.0
    torch.testing.assert_close(got, torch.tensor([[z[0] + z[1], z[1], z[1]], [z[2], z[2], 0.0]], dtype=F64))


def test_P66_one_step_an_answer_is_outcome_supervision(batch_of):
    batch = batch_of([0.0, 1.0, 1.0, 0.2], [0, 0, 1, 1], [2, 1, 3, 2])
    torch.testing.assert_close(p.StepMean()(batch), p.GroupMean()(batch))


@pytest.mark.parametrize(("G", "k"), [(4, 1), (8, 3), (64, 63)])
def test_P67_k_right_of_G(batch_of, G, k):
    A = p.GroupMean(eps=0.0)(batch_of([1.0] * k + [0.0] * (G - k)))[:, 0]
    assert float(A[0]) == pytest.approx(math.sqrt((G - 1) / G) * math.sqrt((1 - k / G) / (k / G)))
    assert float(A.sum()) == pytest.approx(0.0, abs=1e-12)
    assert float(A.square().sum()) == pytest.approx(G - 1)


def test_P71_adam_does_not_see_a_constant_before_the_objective_but_sgd_clipping_and_epsilon_do():
    def after(rule, c: float, clip: float = 0.0) -> torch.Tensor:
        theta = torch.tensor([1.0, -2.0], dtype=F64, requires_grad=True)
        optimizer = rule([theta])
        for _ in range(3):
            optimizer.zero_grad()
            (c * (theta * torch.tensor([3.0, 1.0], dtype=F64)).sum() + c * theta.square().sum()).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_([theta], clip)
            optimizer.step()
        return theta.detach()

    def adam(eps):
        return lambda params: torch.optim.AdamW(params, lr=0.1, eps=eps, weight_decay=0.0)

    def sgd(params):
        return torch.optim.SGD(params, lr=0.1)

    torch.testing.assert_close(after(adam(0.0), 1.0), after(adam(0.0), 1e-3))
    for rule, c, clip in [(adam(1e-8), 1e-9, 0.0), (sgd, 0.5, 0.0), (sgd, 0.05, 1.0)]:
        assert (after(rule, 1.0, clip) - after(rule, c, clip)).abs().max() > 1e-3


def test_P74_whitening_after_the_group_mean_moves_groups_without_signal(batch_of):
    batch = batch_of([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], [3, 1, 1, 1])
    centered = p.GroupMean(scale="none")(batch)
    assert (centered[2:] == 0).all()
    A = p.Whiten(bessel=False, eps=0.0)(centered, batch.mask_BT)
    #  tokens: .5 .5 .5 -.5 0 0 -> mean 1/6, variance 1/6 - 1/36 = 5/36
    assert float(A[2, 0]) == pytest.approx(-(1 / 6) / math.sqrt(5 / 36))
    assert float(p.Whiten(shift=False)(centered, batch.mask_BT)[2, 0]) == 0.0
