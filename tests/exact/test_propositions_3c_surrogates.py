"""Semantics 3c: surrogates, ratios, clipping, sampler correction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.exact.oracle import Batches, batch_gradients, expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes
from rung.recipes import A2C, GRPO, GSPO, PPO, Recipe
from rung.records import Scores

F64 = torch.float64
OFF = Condition("off-policy", old_kl=0.1)
SURROGATES = [p.Clip(), p.Clip(dual=3.0), p.CISPO(), p.SAPO(), p.GMPO(), p.Importance()]


def slope(surrogate: p.Surrogate, rho: float, A: float) -> float:
    """d gain / d log pi of a single token."""
    logp = torch.tensor([[rho]], dtype=F64).log().requires_grad_()
    gain = surrogate(logp, logp, torch.tensor([[A]], dtype=F64), torch.ones(1, 1, dtype=torch.bool))
    return float(torch.autograd.grad(gain.sum(), logp)[0])


# -- on policy ------------------------------------------------------------------------------------------------------------
def test_P20_Q1_at_the_old_policy_all_surrogates_are_the_policy_gradient(exact):
    size = {"samples": 2, "prompts": 2, "horizon": 2}
    base = replace(GRPO, kl=p.NoKL(), ratio=p.NoRatio(), surrogate=p.ScoreFunction())
    want = exact(base, **size)
    others = [replace(base, ratio=p.TokenRatio(), surrogate=s) for s in SURROGATES]
    others += [replace(GSPO, ratio=r) for r in (p.SequenceRatio(), p.SequenceProduct(), p.PerDecision())]
    for recipe in others:
        got = exact(recipe, **size)
        torch.testing.assert_close(got.gradient, want.gradient, msg=str(recipe.surrogate))
        torch.testing.assert_close(got.covariance, want.covariance, msg=str(recipe.surrogate))


def test_P20_with_a_critic_and_equal_advantages_ppo_is_a2c(exact):
    a2c = replace(A2C, entropy=0.0)
    ppo = replace(PPO, kl=p.NoKL(), normalize=p.AsIs())
    torch.testing.assert_close(exact(ppo, samples=2).gradient, exact(a2c, samples=2).gradient)


def test_P49_the_value_is_zero_at_ratio_one_for_sequence_means_while_the_gradient_is_not(batch_of):
    batch = batch_of([1.0, 0.0, 0.0], length=[1, 3, 2])
    for aggregate, zero in [(p.SequenceMean(), True), (p.TokenMean(), False)]:
        recipe = replace(GRPO, kl=p.NoKL(), aggregate=aggregate)
        logp = torch.zeros_like(batch.reward_BT, requires_grad=True)
        J = objective(recipe, batch, Scores(logp), recipe.credit(batch), count(batch, 3))
        assert (abs(float(J.detach())) < 1e-12) == zero
        assert torch.autograd.grad(J, logp)[0].abs().max() > 0.01


# -- off policy -----------------------------------------------------------------------------------------------------------
def off(ratio, surrogate=p.Importance(), credit=p.TotalReturn(), aggregate=p.SequenceSum()) -> Recipe:  # noqa: B008
    return Recipe(name="off", ratio=ratio, surrogate=surrogate, credit=credit, aggregate=aggregate)


def test_P21_the_ratio_of_whole_answers_is_unbiased_and_that_of_tokens_is_not(exact):
    for credit in (p.TotalReturn(), p.RewardToGo(), p.Value(p.MC())):
        product, detached = off(p.SequenceProduct(), credit=credit), off(p.SequenceProduct(), p.CISPO(high=1e9), credit)
        for recipe in (product, detached):
            assert exact(recipe, OFF).relative_error < 1e-9, recipe
    token, geometric, decision = (off(r()) for r in (p.TokenRatio, p.SequenceRatio, p.PerDecision))
    for recipe in (token, geometric, decision, off(p.NoRatio(), p.ScoreFunction())):
        assert exact(recipe, OFF).relative_error > 0.01, recipe.ratio


def test_P21_the_ratio_of_the_answer_so_far_is_unbiased_with_the_advantages_of_pi():
    """A_pi weighs what comes after a token as pi would go on; the ratio weighs what came before it."""

    class OfPi(Scene):
        def with_values(self, recipe, batch):
            drawn = self.behavior
            self.behavior = self.theta
            del self.__dict__["prob_PA"]  # V under the law that learns, not under the one that drew
            batch = super().with_values(recipe, batch)
            self.behavior = drawn
            del self.__dict__["prob_PA"]
            return batch

    def error(ratio: p.Ratio, kind: type[Scene]) -> float:
        s = kind(World(prompts=1, samples=1), OFF)
        assert s.prob_PA is not None
        return expected_gradient(off(ratio, credit=p.Value(p.TD())), s).relative_error

    assert error(p.PerDecision(), OfPi) < 1e-9
    assert error(p.TokenRatio(), OfPi) > 0.01
    assert error(p.PerDecision(), Scene) > 0.001, "V of the policy that drew"


def test_the_surrogates_part_ways_once_the_policy_has_moved(exact):
    base = replace(GRPO, kl=p.NoKL())
    different = [p.Clip(), p.Importance(), p.CISPO(high=1.05), p.SAPO(), p.GMPO()]
    gradients = [exact(replace(base, surrogate=s), OFF, samples=2).gradient for s in different]
    for i, a in enumerate(gradients):
        for b in gradients[:i]:
            assert (a - b).norm() > 1e-6


@pytest.mark.parametrize(
    ("surrogate", "rho", "A", "want", "why"),
    [
        (p.Clip(), 1.1, 1.0, 1.1, "inside"),
        (p.Clip(), 1.3, 1.0, 0.0, "good and already up: silent"),
        (p.Clip(), 0.5, 1.0, 0.5, "good but down: free"),
        (p.Clip(), 0.5, -1.0, 0.0, "bad and already down: silent"),
        (p.Clip(), 1.3, -1.0, -1.3, "bad but up: free"),
        (p.Clip(high=0.28), 1.25, 1.0, 1.25, "clip-higher: still inside"),
        (p.Clip(high=0.28), 0.75, -1.0, 0.0, "clip-higher leaves the lower edge"),
        (p.Clip(), 50.0, -1.0, -50.0, "unbounded for bad tokens"),
        (p.Clip(dual=3.0), 50.0, -1.0, 0.0, "dual clip bounds it"),
        (p.Clip(dual=3.0), 2.0, -1.0, -2.0, "dual clip below its constant"),
        (p.Clip(two_sided=4.0), 50.0, -1.0, 0.0, "two-sided bounds it"),
        (p.CISPO(high=2.0), 50.0, 1.0, 2.0, "the weight is capped, the token stays"),
        (p.CISPO(high=2.0), 0.01, -1.0, -0.01, "no lower cap"),
    ],
)
def test_P38_where_a_token_has_a_gradient(surrogate, rho, A, want, why):
    assert slope(surrogate, rho, A) == pytest.approx(want), why


@pytest.mark.parametrize("rho", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(("A", "tau"), [(1.0, 1.3), (-2.0, 0.6)])
def test_P39_the_soft_gate_has_slope_sech_squared_and_one_at_one(rho, A, tau):
    got = slope(p.SAPO(positive=1.3, negative=0.6), rho, A)
    assert got == pytest.approx(rho * A / torch.tensor(tau * (rho - 1) / 2).cosh().item() ** 2)
    if rho == 1.0:
        assert got == pytest.approx(A)


def test_P68_the_gradient_of_the_geometric_mean(batch_of):
    delta = torch.tensor([[0.5, -0.1, 0.2, 9.0]], dtype=F64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    for A, cut in [(2.0, 0.4), (-2.0, None)]:
        adv = torch.full_like(delta, A)
        gain = (p.GMPO(width=0.4)(delta, delta, adv, mask) * mask).sum() / 3
        got = torch.autograd.grad(gain, delta)[0]
        parts = torch.tensor([cut or 0.5, -0.1, 0.2], dtype=F64)
        want = parts.mean().exp() * A / 3 * torch.tensor([0.0 if cut else 1.0, 1.0, 1.0, 0.0], dtype=F64)
        torch.testing.assert_close(got[0], want)


def test_P69_without_a_cap_cispo_has_the_gradient_of_the_importance_surrogate(exact):
    base = replace(GRPO, kl=p.NoKL())
    free, plain = (exact(replace(base, surrogate=s), OFF, samples=2) for s in (p.CISPO(high=1e9), p.Importance()))
    torch.testing.assert_close(free.gradient, plain.gradient)
    torch.testing.assert_close(free.covariance, plain.covariance)


@pytest.mark.parametrize("rho", [1e-3, 0.5, 1.0, 7.0])
@pytest.mark.parametrize("A", [-1.0, 1.0])
def test_P69_and_it_never_drops_a_token(rho, A):
    assert slope(p.CISPO(), rho, A) * A > 0


def test_P63_the_kl_to_the_old_policy_has_no_gradient_there(exact):
    base = Recipe(name="x", ratio=p.TokenRatio(), surrogate=p.Importance())
    leashed = replace(base, trust=p.OldKL(coef=5.0))
    torch.testing.assert_close(exact(leashed).gradient, exact(base).gradient)
    assert (exact(leashed, OFF).gradient - exact(base, OFF).gradient).norm() > 0.01


# -- mirror descent ---------------------------------------------------------------------------------------------------------
KIMI = Recipe(name="kimi", credit=p.GroupMean(scale="none"), surrogate=p.MirrorDescent(tau=0.3))


def test_P45_at_the_sampling_policy_mirror_descent_is_the_policy_gradient_with_a_mean_baseline(exact):
    plain = replace(KIMI, surrogate=p.ScoreFunction())
    torch.testing.assert_close(exact(KIMI, samples=2).gradient, exact(plain, samples=2).gradient)


def test_P52_later_it_pulls_back_by_tau_times_the_log_ratio(exact):
    s = scene(World(prompts=1, samples=2), OFF)
    got, plain = (
        expected_gradient(replace(KIMI, surrogate=x), s) for x in (p.MirrorDescent(tau=0.3), p.ScoreFunction())
    )
    score_AD = s.jacobian[0].view(s.world.answers, s.world.horizon, -1).sum(1)
    drift_A = (s.logp(s.law(s.theta)) - s.logp(s.law(s.old))).sum(-1)[0]
    torch.testing.assert_close(got.gradient, plain.gradient - 0.3 * (s.prob_PA[0] * drift_A) @ score_AD)


def test_P62_at_the_regularized_optimum_every_answer_has_residual_zero():
    tau, R = 0.3, torch.tensor([1.0, 0.0, -0.5], dtype=F64)
    old = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    weight = old * (R / tau).exp()
    log_ratio = (weight / weight.sum() / old).log()[:, None]
    A = (R - tau * weight.sum().log())[:, None]  # R - tau log Z
    gain = p.MirrorDescent(tau)(log_ratio, log_ratio, A, torch.ones(3, 1, dtype=torch.bool))
    assert gain.abs().max() < 1e-25


# -- sampler against trainer --------------------------------------------------------------------------------------------------
GAP = Condition("gap", old_kl=0.05, sampler_kl=0.1)


def test_P64_only_the_full_sequence_weight_corrects_the_sampler(exact):
    """Three laws: mu draws, pi_old stands in the ratio, pi learns."""
    base = Recipe(name="x", ratio=p.SequenceProduct(), surrogate=p.CISPO(high=1e9))
    errors = {
        c: exact(replace(base, correction=c), GAP).relative_error
        for c in (
            p.SequenceTIS(cap=1e9),
            p.NoCorrection(),
            p.TokenTIS(cap=1e9),
            p.SequenceTIS(cap=1.0),
            p.SequenceMask(cap=1.5),
        )
    }
    full, *others = errors.values()
    assert full < 1e-9
    assert min(others) > 0.01


def test_P64_a_correction_touches_the_policy_term_only(exact):
    base = Recipe(name="x", kl=p.K3(0.5), correction=p.SequenceTIS(cap=1e9))
    s = scene(World(prompts=1, samples=1), GAP)
    shares = [expected_gradient(replace(base, kl=kl), s).gradient for kl in (p.K3(0.5), p.NoKL())]
    plain = [
        expected_gradient(replace(base, kl=kl, correction=p.NoCorrection()), s).gradient for kl in (p.K3(0.5), p.NoKL())
    ]
    torch.testing.assert_close(shares[0] - shares[1], plain[0] - plain[1])


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_Q10_the_gradient_of_each_objective_is_its_finite_difference(name):
    """One batch, the whole objective with KL, entropy and imitation, along a random direction of the parameters."""
    recipe = all_recipes()[name]
    if isinstance(recipe.surrogate, p.CISPO) or name == "trpo":
        recipe = replace(
            recipe, surrogate=p.Importance(), update=p.GradientSteps()
        )  # a stopped gradient is no derivative
    if isinstance(recipe.surrogate, p.Clip):
        recipe = replace(recipe, surrogate=replace(recipe.surrogate, low=0.9, high=9.0))  # away from its kinks
    s = scene(World(prompts=2, samples=2), Condition("near", old_kl=0.01))
    batch, T = s.rows(recipe), s.world.horizon
    cells = torch.tensor([3, 9, 17, 26])
    group_B = torch.tensor([0, 0, 1, 1])
    rows = replace(recipe.kl.shape_reward(batch).rows(cells), group_B=group_B)
    adv_BT = recipe.normalize(recipe.credit(rows), rows.mask_BT)

    def J(theta: torch.Tensor) -> torch.Tensor:
        logp, entropy, ref_kl, old_kl = (c.view(-1, T)[cells] for c in s.scores(theta))
        needs = recipe.needs
        scores = Scores(logp, entropy, ref_kl if "ref_full" in needs else None, old_kl if "old_full" in needs else None)
        return objective(recipe, rows, scores, adv_BT, count(rows, T))

    step = torch.randn(len(s.theta), dtype=F64, generator=torch.Generator().manual_seed(1))
    slope_here = torch.func.jvp(J, (s.theta,), (step,))[1]
    h = 1e-5
    torch.testing.assert_close(
        (J(s.theta + h * step) - J(s.theta - h * step)) / (2 * h), slope_here, rtol=1e-6, atol=1e-8
    )
    got = batch_gradients(recipe, s, Batches(cells[None], torch.ones(1, dtype=F64), group_B))[0] @ step
    torch.testing.assert_close(got, slope_here)
