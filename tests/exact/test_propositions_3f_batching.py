"""Semantics 3f: aggregation, batching, masking, and what sampling and scoring must agree on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.errors import InputError
from rung.exact.estimate import cosine
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.logprob import entropy_of, full_kl, token_logprob
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes
from rung.recipe_rules import refuse_sampling
from rung.recipes import REINFORCE, RLOO, Recipe
from rung.records import Batch, Scores, State, Totals
from rung.training.optimizer import MasterAdamW

F64 = torch.float64
NAMES = sorted(all_recipes())
HOT = Condition("hot", temperature=2.0)


# -- aggregation ----------------------------------------------------------------------------------------------------------------
def test_P15_P75_weights_by_length_bend_the_gradient_and_a_fixed_budget_only_scales_it(exact):
    size = {"samples": 2, "reward": "real"}
    by = {a: exact(Recipe(name="x", aggregate=a), **size) for a in (p.SequenceMean(), p.TokenMean(), p.FixedBudget())}
    mean, token, fixed = by.values()
    assert 0.9 < mean.cosine < 0.9999
    assert 0.9 < token.cosine < 0.9999
    assert fixed.bend < 1e-10
    assert fixed.scale == pytest.approx(1 / 3)
    assert exact(Recipe(name="x", aggregate=p.FixedBudget(budget=10)), **size).scale == pytest.approx(0.1)


def test_P15_what_each_row_weighs(batch_of):
    batch = batch_of([1.0, 1.0, 1.0], [0, 0, 1], [1, 3, 2])
    total = count(batch, 10)
    for part, want in [
        (p.SequenceSum(), [1 / 3, 3 / 3, 2 / 3]),
        (p.SequenceMean(), [1 / 3, 1 / 3, 1 / 3]),
        (p.TokenMean(), [1 / 6, 3 / 6, 2 / 6]),
        (p.FixedBudget(), [1 / 30, 3 / 30, 2 / 30]),
        (p.PromptMean(), [1 / 8, 3 / 8, 2 / 4]),
    ]:
        got = part(batch.mask_BT, batch.group_B, total).sum(1)
        torch.testing.assert_close(got.double(), torch.tensor(want, dtype=F64), rtol=1e-6, atol=0)


def rows(seed: int = 0, B: int = 8, T: int = 5) -> tuple[Batch, torch.Tensor]:
    """A step with everything in it: ragged, observations, a row out of the loss, one out of everything, junk off the mask."""
    g = torch.Generator().manual_seed(seed)
    r_BT, old, ref, V_BT, logp = torch.randn(5, B, T, generator=g, dtype=F64)
    mask_BT = torch.arange(T) < torch.tensor([1, 2, 3, 4, 5, 5, 2, 3])[:, None]
    mask_BT[4, 2] = False  # an observation
    flag = torch.ones(B, dtype=torch.bool)
    valid_B, keep_B = flag.clone(), flag.clone()
    valid_B[6], keep_B[3] = False, False
    old = logp + 0.1 * old
    batch = Batch(
        reward_BT=r_BT.masked_fill(~mask_BT, torch.nan), mask_BT=mask_BT, group_B=torch.tensor([0, 1, 0, 1, 2, 2, 0, 1]),
        valid_B=valid_B, keep_B=keep_B, truncated_B=~keep_B, behavior_logp_BT=old + 0.1, old_logp_BT=old,
        ref_logp_BT=logp + 0.2 * ref, value_BT=V_BT, bootstrap_B=V_BT[:, 0], greedy_B=V_BT[:, 1], step_end_BT=None,
        state=State(mean=0.3, mean_updates=2, kl_coef=0.1, trust_coef=0.5),
    )  # fmt: skip
    return batch, logp


def solve(recipe: Recipe, batch: Batch, logp: torch.Tensor, splits=None, totals: Totals | None = None) -> torch.Tensor:
    """d J / d (log pi, entropy, KLs) of a step that is split into parts: [4, B, T]."""
    shaped = recipe.kl.shape_reward(batch)
    adv_BT = recipe.normalize(recipe.credit(shaped), shaped.mask_BT & shaped.valid_B[:, None])
    leaves = [(logp * c).requires_grad_() for c in (1.0, -1.0, 0.5, 0.3)]
    J = torch.zeros((), dtype=F64)
    for index in splits or [torch.arange(len(logp))]:
        part = shaped.rows(index)
        total = totals or count(batch, 7)
        J = J + objective(recipe, part, Scores(*(x[index] for x in leaves)), adv_BT[index], total)
    return torch.stack(torch.autograd.grad(J, leaves, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("name", NAMES)
def test_P50_Q2_any_split_into_micro_batches_sums_to_the_same_gradient(name):
    recipe, (batch, logp) = all_recipes()[name], rows()
    want = solve(recipe, batch, logp)
    assert want.isfinite().all() and want.abs().max() > 0
    for sizes in ([1] * 8, [2] * 4, [6, 2], [3, 5]):
        torch.testing.assert_close(solve(recipe, batch, logp, torch.arange(8).split(sizes)), want)


def test_P50_denominators_of_the_rows_at_hand_do_not():
    batch, logp = rows()
    for aggregate, same in [(p.TokenMean(), False), (p.FixedBudget(), True)]:
        recipe, halves = Recipe(name="x", aggregate=aggregate), torch.arange(8).split(4)
        local = sum(solve(recipe, batch, logp, [i], count(batch.rows(i), 7)) for i in halves) / 2
        assert torch.allclose(local, solve(recipe, batch, logp)) == same


@pytest.mark.parametrize("name", NAMES)
def test_Q4_the_order_of_rows_does_not_matter(name):
    recipe, (batch, logp) = all_recipes()[name], rows()
    order = torch.tensor([5, 0, 7, 2, 6, 1, 4, 3])
    torch.testing.assert_close(solve(recipe, batch.rows(order), logp[order]), solve(recipe, batch, logp)[:, order])


@pytest.mark.parametrize("name", NAMES)
def test_Q5_Q6_padding_and_observations_may_hold_anything_and_change_nothing(name):
    """Columns of junk, NaN in the rewards among it, at the end and in the middle."""
    recipe, (batch, logp) = all_recipes()[name], rows()
    want = solve(recipe, batch, logp)
    columns = [0, 1, 3, 4, 5]

    def widen(x):
        if x is None or x.dim() < 2:
            return x
        out = torch.full((len(x), 9), 17.0, dtype=F64) if x.dtype == F64 else torch.zeros(len(x), 9, dtype=x.dtype)
        out[:, columns] = x
        return out

    tensors = {k: widen(v) for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    got = solve(recipe, replace(batch, **tensors), widen(logp))
    torch.testing.assert_close(got[..., columns], want)
    off = ~tensors["mask_BT"]
    assert (got[:, off] == 0).all()


# -- the law that was sampled ------------------------------------------------------------------------------------------------------
def test_P41_sampling_at_one_temperature_and_scoring_at_another(exact):
    s = scene(World(prompts=1, samples=1), HOT)
    mean_score = s.prob_PA.flatten() @ s.jacobian[0].view(s.world.answers, s.world.horizon, -1).sum(1)
    assert mean_score.norm() > 0.1
    wrong, right = exact(REINFORCE, HOT), exact(REINFORCE, replace(HOT, scored_temperature=2.0))
    assert wrong.cosine < 0.999
    assert right.relative_error < 1e-10


def test_P41_the_head_scores_the_law_that_was_sampled():
    g = torch.Generator().manual_seed(0)
    h, W, y = torch.randn(6, 4, generator=g), torch.randn(5, 4, generator=g), torch.randint(5, (6,), generator=g)
    logp, entropy = token_logprob(h, W, y, temperature=0.7)
    law = (h @ W.T / 0.7).log_softmax(-1)
    torch.testing.assert_close(logp, law.gather(1, y[:, None])[:, 0])
    torch.testing.assert_close(entropy, entropy_of(law))


class Cut(Scene):
    """Answers drawn from the two likeliest tokens (top-k 2); `renormalized` scores them under that law."""

    renormalized = True

    def law(self, theta, temperature=1.0):
        logits = self.logits(theta)
        kept = self.logits(self.theta).topk(2).indices
        inside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, kept, True)
        return (logits / temperature).masked_fill(~inside, -torch.inf).log_softmax(-1)

    def scores(self, theta):
        law = self.law(theta) if self.renormalized else self.logits(theta).log_softmax(-1)
        logp = self.logp(law).clamp(min=-50.0)  # answers outside have probability 0
        per_state = [
            self.at_states(x) for x in (entropy_of(law), full_kl(law, law.detach()), full_kl(law.detach(), law))
        ]
        return torch.stack([logp, *per_state]).flatten(1, 2)

    def rows(self, recipe):
        return replace(super().rows(recipe), behavior_logp_BT=self.score_values[0].view(-1, self.world.horizon))

    def true_gradient(self, recipe, gamma=1.0):
        theta = self.theta.clone().requires_grad_()
        prob_PA = self.logp(self.law(theta)).sum(-1).exp()
        return torch.autograd.grad((prob_PA * self.reward_PAT.sum(-1)).sum(1).mean(), theta)[0]


def test_P51_a_cut_law_needs_its_own_log_probabilities():
    world = World(prompts=1, samples=1)
    right, wrong = Cut(world, Condition()), Cut(world, Condition())
    wrong.renormalized = False
    assert expected_gradient(REINFORCE, right).relative_error < 1e-10
    assert expected_gradient(REINFORCE, wrong).cosine < 0.9999
    with pytest.raises(InputError, match="biased"):
        refuse_sampling(RLOO, samples_per_prompt=2, rows=4, temperature=1.0, is_full=False, max_new_tokens=8)


def test_P51_tokens_that_cannot_be_drawn_leave_entropy_and_kl_differentiable():
    z = torch.tensor([[0.3, -0.2, -torch.inf]], requires_grad=True)
    other = torch.tensor([[0.0, 0.1, -torch.inf]]).log_softmax(-1)
    for value in (entropy_of(z.log_softmax(-1)), full_kl(z.log_softmax(-1), other), full_kl(other, z.log_softmax(-1))):
        (grad,) = torch.autograd.grad(value.sum(), z)
        assert value.isfinite().all() and grad.isfinite().all() and grad[0, 2] == 0


# -- masks -----------------------------------------------------------------------------------------------------------------------
class WithoutEnd(Scene):
    """The mistake of P42: padding is the end token, so the end token is masked with it."""

    def rows(self, recipe):
        batch = super().rows(recipe)
        ends = (self.tree.token_AT == 0).repeat(self.world.prompts, 1)
        return replace(batch, mask_BT=batch.mask_BT & ~ends)


def test_P42_masking_the_end_token_bends_the_gradient():
    world = World(prompts=1, samples=1, reward="real", policy="tabular")
    s = WithoutEnd(world, Condition())
    given = s.reward_PAT.sum(-1).flatten()

    class Known(p.TotalReturn):  # the verifier's reward stays, whatever the mask
        needs = frozenset({"greedy"})

        def __call__(self, batch):
            return batch.greedy_B[:, None] * batch.mask_BT

    s.greedy = lambda recipe: given  # type: ignore[method-assign]
    recipe = Recipe(name="x", credit=Known())
    assert expected_gradient(recipe, s).cosine < 0.9999
    whole = Scene(world, Condition())
    whole.greedy = s.greedy  # type: ignore[method-assign]
    assert expected_gradient(recipe, whole).relative_error < 1e-10


@pytest.mark.parametrize("b", [0.0, 0.7])
def test_P43_leaving_truncated_answers_out_gives_them_the_baseline_as_reward(b):
    class Mean(Scene):
        def state(self, recipe):
            return State(mean=b, mean_updates=1)

    s = Mean(World(prompts=1, samples=1, reward="real"), Condition())
    recipe = Recipe(name="x", credit=p.MovingAverage(debias=False), data=p.Data(drop_truncated=True))
    theta = s.theta.clone().requires_grad_()
    R_A = torch.where(s.tree.truncated_A, b, s.reward_PAT[0].sum(1))
    want = torch.autograd.grad((s.logp(s.law(theta)).sum(-1).exp()[0] * R_A).sum(), theta)[0]
    got = expected_gradient(recipe, s)
    torch.testing.assert_close(got.gradient, want)
    assert cosine(got.gradient, got.target) < 0.999


@pytest.mark.parametrize(
    ("length", "want"), [(1, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (30000, -1.0)]
)
def test_P77_the_overlong_slope(length, want):
    assert p.Overlong()(length, 20480) == pytest.approx(want)
    assert p.Overlong(factor=2.0)(length, 20480) == pytest.approx(2 * want)


# -- precision -----------------------------------------------------------------------------------------------------------
def test_P54_a_step_of_1e_6_vanishes_in_bfloat16_and_not_in_a_float32_master():
    lost = torch.full((4,), 0.02, dtype=torch.bfloat16)
    kept = lost.clone().requires_grad_()
    optimizer = MasterAdamW([kept], 1e-6)
    start = lost.clone()
    for _ in range(1000):
        lost += 1e-6
        kept.grad = -torch.ones_like(kept)
        optimizer.step()
    assert (lost == start).all()
    assert (kept > start).all()
    torch.testing.assert_close(optimizer.masters[0], torch.full((4,), float(start[0]) + 1e-3), rtol=1e-2, atol=0)
