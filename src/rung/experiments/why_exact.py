"""Where a recipe's expected gradient takes the answers of a small world: every batch is enumerated, nothing is sampled.

For `rung why`: one random world, rewards and policy, is what a seed is for the other kinds.
"""

from __future__ import annotations

import torch

from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World
from rung.experiments.runs import Row
from rung.recipes import Recipe


def mean_gradient(recipe: Recipe, world: World) -> Row:
    """What a short step along g = E[gradient of a batch] does, for a step of length 1 (rewards are 0 or 1):

    wrong_drift = (g / |g|) . grad E[length | wrong],   in tokens;
    likelihood  = (g / |g|) . grad mean_x log p_x,      p_x the chance of a right answer to prompt x;
    direction   = cosine of g to grad J;
    snr         = |g|^2 / E|batch's gradient - g|^2.
    """
    scene = Scene(world, Condition())
    estimate = expected_gradient(recipe, scene)
    g = estimate.gradient / estimate.gradient.norm()
    theta = scene.theta.clone().requires_grad_()
    p_PA, right_PA = scene.logp(scene.law(theta)).sum(-1).exp(), scene.reward_PAT.sum(-1)
    wrong_PA = p_PA * (1 - right_PA)
    length = (wrong_PA * scene.tree.length_A).sum() / wrong_PA.sum()
    likelihood = (p_PA * right_PA).sum(1).log().mean()
    (longer,) = torch.autograd.grad(length, theta, retain_graph=True)
    (likelier,) = torch.autograd.grad(likelihood, theta)
    return {
        "wrong_drift": float(g @ longer),
        "likelihood": float(g @ likelier),
        "direction": estimate.cosine,
        "snr": float(estimate.gradient @ estimate.gradient) / estimate.trace,
    }
