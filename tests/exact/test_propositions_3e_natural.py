"""Semantics 3e: TRPO and the natural gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.exact.oracle import expected_gradient, expected_step, fisher_of_states
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.logprob import full_kl
from rung.maths.natural import Trial, conjugate_gradient, full_step, line_search
from rung.maths.objective import count, objective
from rung.recipes import PPO, TRPO, Recipe
from rung.records import Scores

F64 = torch.float64
SCENE = Scene(World(prompts=2, samples=1), Condition())
EXACT = replace(TRPO, normalize=p.AsIs(), aggregate=p.SequenceSum())


def explicit_fisher(s: Scene) -> torch.Tensor:
    """sum_v p(v) score score' for each state: [P, S, D, D]."""
    law = s.law(s.theta)
    score = torch.func.jacrev(s.law)(s.theta)
    return torch.einsum("psv,psvd,psve->psde", law.exp(), score, score)


def visits(s: Scene) -> torch.Tensor:
    """Expected visits of each state: [P, S]."""
    out = torch.zeros(s.world.prompts, s.world.states, dtype=F64)
    seen = s.tree.mask_AT
    for q in range(s.world.prompts):
        out[q].index_add_(0, s.tree.state_AT[seen], s.prob_PA[q][:, None].expand_as(seen)[seen])
    return out


def test_P33_the_kl_to_the_old_policy_has_gradient_zero_and_the_fisher_matrix_as_hessian():
    s = SCENE
    theta = s.theta.clone().requires_grad_()
    slope = torch.autograd.grad(full_kl(s.law(s.theta), s.law(theta)).sum(), theta)[0]
    assert slope.abs().max() < 1e-14
    torch.testing.assert_close(fisher_of_states(s), explicit_fisher(s))


def test_Q_three_ways_to_multiply_by_the_fisher_matrix():
    s, v = SCENE, torch.randn(len(SCENE.theta), dtype=F64, generator=torch.Generator().manual_seed(0))
    old = s.law(s.theta).detach()
    theta = s.theta.clone().requires_grad_()
    slope = torch.autograd.grad(full_kl(old, s.law(theta)).sum(), theta, create_graph=True)[0]
    twice = torch.autograd.grad(slope @ v, theta)[0]
    Jv = torch.func.jvp(s.logits, (s.theta,), (v,))[1]
    prob = old.exp()
    back = prob * Jv - prob * (prob * Jv).sum(-1, keepdim=True)  # (diag p - p p') J v
    gauss_newton = torch.func.vjp(s.logits, s.theta)[1](back)[0]
    torch.testing.assert_close(twice, gauss_newton)
    torch.testing.assert_close(twice, explicit_fisher(s).sum((0, 1)) @ v)


def population() -> tuple[Scene, torch.Tensor]:
    """A policy whose 16 most typical answers ARE its distribution: every state says 1/2, 1/4, 1/4."""
    s = Scene(World(horizon=2, prompts=1, samples=1, policy="tabular"), Condition())
    s.theta = s.old = s.behavior = torch.tensor([0.5, 0.25, 0.25], dtype=F64).log().repeat(s.world.states)
    times_A = (16 * s.prob_PA[0]).round().long()
    torch.testing.assert_close(times_A.double() / 16, s.prob_PA[0])
    return s, torch.arange(s.world.answers).repeat_interleave(times_A)


def gradient_of(recipe: Recipe, s: Scene, cells: torch.Tensor) -> torch.Tensor:
    """grad J of one batch: one prompt, all rows in its group."""
    rows, T = s.rows(recipe).rows(cells), s.world.horizon
    theta = s.theta.clone().requires_grad_()
    logp = s.scores(theta)[0].view(-1, T)[cells]
    adv_BT = recipe.normalize(recipe.credit(rows), rows.mask_BT)
    return torch.autograd.grad(objective(recipe, rows, Scores(logp), adv_BT, count(rows, T)), theta)[0]


def test_P34_the_surrogate_per_token_has_the_gradient_of_J_over_the_expected_length():
    s, cells = population()
    length = float(s.prob_PA[0] @ s.tree.length_A.double())
    got = gradient_of(replace(TRPO, normalize=p.AsIs()), s, cells)
    torch.testing.assert_close(got, s.true_gradient(TRPO) / length)


def test_P34_and_with_whole_answers_it_is_unbiased(exact):
    assert exact(EXACT, samples=2).relative_error < 1e-10


def test_Q9_a_small_step_on_the_whole_population_gains_its_length_squared():
    s, cells = population()
    recipe = Recipe(name="x")
    g = gradient_of(recipe, s, cells)
    for lr in (1e-3, 1e-4):
        gain = float(s.objective(s.theta + lr * g, recipe) - s.objective(s.theta, recipe))
        assert gain == pytest.approx(lr * float(g @ g), rel=10 * lr)


def spd(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, dtype=F64, generator=g)
    return root @ root.T / n, torch.randn(n, dtype=F64, generator=g)


def test_P35_conjugate_gradient_solves_and_the_step_has_quadratic_kl_delta():
    F, g = spd()
    H = F + 0.1 * torch.eye(len(F), dtype=F64)
    torch.testing.assert_close(conjugate_gradient(lambda v: H @ v, g, 50, 1e-24), torch.linalg.solve(H, g))
    step = full_step(lambda v: F @ v, g, 0.01, 0.1, 50)
    assert step is not None
    assert float(step @ H @ step) / 2 == pytest.approx(0.01)
    assert torch.cosine_similarity(step, torch.linalg.solve(H, g), dim=0) == pytest.approx(1.0)


