"""Q18 and Q11: sampled answers, not enumerated ones. Means of many gradients, and a task that every recipe must learn."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

import rung.parts as p
from rung.exact.audit import WORLD
from rung.exact.causes import bare
from rung.exact.oracle import Batches, batch_gradients, expected_gradient
from rung.exact.world import Condition, Scene, scene
from rung.maths.logprob import entropy_of, full_kl
from rung.maths.natural import Trial, full_step, line_search
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes
from rung.recipes import Recipe
from rung.records import Batch, SamplingLaw, Scores
from rung.rollout.sampler import draw

F64 = torch.float64
NAMES = sorted(all_recipes())
MANY = 100_000


# -- Q18: a hundred thousand batches ---------------------------------------------------------------------------------
@cache
def sampled() -> Batches:
    """Batches drawn token by token with the sampler's own `draw`; equal ones are counted instead of repeated."""
    s, w = scene(WORLD, Condition()), WORLD
    generator = torch.Generator().manual_seed(20260101)
    number = {tuple(prefix): i for i, prefix in enumerate(s.tree.prefixes)}
    logits_PSV, law = s.logits(s.theta), SamplingLaw(max_new_tokens=w.horizon)
    prompt_R = torch.arange(w.prompts).repeat_interleave(w.samples).repeat(MANY)
    state_R, live_R = torch.zeros_like(prompt_R), torch.ones_like(prompt_R, dtype=torch.bool)
    drawn_RT = torch.zeros(len(prompt_R), w.horizon, dtype=torch.long)
    after_SV = torch.tensor([[number.get((*prefix, v), 0) for v in range(w.vocabulary)] for prefix in s.tree.prefixes])
    for t in range(w.horizon):
        token_R, _, _ = draw(logits_PSV[prompt_R, state_R], law, torch.rand(len(prompt_R), generator=generator))
        drawn_RT[live_R, t] = token_R[live_R]
        live_R = live_R & (token_R != 0)
        state_R = after_SV[state_R, token_R]
    code = w.vocabulary ** torch.arange(w.horizon)
    answer_of = torch.full((int(w.vocabulary**w.horizon),), -1)
    answer_of[s.tree.token_AT @ code] = torch.arange(w.answers)
    cells_NB = (prompt_R * w.answers + answer_of[drawn_RT @ code]).view(MANY, -1)
    assert (cells_NB >= 0).all()
    cells_NB = cells_NB.view(MANY, w.prompts, w.samples).sort(-1).values.flatten(1)
    each_NB, times_N = cells_NB.unique(dim=0, return_counts=True)
    return Batches(each_NB, times_N.to(F64) / MANY, torch.arange(w.prompts).repeat_interleave(w.samples))


def sigmas(recipe: Recipe, want: torch.Tensor, s: Scene) -> float:
    """The component of the sampled mean gradient that lies farthest from `want`, in standard errors."""
    grad_ND, weight_N = batch_gradients(recipe, s, sampled()), sampled().weight_N
    mean_D = weight_N @ grad_ND
    error_D = (weight_N @ (grad_ND - mean_D).square() / (MANY - 1)).sqrt()
    return float(((mean_D - want).abs() / error_D.clamp(min=1e-15)).max())


@pytest.mark.parametrize("name", NAMES)
def test_Q18_the_mean_of_sampled_gradients_is_the_true_one_for_those_declared_unbiased_and_for_no_other(name, declared):
    recipe = replace(bare(all_recipes()[name]), data=p.Data())  # plain sampling: nothing is drawn again
    s = scene(WORLD, Condition())
    e = expected_gradient(recipe, s)
    kind, constant = declared(name)
    assert sigmas(recipe, e.gradient, s) < 4, "the enumeration and the samples disagree"
    assert (sigmas(recipe, constant * e.target, s) < 4) == (kind != "biased")
    assert (sigmas(recipe, e.target, s) < 4) == (kind == "unbiased")


# -- Q11: one token, sixteen questions --------------------------------------------------------------------------------
QUESTIONS, WORDS, SAMPLES, STEPS = 16, 4, 8, 60
ADAM, NATURAL = {"lr": 0.15}, {"max_kl": 0.01, "damping": 0.1}  # step sizes of this small world


