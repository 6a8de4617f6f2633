"""Semantics 3b: the critic and GAE."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.credit import reward_to_go
from rung.maths.value import gae
from rung.recipes import Recipe

F64 = torch.float64
WRONG = Condition("wrong critic", critic="wrong")
LAMBDAS = (0.0, 0.5, 0.9, 1.0)


def with_lambda(lam: float) -> Recipe:
    return Recipe(name="trial", credit=p.Value(p.GAE(lam=lam)))


def random_rows(seed: int = 0, B: int = 5, T: int = 6):
    g = torch.Generator().manual_seed(seed)
    r_BT, V_BT = torch.randn(2, B, T, generator=g, dtype=F64)
    return r_BT, V_BT, torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=g)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_P17_the_two_ends_of_gae_are_monte_carlo_and_td(batch_of, gamma):
    r_BT, V_BT, mask_BT = random_rows()
    batch = replace(batch_of(r_BT.tolist()), mask_BT=mask_BT, value_BT=V_BT)
    ends = torch.nn.functional.pad(V_BT * mask_BT, (0, 1))[:, 1:]
    to_go = reward_to_go(r_BT, mask_BT, gamma)
    for estimator, want in [(p.MC(gamma), to_go - V_BT), (p.TD(gamma), r_BT + gamma * ends - V_BT)]:
        lam = 1.0 if isinstance(estimator, p.MC) else 0.0
        for part in (estimator, p.GAE(gamma, lam), p.NStep(100 if lam else 1, gamma)):
            torch.testing.assert_close(p.Value(part)(batch), want * mask_BT)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_P18_an_exact_value_leaves_no_bias_whatever_lambda(exact, lam):
    assert exact(with_lambda(lam)).relative_error < 1e-10


@pytest.mark.parametrize("part", [p.TD(), p.NStep(2), p.LengthAdaptiveGAE()])
def test_P18_nor_whatever_the_estimator(exact, part):
    assert exact(Recipe(name="trial", credit=p.Value(part))).relative_error < 1e-10


@pytest.mark.parametrize(
    ("seed", "want"),
    [(0, (1.1140, 0.6836, 0.1581, 0.0)), (1, (0.8270, 0.3232, 0.0510, 0.0)), (2, (0.7010, 0.3479, 0.0710, 0.0))],
)
def test_P19_a_wrong_value_bends_by_what_it_is_wrong_about_later_states(seed, want):
    """E g - grad J = (1 - lam) E sum_t s_t sum_{l>0} lam^(l-1) e(s_{t+l}), e = V - V_exact: nothing is left at lam = 1."""
    world = World(prompts=1, samples=1, seed=seed)
    wrong, exact = (scene(world, c) for c in (WRONG, Condition()))
    wrong_V, exact_V = (s.rows(with_lambda(1.0)).value_BT for s in (wrong, exact))
    score_ATD = wrong.jacobian[0].view(world.answers, world.horizon, -1)
    error_AT = wrong.prob_PA[0][:, None] * (wrong_V - exact_V)
    for lam, number in zip(LAMBDAS, want, strict=True):
        bias = torch.zeros_like(score_ATD[0, 0])
        for t in range(world.horizon):
            for later in range(1, world.horizon - t):
                bias += (1 - lam) * lam ** (later - 1) * (error_AT[:, t + later] @ score_ATD[:, t])
        e = expected_gradient(with_lambda(lam), wrong)
        torch.testing.assert_close(e.gradient - e.target, bias, rtol=0, atol=1e-12)
        assert e.relative_error == pytest.approx(number, abs=1e-4)


def test_P8_P19_that_the_exact_advantage_has_the_least_variance_is_no_theorem():
    """A frequent good answer scores little; taking V from all answers makes the rare ones, which score much, loud.

    One token, p = P(good), q = (1 - p)/2 each for the others: |s|^2 is a = (1-p)^2 + 2 q^2 or b = (1-q)^2 + q^2 + p^2, so
    Var = p a - p^2 a without a baseline, and p (1-p)^2 a + (1-p) p^2 b - p^2 a with V = p.
    """
    s = Scene(World(horizon=1, prompts=1, samples=1, policy="tabular"), Condition())
    s.theta = s.old = s.behavior = torch.tensor([3.0, 0.0, 0.0], dtype=F64)
    s.reward_PAT = torch.tensor([[[1.0], [0.0], [0.0]]], dtype=F64)
    td, plain = (expected_gradient(r, s) for r in (with_lambda(0.0), Recipe(name="plain")))
    torch.testing.assert_close(td.gradient, plain.gradient)
    good = math.exp(3) / (math.exp(3) + 2)
    q = (1 - good) / 2
    a, b = (1 - good) ** 2 + 2 * q**2, (1 - q) ** 2 + q**2 + good**2
    assert plain.trace == pytest.approx(good * a - good**2 * a)
    assert td.trace == pytest.approx(good * (1 - good) ** 2 * a + (1 - good) * good**2 * b - good**2 * a)
    assert td.trace > 100 * plain.trace


@pytest.mark.parametrize(
    ("value", "old", "target", "moves", "why"),
    [
        (1.5, 1.0, 3.0, False, "moved towards the return beyond the clip: no gradient"),
        (0.5, 1.0, 3.0, True, "moved away from the return: the unclipped error is larger"),
        (1.1, 1.0, 3.0, True, "inside the clip"),
        (0.5, 1.0, -3.0, False, "the same, downwards"),
        (1.5, 1.0, -3.0, True, "the same, downwards"),
    ],
)
def test_P57_where_a_clipped_value_loss_has_no_gradient(value, old, target, moves, why):
    V = torch.tensor([[value]], requires_grad=True)
    p.Critic(clip=0.2).loss(V, torch.tensor([[old]]), torch.tensor([[target]]), torch.ones(1, 1)).backward()
    assert bool(V.grad.abs() > 0) == moves, why


def test_P58_the_performance_difference_is_the_expected_advantage_under_the_new_policy():
    """J(pi') - J(pi) = E_pi' sum_t A_pi(s_t, a_t); TD with the exact V of pi is A_pi, for tokens are appended."""
    s = scene(World(prompts=2, samples=1), Condition())
    recipe = with_lambda(0.0)
    A_BT = recipe.credit(s.rows(recipe))
    prob_PA = s.logp(s.law(s.ref)).sum(-1).exp()  # any other policy
    gain = (prob_PA * A_BT.sum(1).view_as(prob_PA)).sum(1).mean()
    torch.testing.assert_close(gain, s.objective(s.ref, recipe) - s.objective(s.theta, recipe))


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_P65_observations_are_stepped_over_as_if_they_were_not_there(lam):
    r_BT, V_BT, _ = random_rows(3)
    whole = torch.ones_like(r_BT, dtype=torch.bool)
    columns, B = [0, 1, 3, 4, 7, 8], len(r_BT)
    wide = {name: torch.full((B, 10), 99.0, dtype=F64) for name in "rV"}  # junk on observations
    mask_BT = torch.zeros(B, 10, dtype=torch.bool)
    mask_BT[:, columns], wide["r"][:, columns], wide["V"][:, columns] = True, r_BT, V_BT
    got = gae(wide["r"], wide["V"], mask_BT, 0.9, lam)
    torch.testing.assert_close(got[:, columns], gae(r_BT, V_BT, whole, 0.9, lam))
    assert (got[~mask_BT] == 0).all()
    got = reward_to_go(wide["r"], mask_BT, 0.9)
    torch.testing.assert_close(got[:, columns], reward_to_go(r_BT, whole, 0.9))
    assert (got[~mask_BT] == 0).all()


class WithoutKnowledge(Scene):
    """A critic whose head is still zero."""

    def with_values(self, recipe, batch):
        return replace(batch, value_BT=torch.zeros_like(batch.reward_BT))


def test_Q_a_critic_that_starts_at_zero_makes_the_first_step_reward_to_go():
    s = WithoutKnowledge(World(prompts=1, samples=2), Condition())
    critic, plain = (expected_gradient(Recipe(name="x", credit=c), s) for c in (p.Value(p.MC()), p.RewardToGo()))
    torch.testing.assert_close(critic.gradient, plain.gradient)
    torch.testing.assert_close(critic.covariance, plain.covariance)
