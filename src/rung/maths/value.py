"""Learned value: estimators of the advantage that use a critic V, and the critic's own loss.

MC -> TD -> n-step -> GAE: from no bias and much variance to the reverse; lambda chooses between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor

from rung.maths.credit import Credit, Discount, Needs
from rung.records import Batch
from rung.settings.ranges import Checked, Coefficient, Count, Natural, above, between


def gae(
    reward_BT: Tensor,
    value_BT: Tensor,
    mask_BT: Tensor,
    gamma: float = 1.0,
    lam: float | Tensor = 0.95,
    last_value_B: Tensor | None = None,
) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1},  delta_t = r_t + gamma V_{t+1} - V_t   (arXiv:1506.02438 eq. 16): float[B, T].

    Args:
        reward_BT, value_BT: float[B, T], read only on actions; value_BT[b, t] is V before token t is emitted.
        mask_BT: bool[B, T]; observations are stepped over, as if the sequence had been compacted.
        lam: one number, or float[B] with one per row.
        last_value_B: V after the last action (bootstrapped truncation); None means 0, the end of the episode.
    """
    zero_B = torch.zeros_like(reward_BT[:, 0])
    out_BT, acc_B, next_B = torch.zeros_like(reward_BT), zero_B, zero_B if last_value_B is None else last_value_B
    for t in reversed(range(reward_BT.shape[1])):
        delta_B = reward_BT[:, t] + gamma * next_B - value_BT[:, t]
        acc_B = torch.where(mask_BT[:, t], delta_B + gamma * lam * acc_B, acc_B)
        next_B = torch.where(mask_BT[:, t], value_BT[:, t], next_B)
        out_BT[:, t] = acc_B
    return out_BT * mask_BT


@dataclass(frozen=True)
class GAE(Checked):
    """A_t = sum_l (gamma lam)^l delta_{t+l}   (arXiv:1506.02438 eq. 16): lam = 1 is Monte Carlo - V, lam = 0 is TD."""

    gamma: Discount = 1.0
    lam: Annotated[float, between(0, 1, "the share of each longer estimate: above 1 the farthest weighs most")] = 0.95

    def __call__(self, batch: Batch, last_value_B: Tensor | None) -> Tensor:
        assert batch.value_BT is not None
        return gae(batch.reward_BT, batch.value_BT, batch.mask_BT, self.gamma, self.lam, last_value_B)


@dataclass(frozen=True)
class MC(Checked):
    """A_t = R_t - V(s_t), the Monte Carlo return with a learned baseline   (Sutton et al. 2000)."""

    gamma: Discount = 1.0

    def __call__(self, batch: Batch, last_value_B: Tensor | None) -> Tensor:
        return GAE(self.gamma, 1.0)(batch, last_value_B)


@dataclass(frozen=True)
class TD(Checked):
    """A_t = delta_t = r_t + gamma V(s_{t+1}) - V(s_t), one-step temporal difference   (Sutton 1988)."""

    gamma: Discount = 1.0

    def __call__(self, batch: Batch, last_value_B: Tensor | None) -> Tensor:
        return GAE(self.gamma, 0.0)(batch, last_value_B)


@dataclass(frozen=True)
class NStep(Checked):
    """A_t = sum_{k<n} gamma^k r_{t+k} + gamma^n V(s_{t+n}) - V(s_t), cut at the end of the answer   (arXiv:1602.01783)."""

    n: Count = 5
    gamma: Discount = 1.0

    def __call__(self, batch: Batch, last_value_B: Tensor | None) -> Tensor:
        # A^(n)_t = sum_{l<n} gamma^l delta_{t+l}: n terms of the sum that GAE(lam=1) takes to the end.
        delta_BT = GAE(self.gamma, 0.0)(batch, last_value_B)
        order_BT = batch.mask_BT.long().argsort(dim=1, descending=True, stable=True)  # compacted: actions first
        compact_BT = delta_BT.gather(1, order_BT)
        T = compact_BT.shape[1]
        n = min(self.n, T)
        padded = torch.nn.functional.pad(compact_BT, (0, n))
        total_BT = sum(self.gamma**k * padded[:, k : k + T] for k in range(n))
        return torch.zeros_like(delta_BT).scatter(1, order_BT, torch.as_tensor(total_BT)) * batch.mask_BT