def learn(recipe: Recipe, seed: int, *, shuffled: bool = False) -> float:
    """The chance of the right word, the mean over questions, after STEPS steps on sampled answers of one token.

    Tabular logits, a tabular critic (the mean reward seen so far), the recipe's own update: Adam, or a natural step.
    `shuffled`: rewards are handed out to the answers at random.
    """
    g = torch.Generator().manual_seed(seed)
    right_Q = torch.randint(WORDS, (QUESTIONS,), generator=g)
    theta = torch.zeros(QUESTIONS, WORDS, requires_grad=True)
    adam = torch.optim.Adam([theta], **ADAM)
    group_B = torch.arange(QUESTIONS).repeat_interleave(SAMPLES)
    state, value_Q = recipe.initial_state(), torch.zeros(QUESTIONS)
    flag = torch.ones(len(group_B), dtype=torch.bool)
    for _ in range(STEPS):
        token_B, logp_B, _ = draw(theta.detach()[group_B], SamplingLaw(), torch.rand(len(group_B), generator=g))
        reward_B = (token_B == right_Q[group_B]).float()
        if shuffled:
            reward_B = reward_B[torch.randperm(len(reward_B), generator=g)]
        greedy_Q = (theta.argmax(1) == right_Q).float()
        batch = Batch(
            reward_BT=reward_B[:, None], mask_BT=flag[:, None], group_B=group_B, valid_B=flag, keep_B=flag,
            truncated_B=~flag, behavior_logp_BT=logp_B[:, None], old_logp_BT=logp_B[:, None],
            ref_logp_BT=torch.full((len(flag), 1), 1 / WORDS).log(), value_BT=value_Q[group_B][:, None],
            greedy_B=greedy_Q[group_B], state=state,
        )  # fmt: skip
        step(recipe, batch, token_B, theta, adam)
        state = recipe.credit.observe(batch)
        value_Q = 0.7 * value_Q + 0.3 * reward_B.view(QUESTIONS, SAMPLES).mean(1)
    return float(theta.detach().softmax(1).gather(1, right_Q[:, None]).mean())


def step(recipe: Recipe, batch: Batch, token_B: torch.Tensor, theta: torch.Tensor, adam: torch.optim.Adam) -> None:
    """Rewards -> credit -> objective -> one step, by the functions that train."""
    shaped = recipe.kl.shape_reward(batch)
    adv_BT = recipe.normalize(recipe.credit(shaped), shaped.mask_BT)
    old_QV = theta.detach().log_softmax(1)

    def J() -> torch.Tensor:
        law_QV = theta.log_softmax(1)
        kl_Q = full_kl(old_QV, law_QV)
        columns = (law_QV[batch.group_B, token_B], entropy_of(law_QV)[batch.group_B], kl_Q[batch.group_B])
        logp, entropy, old_kl = (x[:, None] for x in columns)
        scores = Scores(logp, entropy, None, old_kl if "old_full" in recipe.needs else None)
        return objective(recipe, shaped, scores, adv_BT, count(shaped, 1))

    (slope,) = torch.autograd.grad(J(), theta)
    if isinstance(recipe.update, p.GradientSteps):
        theta.grad = -slope
        adam.step()
        return
    rule, before, start = replace(recipe.update, **NATURAL), float(J().detach()), theta.detach().clone()
    p_QV = old_QV.exp()

    def fisher(v: torch.Tensor) -> torch.Tensor:  # of a softmax, by question
        v_QV = v.view_as(p_QV)
        return (p_QV * (v_QV - (p_QV * v_QV).sum(1, keepdim=True))).flatten() / QUESTIONS

    found = full_step(fisher, slope.flatten(), rule.max_kl, rule.damping, rule.cg_iterations)

    def trial(fraction: float) -> Trial:
        theta.data = start + fraction * found.view_as(start)
        return Trial(float(J().detach()) - before, float(full_kl(old_QV, theta.detach().log_softmax(1)).mean()))

    if found is not None and line_search(trial, rule.max_kl, rule.shrink, rule.backtracks)[0] == 0.0:
        theta.data = start


SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
CONTROLS = [x if x in ("reinforce", "ppo", "dr_grpo") else pytest.param(x, marks=pytest.mark.slow) for x in NAMES]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_Q11_every_recipe_learns_one_token(name, seed):
    assert learn(all_recipes()[name], seed) > 0.95


@pytest.mark.parametrize("name", CONTROLS)
def test_Q11_and_nothing_from_rewards_that_were_shuffled(name):
    runs = [learn(all_recipes()[name], seed, shuffled=True) for seed in range(3)]
    assert sum(runs) / 3 == pytest.approx(1 / WORDS, abs=0.15)
