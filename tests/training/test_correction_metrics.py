"""What a correction for the sampler reports: the mean of its weights and the sample size that they leave."""

import math

import pytest
import torch

from rung.records import Batch
from rung.rollout.samplers import numbers_of
from rung.training.metrics import correction_metrics


def batch(old, behavior, mask):
    mask_BT = torch.tensor(mask, dtype=torch.bool)
    true_B = torch.ones(len(mask), dtype=torch.bool)
    return Batch(
        reward_BT=torch.zeros(mask_BT.shape, dtype=torch.float64), mask_BT=mask_BT, group_B=torch.arange(len(mask)),
        valid_B=true_B, keep_B=true_B, truncated_B=~true_B,
        behavior_logp_BT=torch.tensor(behavior), old_logp_BT=torch.tensor(old),
    )  # fmt: skip


def test_weights_of_1_and_2_and_padding():
    found = correction_metrics(batch([[0.0, math.log(2), 9.0]], [[0.0, 0.0, 0.0]], [[1, 1, 0]]))
    assert found["sampling/ratio_mean"] == pytest.approx(1.5)
    assert found["sampling/ess"] == pytest.approx(3**2 / (2 * (1 + 4)))


def test_the_same_policy_loses_nothing_and_no_token_says_nothing():
    same = correction_metrics(batch([[-1.0, -2.0]], [[-1.0, -2.0]], [[1, 1]]))
    assert same == {"sampling/ratio_mean": 1.0, "sampling/ess": 1.0}
    assert correction_metrics(batch([[-1.0]], [[-1.0]], [[0]])) == {}


def test_a_gap_to_older_weights_is_measured_by_its_own_limit():
    assert numbers_of("torch", "float32") == "float32"
    assert (
        numbers_of("torch", "float32", staleness=1)
        == numbers_of("vllm", "bfloat16", staleness=2)
        == "weights of earlier steps"
    )
