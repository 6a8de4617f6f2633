"""A random batch as trainers with registered functions hold it, the same as rung lays it out, and recipes for both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rung.export.targets import refusals
from rung.maths.assess import assess
from rung.maths.objective import count, objective
from rung.maths.returns import outcome_to_token
from rung.recipe_io import all_recipes, find, override
from rung.records import Batch, Scores

LENGTHS = [4, 7, 3, 1, 6, 2, 7, 5, 4, 7, 3, 5]
GROUPS = [0, 1, 2, 0, 1, 2, 1, 0, 3, 3, 2, 3]
LIMIT = 9  # tokens of an answer at most; none here is so long
# Recipes beside the ladder's that between them have each part that a target with registered functions can express.
CHANGED = {
    "reinforce, discounted": ("reinforce", {"credit.gamma": 0.9}),
    "reward_to_go, discounted": ("reward_to_go", {"credit.gamma": 0.9, "credit.discount_state_weight": True}),
    "batch_mean, others": ("batch_mean", {"credit.leave_one_out": True}),
    "grpo, verl's eps": ("grpo", {"credit.eps": 1e-6, "surrogate.dual": 3.0}),
    "grpo, k2": ("grpo", {"kl": "K2", "kl.coef": 0.1}),
    "grpo, k3+": ("grpo", {"kl": "StraightThrough", "kl.coef": 0.1}),
    "grpo, dual": ("grpo", {"surrogate.dual": 1.2, "kl": "NoKL"}),
    "grpo, two-sided": ("grpo", {"surrogate.two_sided": 1.3, "kl": "NoKL"}),
    "grpo, stale": ("grpo", {"correction": "StaleNegativeMask", "correction.delta": 0.02, "kl": "NoKL"}),
    "grpo, token weights": ("grpo", {"correction": "TokenTIS", "correction.cap": 1.1}),
    "grpo, answer weights": ("dr_grpo", {"correction": "SequenceTIS", "correction.cap": 1.2}),
    "grpo, tokens dropped": ("lite_ppo", {"correction": "TokenMask", "correction.low": 0.8, "correction.high": 1.3}),
    "grpo, answers dropped": ("dr_grpo", {"correction": "SequenceMask", "correction.cap": 1.2}),
    "grpo, odd answers dropped": (
        "dr_grpo",
        {"correction": "GeometricMask", "correction.low": 0.9, "correction.high": 1.1},
    ),
    "dr_grpo, budget": ("dr_grpo", {"aggregate.budget": 16}),
    "entropy": ("dr_grpo", {"entropy": 0.01}),
    "importance": ("grpo", {"surrogate": "Importance", "kl": "NoKL"}),
    "cispo, low": ("cispo", {"surrogate.low": 0.9}),
    "sapo, tokens": ("sapo", {"aggregate": "TokenMean"}),
    "gspo, tokens": ("gspo", {"aggregate": "TokenMean"}),
    "whole ratio": ("rloo", {"ratio": "SequenceProduct", "surrogate": "Clip"}),
    "per decision": ("grpo", {"ratio": "PerDecision", "kl": "NoKL"}),
    "prompt mean": ("grpo", {"aggregate": "PromptMean", "kl": "NoKL"}),
    "k3 in the reward": ("rloo", {"kl": "K3", "kl.coef": 0.1, "kl.where": "reward"}),
    "only divided": ("reward_to_go", {"normalize": "Whiten", "normalize.shift": False}),
    "dapo, plain": ("dapo", {"data.resample": 0, "data.overlong": "none"}),
}


def recipes(target):
    every = {**all_recipes(), **{name: override(find(base), changes) for name, (base, changes) in CHANGED.items()}}
    return {name: recipe for name, recipe in every.items() if not refusals(recipe, target)}


@dataclass(frozen=True)
class World:
    """batch: with rewards as they were earned.  now, entropy: leaves.  ours: with what the recipe makes of the rewards."""

    batch: Batch
    now_BT: Tensor
    entropy_BT: Tensor


def world(seed: int, recipe) -> World:
    """Rows of a prompt lie anywhere; row 1 has an observation; padding holds numbers; ratios of 1/2 to 2."""
    g = torch.Generator().manual_seed(seed)
    B, T = len(LENGTHS), max(LENGTHS)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    mask_BT = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    mask_BT[1, 2] = False
    outcome_B = (rand(B) > 0.5).double() + 0.25 * (rand(B) > 0.5)
    old_BT, moved = -3 * rand(B, T) - 0.1, not isinstance(recipe.ratio, type(find("reinforce").ratio))
    now_BT = old_BT + (1.4 * rand(B, T) - 0.7 if moved or recipe.update.reuses_batch else 0.0)
    batch = Batch(
        reward_BT=outcome_to_token(outcome_B, mask_BT), mask_BT=mask_BT, group_B=torch.tensor(GROUPS),
        valid_B=mask_BT.any(1), keep_B=mask_BT.any(1), truncated_B=torch.zeros(B, dtype=torch.bool),
        behavior_logp_BT=old_BT + 0.4 * rand(B, T) - 0.2, old_logp_BT=old_BT,
        ref_logp_BT=old_BT + 2 * rand(B, T) - 1 if "ref_logp" in recipe.needs else None, state=recipe.initial_state(),
    )  # fmt: skip
    return World(batch, now_BT.requires_grad_(), rand(B, T).requires_grad_())


def wanted(recipe, w: World):
    """(A, -J, its gradient in log pi, in the entropy) as rung computes them of the whole batch."""
    batch = assess(recipe, w.batch).batch
    now, entropy = (x.detach().requires_grad_() for x in (w.now_BT, w.entropy_BT))
    J = objective(
        recipe, replace(batch, old_logp_BT=w.batch.old_logp_BT), Scores(now, entropy), batch.adv_BT, count(batch, LIMIT)
    )
    (-J).backward()
    return batch.adv_BT, -J.detach(), now.grad, entropy.grad
