"""What an answer earned: returns over its tokens, sums over a group, and whether rewards differ at all. In float64."""

from __future__ import annotations

import torch
from torch import Tensor

from rung.records import Batch

EQUAL = 1e-13  # a spread below this share of the rewards' size is float64's residue, hundreds of ulps, no difference


def outcome_to_token(outcome_B: Tensor, mask_BT: Tensor) -> Tensor:
    """r_bt = R_b at the last action token (end token included), 0 elsewhere: float[B, T].

    Args:
        outcome_B: float[B], one reward per answer.
        mask_BT: bool[B, T], True on actions. A row without an action keeps no reward (the row is not valid).
    """
    T = mask_BT.shape[1]
    last_B = (mask_BT * torch.arange(1, T + 1, device=mask_BT.device)).argmax(1)
    reward_BT = torch.zeros_like(mask_BT, dtype=outcome_B.dtype)
    reward_BT[torch.arange(len(outcome_B), device=mask_BT.device), last_B] = outcome_B
    return reward_BT.masked_fill(~mask_BT, 0.0)


def total_return(reward_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0) -> Tensor:
    """R_b = sum_k gamma^k r_bk, k counting action tokens from 0: float[B]   (Williams 1992)."""
    power_BT = gamma ** (mask_BT.cumsum(1) - 1).clamp(min=0).to(reward_BT.dtype)
    return torch.where(mask_BT, reward_BT * power_BT, 0.0).sum(1)


def reward_to_go(reward_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0) -> Tensor:
    """R_t = r_t + gamma R_{t+1}, skipping what the policy did not sample: float[B, T]   (Sutton et al. 2000).

    Args:
        reward_BT: float[B, T], read only where `mask_BT` holds.
        mask_BT: bool[B, T]; a False inside the answer (an observation) is stepped over: it neither resets the sum
            nor discounts it.
        gamma: discount per action token, in [0, 1].
    """
    out_BT, acc_B = torch.zeros_like(reward_BT), torch.zeros_like(reward_BT[:, 0])
    for t in reversed(range(reward_BT.shape[1])):
        acc_B = torch.where(mask_BT[:, t], reward_BT[:, t] + gamma * acc_B, acc_B)
        out_BT[:, t] = acc_B
    return out_BT * mask_BT


def group_sum(x_B: Tensor, group_B: Tensor) -> Tensor:
    """S_p = sum of x_b over the rows b with group_b = p: [P]."""
    groups = int(group_B.max()) + 1 if len(group_B) else 0
    return torch.zeros(groups, dtype=x_B.dtype, device=x_B.device).index_add_(0, group_B, x_B)


def has_signal(R_B: Tensor, valid_B: Tensor, group_B: Tensor, size_B: Tensor | None = None) -> Tensor:
    """max - min > EQUAL max size over the valid rows of the group: bool[B]. Decided on the rewards, not on their std.

    size_B: what float residue is a share of: |R_b|, or where R_b is a sum, the sum of the magnitudes in it.
    """
    blank = torch.zeros(int(group_B.max()) + 1 if len(group_B) else 0, dtype=R_B.dtype, device=R_B.device)

    def highest(x_B: Tensor) -> Tensor:
        return blank.scatter_reduce(0, group_B, x_B.masked_fill(~valid_B, -torch.inf), "amax", include_self=False)

    size_P = highest(R_B.abs() if size_B is None else size_B)
    return ((highest(R_B) + highest(-R_B) > EQUAL * size_P)[group_B]) & valid_B


def returns(batch: Batch) -> Tensor:
    """R_b in float64, zero where the row is not valid."""
    return total_return(batch.reward_BT.double(), batch.mask_BT).masked_fill(~batch.valid_B, 0.0)


def sizes(batch: Batch) -> Tensor:
    """sum_t |r_bt| in float64."""
    return torch.where(batch.mask_BT, batch.reward_BT.double().abs(), 0.0).sum(1)


def varies(batch: Batch) -> bool:
    """Whether the answers of the whole batch earned different rewards; if not, there is nothing to learn from them."""
    return bool(has_signal(returns(batch), batch.valid_B, torch.zeros_like(batch.group_B), sizes(batch)).any())