@dataclass(frozen=True)
class LengthAdaptiveGAE(Checked):
    """GAE with lam_i = max(0, 1 - 1/(alpha L_i)), so that credit reaches alpha L tokens back   (VAPO, arXiv:2504.05118)."""

    gamma: Discount = 1.0
    alpha: Annotated[float, above(0, "credit reaches alpha times the length back")] = 0.05

    def __call__(self, batch: Batch, last_value_B: Tensor | None) -> Tensor:
        assert batch.value_BT is not None
        L_B = batch.mask_BT.sum(1).clamp(min=1).to(batch.reward_BT.dtype)
        lam_B = (1 - 1 / (self.alpha * L_B)).clamp(min=0.0)
        return gae(batch.reward_BT, batch.value_BT, batch.mask_BT, self.gamma, lam_B, last_value_B)


@dataclass(frozen=True)
class Critic(Checked):
    """L_V = 1/2 (V - target)^2, or its clipped form max(., (clip(V, V_old +- clip) - target)^2)   (arXiv:1707.06347).

    shared: True reads V from the policy's own trunk (then `coef` scales its gradient there); False gives the critic
        its own copy of the backbone. The head starts at zero, so that step 0 is REINFORCE with reward-to-go.
    learning_rate: of the critic's own AdamW, as a multiple of the policy's.
    epochs, minibatches: passes over a batch, and optimizer steps in each (own backbone only).
    warmup: training steps in which only the critic learns.
    """

    shared: bool = False
    coef: Coefficient = 0.5
    learning_rate: Coefficient = 5.0
    epochs: Count = 1
    minibatches: Count = 4
    clip: Annotated[float, above(0, "within 0 of the old value nothing is learned")] | None = None
    warmup: Natural = 0

    def loss(self, value_BT: Tensor, old_value_BT: Tensor, target_BT: Tensor, weight_BT: Tensor) -> Tensor:
        """sum_bt w_bt L_V: a scalar with gradient. `weight_BT` already holds mask and denominator."""
        error_BT = (value_BT - target_BT).square()
        if self.clip is not None:
            near_BT = old_value_BT + (value_BT - old_value_BT).clamp(-self.clip, self.clip)
            error_BT = torch.maximum(error_BT, (near_BT - target_BT).square())
        return 0.5 * (weight_BT * error_BT).sum()


@dataclass(frozen=True)
class Value(Credit):
    """A_bt = estimator(r, V) with a learned V; the critic regresses on target_t = A_t + V_t (before normalization).

    estimator: MC, TD, NStep, GAE or LengthAdaptiveGAE; target: another one for the critic (VAPO: MC).
    bootstrap_truncated: False treats the token limit as the end of the episode (the limit is part of the task).
    """

    estimator: MC | TD | NStep | GAE | LengthAdaptiveGAE = MC()
    target: MC | TD | NStep | GAE | LengthAdaptiveGAE | None = None
    critic: Critic = field(default_factory=Critic)
    bootstrap_truncated: bool = False

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return frozenset({"values", "bootstrap"} if self.bootstrap_truncated else {"values"})

    def _last(self, batch: Batch) -> Tensor | None:
        if not self.bootstrap_truncated:
            return None
        assert batch.bootstrap_B is not None, "training/needs.py prepares bootstrap_B where a part needs it"
        return torch.where(batch.truncated_B, batch.bootstrap_B, 0.0)

    def __call__(self, batch: Batch) -> Tensor:
        return self._advantage(self.estimator, batch)

    def learns(self) -> Critic:
        return self.critic

    @property
    def discount(self) -> float:
        return self.estimator.gamma

    def targets(self, batch: Batch) -> Tensor:
        """What V is regressed on: A_t + V_t of `target` (of `estimator` where None), float[B, T]."""
        assert batch.value_BT is not None
        return torch.where(batch.mask_BT, self._advantage(self.target or self.estimator, batch) + batch.value_BT, 0.0)

    def _advantage(self, estimator: MC | TD | NStep | GAE | LengthAdaptiveGAE, batch: Batch) -> Tensor:
        clean = replace(batch, reward_BT=batch.reward_BT.masked_fill(~batch.valid_B[:, None], 0.0))
        return estimator(clean, self._last(batch)) * (batch.mask_BT & batch.valid_B[:, None])
