"""Semantics 3d: KL estimators as a value, as a loss and as a reward; entropy; adaptive coefficients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.exact.causes import AnswerKL
from rung.exact.estimate import cosine
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.kl import k1, k2, k3
from rung.maths.logprob import entropy_of, full_kl
from rung.recipes import GRPO, Recipe
from rung.records import Scores, State

F64 = torch.float64
WORLD = World(prompts=1, samples=1)
OFF = Condition("off-policy", old_kl=0.1)


class WithoutReward(Scene):
    """Nothing but the leash."""

    def __init__(self, world: World = WORLD, condition: Condition | None = None) -> None:
        super().__init__(world, condition or Condition())
        self.reward_PAT = torch.zeros_like(self.reward_PAT)


def delta(s: Scene) -> torch.Tensor:
    """log pi - log pi_ref of each token of each answer: [A, T]."""
    return (s.logp(s.law(s.theta)) - s.logp(s.law(s.ref)))[0]


def mean_gradient(kl, s: Scene | None = None, **parts) -> torch.Tensor:
    """The expected gradient of + KL as this part puts it into the objective."""
    return -expected_gradient(Recipe(name="x", kl=kl, **parts), s or WithoutReward()).gradient


def true_kl_gradient(s: Scene | None = None) -> torch.Tensor:
    s = s or WithoutReward()
    return -s.true_gradient(Recipe(name="x", kl=p.K1(1.0)))


def per_state(s: Scene, divergence) -> torch.Tensor:
    """grad sum_s d(s) KL(s) with the states' visits d held fixed; divergence maps (log pi, log ref) to [P, S]."""
    visits_S = torch.zeros(s.world.states, dtype=F64)
    visits_S.index_add_(
        0, s.tree.state_AT[s.tree.mask_AT], s.prob_PA[0][:, None].expand_as(s.tree.mask_AT)[s.tree.mask_AT]
    )
    theta = s.theta.clone().requires_grad_()
    return torch.autograd.grad((visits_S * divergence(s.law(theta), s.law(s.ref))[0]).sum(), theta)[0]


def test_P22_k1_and_k3_have_the_kl_as_their_mean_and_k2_has_not():
    s = scene(WORLD, Condition())
    means = [float(s.prob_PA[0] @ (k(delta(s)) * s.tree.mask_AT).sum(1)) for k in (k1, k3, k2)]
    assert means[0] == pytest.approx(s.kl(s.theta, s.ref))
    assert means[1] == pytest.approx(s.kl(s.theta, s.ref))
    assert abs(means[2] - means[0]) > 1e-3


def test_P23_k3_the_wrong_way_around_is_no_kl():
    """expm1(log pi - log ref) - (log pi - log ref) has mean chi^2 - KL: the mistake of a published default."""
    s = scene(WORLD, Condition())
    wrong = float(s.prob_PA[0] @ (k3(-delta(s)) * s.tree.mask_AT).sum(1))
    chi2 = float(s.prob_PA[0] @ (delta(s).expm1() * s.tree.mask_AT).sum(1))
    assert wrong == pytest.approx(chi2 - s.kl(s.theta, s.ref))
    assert wrong > 1.05 * s.kl(s.theta, s.ref)


@pytest.mark.parametrize("credit", [p.RewardToGo(), p.TotalReturn()])
def test_P24_k1_in_the_reward_is_the_gradient_of_the_kl_between_answers(credit):
    torch.testing.assert_close(mean_gradient(p.K1(1.0), credit=credit), true_kl_gradient())


def test_P31_so_reinforce_on_the_shaped_reward_climbs_J_minus_beta_kl(exact):
    for beta in (0.1, 1.0):
        assert exact(Recipe(name="x", kl=p.K1(beta), credit=p.LeaveOneOut()), samples=2).relative_error < 1e-10


def test_P25_k1_in_the_loss_has_no_mean_gradient():
    class Loose(p.K1):  # K1(where="loss") is refused in a recipe, for this reason
        pass

    recipe = Recipe(name="x", kl=p.K2(1.0))
    object.__setattr__(recipe, "kl", Loose(1.0, where="loss"))
    e = expected_gradient(recipe, WithoutReward())
    assert e.gradient.abs().max() < 1e-12
    assert e.trace > 1e-3


