"""What the proposition tests share: an exact expectation by name, and small batches written by hand."""

from __future__ import annotations

import pytest
import torch

from rung.exact.estimate import Estimate
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, World, scene
from rung.maths.credit import outcome_to_token
from rung.recipes import Recipe
from rung.records import Batch

F64 = torch.float64
UNBIASED = {"reinforce", "reward_to_go", "moving_average", "leave_one_out", "value_baseline", "rloo", "remax"}
SCALED = {"batch_mean": 0.75, "dr_grpo": 0.25, "kimi": 0.5}  # the constant in the world of `rung audit`


def _exact(recipe: Recipe, condition: Condition | None = None, **size) -> Estimate:
    world = World(**{"prompts": 1, "samples": 1, **size})
    return expected_gradient(recipe, scene(world, condition or Condition()))


def _batch(reward, group=None, length=None, **more) -> Batch:
    """Rows with an outcome reward (a list) or a reward per token (a list of lists, all of them actions)."""
    reward = torch.tensor(reward, dtype=F64)
    if reward.dim() == 2:
        mask_BT, reward_BT = torch.ones_like(reward, dtype=torch.bool), reward
    else:
        length_B = torch.ones(len(reward), dtype=torch.long) if length is None else torch.tensor(length)
        mask_BT = torch.arange(int(length_B.max())) < length_B[:, None]
        reward_BT = outcome_to_token(reward, mask_BT)
    B, zeros = len(reward), torch.zeros_like(reward_BT)
    fields = {
        "reward_BT": reward_BT,
        "mask_BT": mask_BT,
        "group_B": torch.zeros(B, dtype=torch.long) if group is None else torch.tensor(group),
        "valid_B": torch.ones(B, dtype=torch.bool),
        "keep_B": torch.ones(B, dtype=torch.bool),
        "truncated_B": torch.zeros(B, dtype=torch.bool),
        "behavior_logp_BT": zeros,
        "old_logp_BT": zeros,
    }
    return Batch(**{**fields, **more})


@pytest.fixture
def exact():
    return _exact


@pytest.fixture
def batch_of():
    return _batch


@pytest.fixture
def declared():
    """Name of a recipe -> (verdict on-policy, constant) that its page claims."""

    def of(name: str) -> tuple[str, float]:
        return "unbiased" if name in UNBIASED else "proportional" if name in SCALED else "biased", SCALED.get(name, 1.0)

    return of
