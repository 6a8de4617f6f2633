"""The oracle itself: that it enumerates everything once, and says what a loop over the training functions says."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
import torch

import rung.parts as p
from rung.errors import InputError
from rung.exact.oracle import Oracle, all_batches, batch_gradients, expected_gradient, groups
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes
from rung.recipes import DAPO, LADDER, RLOO, TRPO, Recipe
from rung.records import Scores

F64 = torch.float64
SMALL = World(horizon=2, prompts=2, samples=2)
NAMES = sorted(all_recipes())


@pytest.mark.parametrize("world", [World(), World(4, 3, 2, 1), SMALL, World(2, 4, 1, 3, policy="transformer")])
def test_probabilities_of_answers_and_batches_sum_to_one(world):
    s = scene(world, Condition(old_kl=0.05))
    torch.testing.assert_close(s.prob_PA.sum(1), torch.ones(world.prompts, dtype=F64))
    assert len(s.tree.length_A) == world.answers
    batches = all_batches(LADDER["rloo"], s)
    assert len(batches.weight_N) == world.batches
    assert float(batches.weight_N.sum()) == pytest.approx(1.0)
    assert bool(s.tree.truncated_A.any()) and not bool(s.tree.truncated_A.all())


def test_unordered_groups_stand_for_all_ordered_ones():
    group_MG, times_M = groups(4, 3)
    assert float(times_M.sum()) == 4**3
    assert times_M[(group_MG == torch.tensor([0, 1, 2])).all(1)] == 6
    assert times_M[(group_MG == torch.tensor([0, 1, 1])).all(1)] == 3
    s = scene(World(horizon=2, prompts=1, samples=2), Condition())
    for recipe in (LADDER["grpo"], LADDER["reinforce_pp"]):
        multisets, ordered = (expected_gradient(recipe, s, ordered=o) for o in (False, True))
        torch.testing.assert_close(multisets.gradient, ordered.gradient)
        torch.testing.assert_close(multisets.covariance, ordered.covariance)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_among_many_has_the_gradient_of_the_training_functions_on_it_alone(name):
    """Straight through the parameters: score, shape, credit, normalize, objective, autograd."""
    recipe = all_recipes()[name]
    s = scene(SMALL, Condition("off", old_kl=0.05))
    batches = all_batches(recipe, s)
    got_ND = batch_gradients(recipe, s, batches)
    assert got_ND.isfinite().all()
    for n in torch.randint(len(got_ND), (3,), generator=torch.Generator().manual_seed(7)).tolist():
        cells, theta = batches.cells_NB[n], s.theta.clone().requires_grad_()
        shaped = replace(recipe.kl.shape_reward(s.rows(recipe).rows(cells)), group_B=batches.group_B)
        adv_BT = recipe.normalize(recipe.credit(shaped), shaped.mask_BT)
        logp, entropy, _, old_kl = (c.view(-1, SMALL.horizon)[cells] for c in s.scores(theta))
        scores = Scores(logp, entropy, None, old_kl if "old_full" in recipe.needs else None)
        J = objective(recipe, shaped, scores, adv_BT, count(shaped, SMALL.horizon))
        torch.testing.assert_close(got_ND[n], torch.autograd.grad(J, theta)[0])


def test_the_covariance_is_that_of_one_batch():
    s = scene(World(horizon=2, prompts=1, samples=1), Condition())
    e = Oracle(Recipe(name="x"), s).gradient
    score_AD = s.jacobian[0].view(s.world.answers, 2, -1).sum(1)
    grad_AD = score_AD * s.reward_PAT[0].sum(1, keepdim=True)
    second = torch.einsum("a,ad,ae->de", s.prob_PA[0], grad_AD, grad_AD)
    torch.testing.assert_close(e.covariance, second - torch.outer(e.gradient, e.gradient))
    assert e.trace == pytest.approx(float(e.spectrum.sum()))
    assert (e.spectrum.diff() <= 1e-12).all()


def test_the_policies_are_where_the_condition_puts_them():
    s = scene(SMALL, Condition(old_kl=0.05, sampler_kl=0.02))
    assert s.kl(s.old, s.theta) == pytest.approx(0.05)
    assert s.kl(s.behavior, s.old) == pytest.approx(0.02)
    with pytest.raises(InputError, match="no policy at a KL"):
        Scene(SMALL, Condition(old_kl=1e9))


def test_the_exact_value_satisfies_the_bellman_equation():
    s = scene(World(horizon=3, prompts=1, samples=1), Condition())
    recipe = Recipe(name="x", credit=p.Value(p.TD()))
    batch = s.rows(recipe)
    residual = p.Value(p.TD())(batch)  # mean zero in each state
    for state in range(s.world.states):
        at = (s.tree.state_AT == state) & s.tree.mask_AT
        assert abs(float((s.prob_PA[0][:, None] * at * residual).sum())) < 1e-12


def test_dynamic_sampling_follows_the_draws_of_the_collector():
    """A slot keeps a group with a signal; else it draws prompts anew, and after the last round keeps what it had first."""
    s = scene(replace(SMALL, reward="binary"), Condition())
    free = replace(DAPO, data=p.Data(resample=0))
    dull, rest = {}, {}
    for k in (0, 1, 3, 500):
        batches = all_batches(replace(free, data=p.Data(resample=k)), s)
        assert float(batches.weight_N.sum()) == pytest.approx(1.0)
        R_C = s.reward_PAT.sum(-1).flatten()
        flat_N = (R_C[batches.cells_NB].view(-1, 2, 2).std(2) == 0)[:, 0]
        dull[k], rest[k] = float(batches.weight_N[flat_N].sum()), batches
    assert dull[0] > dull[1] > dull[3] > dull[500]
    assert dull[500] < 1e-6
    mean = sum(float(rest[0].weight_N[x].sum()) for x in _flat_slots(s, rest[0])) / 2
    assert dull[1] == pytest.approx(dull[0] * mean)


def _flat_slots(s: Scene, batches) -> list[torch.Tensor]:
    R_C = s.reward_PAT.sum(-1).flatten()
    flat_NP = R_C[batches.cells_NB].view(-1, 2, 2).std(2) == 0
    return [flat_NP[:, 0], flat_NP[:, 1]]


@pytest.mark.parametrize("size", [{"vocabulary": 12, "horizon": 8}, {"samples": 8}, {"horizon": 40}])
def test_a_world_too_large_is_refused_with_its_size_and_time(size):
    with pytest.raises(InputError, match=r"answers.*batches.*about [\d.e+]+ (minutes|hours|days|years)"):
        World(**{"prompts": 2, **size})


@pytest.mark.parametrize("size", [{"horizon": 10**6}, {"prompts": 10**6}, {"samples": 10**4, "prompts": 50}])
def test_a_world_beyond_counting_is_refused_at_once(size):
    with pytest.raises(InputError, match="no time is long enough"):
        World(**size)


def test_an_empty_world_is_refused():
    with pytest.raises(InputError, match="nothing to enumerate"):
        World(vocabulary=1)


@dataclass(frozen=True)
class Centered(p.SequenceSum):
    """A mistake: it looks at the rows at hand, not at Totals."""

    def __call__(self, mask_BT, group_B, total):
        return mask_BT / mask_BT.sum()


@dataclass(frozen=True)
class ByLongest(p.SequenceSum):
    """Another one: a maximum over the group's rows at hand, which is the same for a batch beside itself."""

    def __call__(self, mask_BT, group_B, total):
        longest_P = mask_BT.new_zeros(int(group_B.max()) + 1, dtype=torch.long)
        longest_P = longest_P.scatter_reduce(0, group_B, mask_BT.sum(1), "amax")
        return super().__call__(mask_BT, group_B, total) / longest_P[group_B][:, None]


@pytest.mark.parametrize("aggregate", [Centered(), ByLongest()])
def test_an_objective_that_depends_on_the_split_is_refused(aggregate):
    with pytest.raises(InputError, match="how a batch is split"):
        expected_gradient(replace(RLOO, aggregate=aggregate), scene(World(horizon=3, prompts=1), Condition()))


def test_a_natural_step_has_a_direction_of_its_own():
    e = Oracle(TRPO, scene(World(horizon=2, prompts=1, samples=2), Condition())).step
    assert re.fullmatch(r"0\.\d+", f"{e.cosine:.4f}")
    assert e.batches == 28
