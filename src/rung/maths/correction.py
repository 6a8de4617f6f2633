"""Correction: a detached weight c_bt from the sampler's policy mu to the trainer's old policy pi_old.

Sampler and trainer may disagree about the same tokens (other kernels, lower precision, stale weights). The ratio
compares pi with pi_old; this weight repairs mu -> pi_old. It multiplies the policy term only, never KL or entropy.
d_bt = log pi_old - log mu.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rung.maths.credit import Needs
from rung.maths.ratio import LIMIT, log_difference
from rung.records import Batch
from rung.settings.ranges import Checked, Coefficient, above, ordered

Cap = Annotated[float, above(0, "a weight that is cut at 0 drops every token", high=torch.inf)]


def _d(batch: Batch) -> Tensor:
    return log_difference(batch.old_logp_BT, batch.behavior_logp_BT, batch.mask_BT).detach()


def _whole(d_BT: Tensor) -> Tensor:
    return d_BT.sum(1, keepdim=True).clamp(-LIMIT, LIMIT).expand_as(d_BT)


class Correction(Checked):
    """A part that maps (batch, logp_BT, adv_BT) to c_BT, float[B, T] without gradient."""

    needs: ClassVar[Needs] = frozenset({"old_logp"})

    @abstractmethod
    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class NoCorrection(Correction):
    """c = 1, and pi_old is what the sampler reported: one engine samples and trains."""

    needs: ClassVar[Needs] = frozenset()

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        return torch.ones_like(adv_BT)


@dataclass(frozen=True)
class TokenTIS(Correction):
    """c_bt = min(exp d_bt, cap), truncated importance sampling per token   (Ionides 2008; for LLMs, cap about 2)."""

    cap: Cap = 2.0

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        return _d(batch).exp().clamp(max=self.cap)


@dataclass(frozen=True)
class SequenceTIS(Correction):
    """c_b = min(exp sum_t d_bt, cap) on every token; unbiased without the cap."""

    cap: Cap = 2.0

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        return _whole(_d(batch)).exp().clamp(max=self.cap)


@dataclass(frozen=True)
class TokenMask(Correction):
    """c_bt = exp d_bt where low <= exp d_bt <= high, else 0   (IcePop, arXiv:2510.18855)."""

    low: Coefficient = 0.5
    high: Cap = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "low", "high")

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        c_BT = _d(batch).exp()
        return c_BT * ((c_BT >= self.low) & (c_BT <= self.high))


@dataclass(frozen=True)
class SequenceMask(Correction):
    """c_b = exp sum_t d_bt where that is <= cap, else 0: the whole answer is dropped   (masked importance sampling)."""

    cap: Cap = 3.0

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        c_BT = _whole(_d(batch)).exp()
        return c_BT * (c_BT <= self.cap)


@dataclass(frozen=True)
class GeometricMask(Correction):
    """c_bt = min(exp d_bt, cap) where low <= exp(mean_t d_bt) <= high, else 0: odd answers leave, the rest is corrected."""

    low: Coefficient = 0.99
    high: Cap = 1.01
    cap: Cap = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(self, "low", "high")

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        d_BT = _d(batch)
        s_B1 = (d_BT.sum(1, keepdim=True) / batch.mask_BT.sum(1, keepdim=True).clamp(min=1)).exp()
        return d_BT.exp().clamp(max=self.cap) * ((s_B1 >= self.low) & (s_B1 <= self.high))


@dataclass(frozen=True)
class StaleNegativeMask(Correction):
    """c_b = 0 where A_b < 0 and mean_t (log pi_old - log pi) > delta, else 1   (DeepSeek-V3.2, arXiv:2512.02556 eq. 9)."""

    delta: float = 0.5
    needs: ClassVar[Needs] = frozenset()

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        drift_BT = log_difference(batch.old_logp_BT, logp_BT.detach(), batch.mask_BT)
        drift_B1 = drift_BT.sum(1, keepdim=True) / batch.mask_BT.sum(1, keepdim=True).clamp(min=1)
        return ((adv_BT >= 0) | (drift_B1 <= self.delta)).to(adv_BT.dtype)