def test_P26_token_k2_is_the_reverse_kl_of_frozen_states_and_not_that_of_answers():
    s = WithoutReward()
    got = mean_gradient(p.K2(1.0), s)
    torch.testing.assert_close(got, per_state(s, full_kl))
    torch.testing.assert_close(got, mean_gradient(p.K1(1.0), s, credit=p.RewardToGo(gamma=0.0)))
    torch.testing.assert_close(got, mean_gradient(p.StraightThrough(1.0), s))
    torch.testing.assert_close(got, mean_gradient(p.FullKL(1.0), s))
    assert cosine(got, true_kl_gradient(s)) < 0.9999


def test_P27_token_k3_is_the_forward_kl_of_frozen_states():
    s = WithoutReward()
    got = mean_gradient(p.K3(1.0), s)
    torch.testing.assert_close(got, per_state(s, lambda pi, ref: full_kl(ref, pi)))
    assert cosine(got, true_kl_gradient(s)) < 0.9999
    assert (got - mean_gradient(p.K2(1.0), s)).norm() > 1e-2


def test_P28_k2_of_the_whole_answer_is_the_gradient_of_the_kl_between_answers():
    torch.testing.assert_close(mean_gradient(p.SequenceK2(1.0)), true_kl_gradient())


def test_P29_rho_k3_is_the_reverse_kl_of_the_old_policys_states():
    s = WithoutReward(WORLD, OFF)
    with_ratio = {"ratio": p.TokenRatio(), "surrogate": p.Importance()}
    got, want = mean_gradient(p.RatioK3(1.0), s, **with_ratio), per_state(s, full_kl)
    torch.testing.assert_close(got, want)
    for ratio in (p.SequenceRatio(), p.SequenceProduct(), p.PerDecision()):  # whatever ratio the advantages have
        torch.testing.assert_close(mean_gradient(p.RatioK3(1.0), s, **{**with_ratio, "ratio": ratio}), want)
    for biased in (p.K3(1.0), p.K2(1.0)):
        assert (mean_gradient(biased, s, **with_ratio) - want).norm() > 1e-3


def test_P30_so_is_rho_k1():
    class RatioK1(p.RatioK3):
        def value(self, delta_BT, log_ratio_BT, scores):
            return log_ratio_BT.exp() * k1(delta_BT)

    s = WithoutReward(WORLD, OFF)
    got = mean_gradient(RatioK1(1.0), s, ratio=p.TokenRatio(), surrogate=p.Importance())
    torch.testing.assert_close(got, per_state(s, full_kl))


def test_with_the_ratio_of_whole_answers_rho_k3_is_exact_off_policy():
    s = WithoutReward(WORLD, OFF)
    got = mean_gradient(AnswerKL(1.0), s)
    torch.testing.assert_close(got, true_kl_gradient(s))


# -- entropy ------------------------------------------------------------------------------------------------------------------
def test_P70_the_entropy_bonus_is_token_k2_to_a_uniform_reference():
    class Uniform(WithoutReward):
        def law(self, theta, temperature=1.0):
            out = super().law(theta, temperature)
            return out * 0 - torch.tensor(float(out.shape[-1]), dtype=F64).log() if theta is self.ref else out

    s = Uniform()
    bonus = expected_gradient(Recipe(name="x", entropy=1.0), s).gradient
    torch.testing.assert_close(bonus, -mean_gradient(p.K2(1.0), s))
    torch.testing.assert_close(bonus, per_state(s, lambda pi, ref: entropy_of(pi)))


def test_P32_the_bonus_is_not_the_gradient_of_the_entropy_of_answers_and_minus_log_p_has_none():
    s = WithoutReward()
    bonus = expected_gradient(Recipe(name="x", entropy=1.0), s).gradient
    theta = s.theta.clone().requires_grad_()
    logp_A = s.logp(s.law(theta)).sum(-1)[0]
    whole = torch.autograd.grad(-(logp_A.exp() * logp_A).sum(), theta)[0]
    assert 0 < cosine(bonus, whole) < 0.9999
    sampled = -(s.prob_PA.flatten() @ s.jacobian[0].view(s.world.answers, s.world.horizon, -1).sum(1))
    assert sampled.abs().max() < 1e-12


