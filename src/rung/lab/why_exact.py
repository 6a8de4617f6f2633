"""Where a recipe's expected gradient takes the answers of a small world: every batch is enumerated, nothing is sampled.

For `rung why`: one random world, rewards and policy, is what a seed is for the other kinds.
"""

from __future__ import annotations

import torch

from rung.lab.oracle import expected_gradient
from rung.lab.runs import Row
from rung.lab.world import Condition, Scene, World
from rung.recipes import Recipe


def drift(recipe: Recipe, world: World) -> Row:
    """How wrong answers change their length on a short step along g = E[gradient of a batch], in tokens for a step of 1:

    wrong_drift = (g / |g|) . grad E[length | wrong].
    """
    scene = Scene(world, Condition())
    g = expected_gradient(recipe, scene).gradient
    theta = scene.theta.clone().requires_grad_()
    p_A = scene.logp(scene.law(theta)).sum(-1).exp().mean(0)
    wrong_A = p_A * (1 - scene.reward_PAT.sum(-1).mean(0))
    length = (wrong_A * scene.tree.length_A).sum() / wrong_A.sum()
    (longer,) = torch.autograd.grad(length, theta)
    return {"wrong_drift": float(g @ longer / g.norm())}
