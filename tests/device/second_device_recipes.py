"""Every recipe takes two steps on the stand-in, with the numbers of the CPU. A new recipe joins by itself."""

import pytest
import torch
from second_device import DEVICE
from two_steps import CPU, assert_same, two_steps

from rung.recipe_io import all_recipes, find, override

torch.set_num_threads(1)
CHEAP = {"trpo": {"update.cg_iterations": 1, "update.curvature_tokens": 40}, "ppo_kl": {"update.epochs": 1}}


@pytest.mark.parametrize("name", all_recipes())
def test_two_steps_are_those_of_the_cpu(name):
    recipe = override(find(name), CHEAP.get(name, {}))
    host, here = (two_steps(recipe, device) for device in (CPU, DEVICE))
    assert host[0][0]["grad_norm"] > 0 or host[0][0]["update/steps"] == 0
    assert_same(host, here)
