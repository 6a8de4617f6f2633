"""No false alarm: each of our recipes, as functions of somebody else's, gets the verdict and the numbers of `rung audit`."""

from __future__ import annotations

from dataclasses import replace

import pytest

import rung.parts as p
from rung.exact import audit_function
from rung.exact.audit import ON_POLICY
from rung.exact.causes import STRAIGHT, bare, estimate_of
from rung.exact.peers.ours import as_pair
from rung.exact.world import World
from rung.recipe_io import all_recipes

WORLD = World(vocabulary=2, horizon=3, prompts=2, samples=2)
FAST = {"moving_average", "a2c", "grpo", "dr_grpo", "rloo", "kimi"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in all_recipes()])
def test_a_recipe_gets_its_own_verdict_and_no_alarm(name):
    recipe = replace(
        all_recipes()[name], data=p.Data(), trust=p.NoTrust()
    )  # a function cannot draw other prompts, nor see pi_old whole
    loss, advantages = as_pair(recipe)
    found, ours = audit_function(loss, advantages=advantages, world=WORLD), estimate_of(bare(recipe), ON_POLICY, WORLD)
    kind = "unbiased" if ours.relative_error < STRAIGHT else "proportional" if ours.bend < STRAIGHT else "biased"
    assert found.kind == kind, str(found)
    assert not found.failed, str(found)
    assert found.variance == pytest.approx(ours.trace, rel=1e-3 if "values" in recipe.needs else 1e-9)
    if not recipe.kl.coef:  # else the target is E[R] - beta KL, with the beta that is found
        assert (found.cosine, found.scale) == pytest.approx((ours.cosine, ours.scale), rel=1e-9)
    if found.kind == "biased":
        assert found.because, "what bends it is named"