# -- numbers that are too large --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gap", [-1e4, -60.0, -19.0, -3.0, 0.0, 3.0, 60.0, 1e4])
@pytest.mark.parametrize("kl", [p.K2(1.0), p.K3(1.0), p.StraightThrough(1.0), p.RatioK3(1.0), p.SequenceK2(1.0)])
def test_P40_P53_clamped_before_the_exponential_so_that_nothing_overflows_and_a_far_token_is_pulled_back(
    batch_of, kl, gap
):
    batch = batch_of([1.0], ref_logp_BT=torch.full((1, 1), gap, dtype=F64), state=State(kl_coef=1.0))
    logp = torch.zeros(1, 1, dtype=F64, requires_grad=True)
    value = kl.penalty(batch, Scores(logp), logp, logp)
    (grad,) = torch.autograd.grad(value.sum(), logp)
    assert value.isfinite().all() and grad.isfinite().all()
    if 0 < abs(gap) < 20:
        assert grad.abs() > 0, "a clamp on the result would silence this token"


def test_P60_the_kl_of_answers_is_their_mean_length_times_that_of_tokens():
    s = scene(WORLD, Condition())
    kl_AT = s.at_states(full_kl(s.law(s.theta), s.law(s.ref)))[0]
    length = float(s.prob_PA[0] @ s.tree.length_A.double())
    per_token = float(s.prob_PA[0] @ kl_AT.sum(1)) / length
    assert length * per_token == pytest.approx(s.kl(s.theta, s.ref))
    assert length > 1.5


def test_P61_the_optimum_is_the_reference_tilted_by_the_reward():
    beta = 0.4
    s = Scene(World(horizon=2, prompts=1, samples=1, policy="tabular", reward="real"), Condition())
    ref_A = s.logp(s.law(s.ref)).sum(-1)[0]
    target_A = (ref_A + s.reward_PAT[0].sum(1) / beta).softmax(0)
    table = torch.zeros(s.world.states, s.world.vocabulary, dtype=F64)  # p(token | state) from the answers that pass
    for a in range(s.world.answers):
        for t in range(int(s.tree.length_A[a])):
            table[s.tree.state_AT[a, t], s.tree.token_AT[a, t]] += target_A[a]
    s.theta = s.old = s.behavior = table.log().flatten()
    recipe = Recipe(name="x", kl=p.K1(beta))
    assert expected_gradient(recipe, s).gradient.abs().max() < 1e-12
    log_Z = (ref_A + s.reward_PAT[0].sum(1) / beta).logsumexp(0)
    torch.testing.assert_close(s.objective(s.theta, recipe), beta * log_Z)


def test_P76_k2_and_k3_are_never_negative_and_differ_by_the_third_order():
    d = torch.linspace(-8, 8, 4001, dtype=F64)
    assert (k2(d) >= 0).all() and (k3(d) >= 0).all()
    for h in (1e-1, 1e-2):
        small = torch.tensor([h, -h], dtype=F64)
        assert ((k3(small) - k2(small)).abs() < h**3 / 5).all()


# -- adaptive coefficients ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kl", "factor"), [(0.001, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.01, 1.0), (0.015, 1.0), (0.0151, 2.0), (1.0, 2.0)]
)
def test_Q_the_old_kl_coefficient_halves_and_doubles(kl, factor):
    assert p.OldKL(1.0, target=0.01).observe(State(trust_coef=3.0), kl).trust_coef == pytest.approx(3.0 * factor)


@pytest.mark.parametrize(("kl", "error"), [(6.0, 0.0), (6.6, 0.1), (100.0, 0.2), (0.0, -0.2)])
def test_Q_zieglers_controller_is_cut_at_a_fifth(kl, error):
    part = p.K1(0.1, target=6.0, horizon=1000)
    assert part.observe(State(kl_coef=0.1), kl, 50).kl_coef == pytest.approx(0.1 * (1 + error * 50 / 1000))
    assert p.K1(0.1).observe(State(kl_coef=0.1), kl, 50).kl_coef == 0.1


def test_P48_a_kl_in_the_loss_of_grpo_is_outside_the_std(exact):
    """The share of the KL in GRPO's gradient does not depend on the scale of the rewards."""
    size = {"samples": 2, "reward": "real"}
    with_kl, without = exact(GRPO, **size).gradient, exact(replace(GRPO, kl=p.NoKL()), **size).gradient
    alone = mean_gradient(
        p.K3(0.04), aggregate=p.SequenceMean(), s=WithoutReward(World(prompts=1, samples=1, reward="real"))
    )
    torch.testing.assert_close(without - with_kl, alone)