@pytest.mark.parametrize("g", [torch.zeros(3, dtype=F64), torch.tensor([1.0, torch.nan, 0.0], dtype=F64)])
def test_P35_without_a_direction_there_is_no_step(g):
    assert full_step(lambda v: v, g, 0.01, 0.1, 10) is None


def line(s: Scene, recipe: Recipe, max_kl: float):
    """The natural step of exact expectations, its line search, and what it measures."""
    g = expected_gradient(recipe, s).gradient
    weight = visits(s) / s.world.prompts
    F = (weight[..., None, None] * fisher_of_states(s)).sum((0, 1)) / weight.sum()
    step = full_step(lambda v: F @ v, g, max_kl, 1e-3, 50)
    assert step is not None

    def evaluate(fraction: float) -> Trial:
        theta = s.theta + fraction * step
        kl = float((weight * full_kl(s.law(s.theta), s.law(theta))).sum() / weight.sum())
        return Trial(float(s.objective(theta, recipe) - s.objective(s.theta, recipe)), kl)

    return evaluate, line_search(evaluate, max_kl, 0.8, 10)


def test_P36_an_accepted_step_gains_and_keeps_the_bound():
    for max_kl in (1e-4, 0.01, 0.3):
        evaluate, (fraction, trial) = line(SCENE, EXACT, max_kl)
        assert fraction > 0
        assert trial == evaluate(fraction)
        assert trial.gain > 0
        assert trial.kl <= max_kl


@pytest.mark.parametrize("trial", [Trial(1.0, 0.02), Trial(0.0, 0.001), Trial(-1.0, 0.001), Trial(float("nan"), 0.001)])
def test_P36_else_the_fraction_is_zero(trial):
    assert line_search(lambda fraction: trial, 0.01, 0.8, 10)[0] == 0.0


def test_P36_the_largest_fraction_that_holds_is_taken():
    tried: list[float] = []

    def evaluate(fraction: float) -> Trial:
        tried.append(fraction)
        return Trial(1.0, fraction**2)

    assert line_search(evaluate, 0.3, 0.5, 10)[0] == 0.5
    assert tried == [1.0, 0.5]


def test_P37_the_step_is_the_same_in_other_coordinates_only_if_the_damping_moves_along():
    F, g = spd()
    W = torch.randn(12, 12, dtype=F64, generator=torch.Generator().manual_seed(5)) + 2 * torch.eye(12, dtype=F64)
    plain = full_step(lambda v: F @ v, g, 0.01, 0.1, 200)
    H = F + 0.1 * torch.eye(12, dtype=F64)
    moved = full_step(lambda v: W.T @ (H @ (W @ v)), W.T @ g, 0.01, 0.0, 200)
    fixed = full_step(lambda v: W.T @ (F @ (W @ v)), W.T @ g, 0.01, 0.1, 200)
    assert plain is not None and moved is not None and fixed is not None
    torch.testing.assert_close(W @ moved, plain, rtol=1e-4, atol=1e-6)
    assert (W @ fixed - plain).norm() > 0.01 * plain.norm()
    assert torch.cosine_similarity(W @ W.T @ g, g, dim=0) < 0.99, "the plain gradient is not invariant either"


def test_P59_the_fisher_matrix_of_answers_is_the_sum_of_that_of_their_tokens():
    s = SCENE
    score_PAD = s.jacobian[0].view(s.world.prompts, s.world.answers, s.world.horizon, -1).sum(2)
    whole = torch.einsum("pa,pad,pae->de", s.prob_PA, score_PAD, score_PAD)
    tokens = (visits(s)[..., None, None] * fisher_of_states(s)).sum((0, 1))
    torch.testing.assert_close(whole, tokens)


def test_Q_the_surrogates_of_trpo_and_ppo_agree_around_the_old_policy_and_part_where_the_clip_begins():
    s = scene(World(prompts=1, samples=2, horizon=2), Condition())
    ppo = replace(PPO, kl=p.NoKL(), normalize=p.AsIs(), update=p.GradientSteps())
    trpo = replace(ppo, surrogate=p.Importance())
    rows, cells = s.rows(trpo), torch.tensor([0, 3])
    batch = rows.rows(cells)
    adv_BT = trpo.credit(batch)
    direction = torch.randn(len(s.theta), dtype=F64, generator=torch.Generator().manual_seed(2))

    def J(recipe: Recipe, size: float) -> float:
        logp = s.scores(s.theta + size * direction)[0].view(-1, s.world.horizon)[cells]
        return float(objective(recipe, batch, Scores(logp), adv_BT, count(batch, s.world.horizon)))

    for size in (0.0, 1e-3, -1e-3, 1e-2):
        assert J(ppo, size) == pytest.approx(J(trpo, size), abs=1e-14)
    far = [(J(ppo, size), J(trpo, size)) for size in (-1.0, 1.0)]
    assert all(a <= b for a, b in far), "the clip is a lower bound"
    assert any(a < b - 1e-6 for a, b in far)


def test_the_expected_step_of_the_audit_points_along_the_exact_one():
    e = expected_step(EXACT, scene(World(horizon=2, prompts=1, samples=2), Condition()))
    assert 0.5 < e.cosine < 1.0
    assert e.trace > 0
