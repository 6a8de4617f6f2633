"""Semantics 3a, the claims about variance (P6, P8, P55): each number twice, by the oracle and by a formula of its own.

Traces are those of one batch of one prompt, E|g|^2 - |E g|^2. The numbers written out are those of worlds that are named
by their seed; the formulas hold in all of them.
"""

from __future__ import annotations

import pytest
import torch

import rung.parts as p
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.recipes import Recipe
from rung.records import State

F64 = torch.float64
FULL, TO_GO = (Recipe(name="trial", credit=c) for c in (p.TotalReturn(), p.RewardToGo()))


def parts(s: Scene) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each answer to the only prompt: its probability [A], the score of each token [A, T, D], its reward [A]."""
    score_ATD = s.jacobian[0].view(s.world.answers, s.world.horizon, -1)
    return s.prob_PA[0], score_ATD, s.reward_PAT[0].sum(1)


def trace(prob_A: torch.Tensor, g_AD: torch.Tensor) -> float:
    return float(prob_A @ g_AD.square().sum(1) - (prob_A @ g_AD).square().sum())


# -- P6: reward-to-go -----------------------------------------------------------------------------------------------------
class Repaid(Scene):
    """The last token takes back whatever was earned before it: every answer is worth 0."""

    def __init__(self, world: World) -> None:
        super().__init__(world, Condition())
        last_A = self.tree.length_A - 1
        self.reward_PAT[:, torch.arange(len(last_A)), last_A] -= self.reward_PAT.sum(-1)


def both(s: Scene) -> tuple[float, float]:
    """The variance of REINFORCE and of reward-to-go, once it is known that a sum over answers says the same."""
    prob_A, score_ATD, R_A = parts(s)
    to_go_AT = s.reward_PAT[0].flip(1).cumsum(1).flip(1)
    by_hand = trace(prob_A, score_ATD.sum(1) * R_A[:, None]), trace(prob_A, (to_go_AT[..., None] * score_ATD).sum(1))
    found = tuple(expected_gradient(recipe, s).trace for recipe in (FULL, TO_GO))
    assert found == pytest.approx(by_hand, rel=1e-9, abs=1e-20)
    return found


def test_P6_that_reward_to_go_never_has_more_variance_is_false_most_plainly_where_all_answers_are_worth_the_same():
    full, to_go = both(Repaid(World(prompts=1, samples=1)))
    assert full == pytest.approx(0.0, abs=1e-20)
    assert to_go == pytest.approx(0.8094, abs=1e-4)


@pytest.mark.parametrize(
    ("seed", "full", "to_go"), [(0, 9.136, 8.428), (1, 18.282, 9.962), (2, 9.124, 10.016), (6, 7.731, 9.003)]
)
def test_P6_in_worlds_of_no_special_kind_it_has_less_or_more(seed, full, to_go):
    assert both(scene(World(prompts=1, samples=1, seed=seed), Condition())) == pytest.approx((full, to_go), abs=1e-3)


# -- P8: constant baselines -------------------------------------------------------------------------------------------------
class WithMean(Scene):
    """A world in which the moving average stands at b."""

    b = 0.0

    def state(self, recipe: Recipe) -> State:
        return State(mean=self.b, mean_updates=1)


def with_baseline(world: World, b: float) -> float:
    s = WithMean(world, Condition())
    s.b = b
    e = expected_gradient(Recipe(name="trial", credit=p.MovingAverage(debias=False)), s)
    assert e.relative_error < 1e-10
    return e.trace


def baselines(s: Scene) -> dict[str, float]:
    prob_A, score_ATD, R_A = parts(s)
    squared_A, long_A = prob_A * score_ATD.sum(1).square().sum(1), prob_A * s.tree.length_A
    return {
        "none": 0.0, "mean": float(prob_A @ R_A), "best": float(squared_A @ R_A / squared_A.sum()),
        "length": float(long_A @ R_A / long_A.sum()),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_P8_a_constant_costs_its_squared_distance_from_the_best_one_times_the_squared_score(seed):
    """Var(b) = Var(b*) + (b - b*)^2 E|s|^2, b* = E|s|^2 R / E|s|^2: an identity, so that b* is the only minimum."""
    s = scene(World(prompts=1, samples=1, reward="real", seed=seed), Condition())
    prob_A, score_ATD, R_A = parts(s)
    score_AD, b = score_ATD.sum(1), baselines(s)
    least = trace(prob_A, score_AD * (R_A - b["best"])[:, None])
    for here in (*b.values(), 2.5):
        want = least + (here - b["best"]) ** 2 * float(prob_A @ score_AD.square().sum(1))
        assert with_baseline(s.world, here) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("seed", "want"),
    [
        (0, {"none": 2.341, "mean": 2.784, "best": 1.716, "length": 2.070}),  # the mean is worse than nothing
        (2, {"none": 2.884, "mean": 2.306, "best": 2.153, "length": 2.226}),  # it helps, and lengths know more
        (4, {"none": 4.586, "mean": 3.574, "best": 3.561, "length": 3.739}),  # it helps, and lengths know less
        (5, {"none": 5.913, "mean": 7.031, "best": 5.903, "length": 7.578}),  # both are worse than nothing
    ],
)
def test_P8_that_a_mean_baseline_lowers_the_variance_is_no_theorem(seed, want):
    s = scene(World(prompts=1, samples=1, reward="real", seed=seed), Condition())
    assert {name: with_baseline(s.world, b) for name, b in baselines(s).items()} == pytest.approx(want, abs=1e-3)


# -- P55: more samples -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seed", "want"), [(0, {2: 6.0188, 3: 4.4012, 4: 3.8621}), (1, {2: 15.8218, 3: 11.5512, 4: 10.1277})]
)
def test_P55_leave_one_out_gains_from_more_samples_by_more_than_their_number(seed, want):
    """RLOO is the U-statistic of h(y, y') = (R - R')(s - s')/2, so that with Hoeffding (1948)

    G Var = 4 z1 + 2 (z2 - 2 z1) / (G - 1),   z1 = Var E[h | y], z2 = Var h >= 2 z1:   it falls with G, towards 4 z1.
    """
    s = scene(World(prompts=1, samples=1, reward="real", seed=seed), Condition())
    prob_A, score_ATD, R_A = parts(s)
    score_AD = score_ATD.sum(1)
    h_AAD = 0.5 * (R_A[:, None] - R_A)[..., None] * (score_AD[:, None] - score_AD)
    z1 = trace(prob_A, torch.einsum("b,abd->ad", prob_A, h_AAD))
    z2 = trace(torch.outer(prob_A, prob_A).flatten(), h_AAD.flatten(0, 1))
    assert z2 > 2 * z1
    for G, number in want.items():
        more = scene(World(prompts=1, samples=G, reward="real", seed=seed), Condition())
        found = G * expected_gradient(Recipe(name="trial", credit=p.LeaveOneOut()), more).trace
        assert found == pytest.approx(4 * z1 + 2 * (z2 - 2 * z1) / (G - 1), rel=1e-9)
        assert found == pytest.approx(number, abs=1e-4)
