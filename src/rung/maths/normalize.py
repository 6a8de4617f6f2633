"""Normalization of advantages over the whole optimizer batch, after credit and before the objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rung.maths.returns import EQUAL
from rung.settings.ranges import Checked, Coefficient


@dataclass(frozen=True)
class AsIs(Checked):
    """A <- A: advantages are not normalized."""

    def __call__(self, adv_BT: Tensor, mask_BT: Tensor, signal: bool = True) -> Tensor:
        return adv_BT

    def dominated(self, adv_BT: Tensor, mask_BT: Tensor) -> bool | None:
        """Whether eps exceeds the variance that it stands beside. None: no eps here."""
        return None


@dataclass(frozen=True)
class Whiten(Checked):
    """A <- (A - mean) / sqrt(var + eps) over all action tokens of the whole optimizer batch   (REINFORCE++ eq. 8-10).

    `shift=False` only divides, which keeps every sign. With fewer than two tokens, or no variance, the centered
    advantages (zeros) are returned.

    signal: whether the batch's rewards differ at all (`rung.maths.returns.varies`). If not, what varies in A is the error
        of a critic or a KL of next to nothing, and dividing by its std would make it a step of full size: A is 0.
    """

    shift: bool = True
    bessel: bool = True
    eps: Coefficient = 1e-8

    def __call__(self, adv_BT: Tensor, mask_BT: Tensor, signal: bool = True) -> Tensor:
        if not signal:
            return torch.zeros_like(adv_BT)
        n = mask_BT.sum()
        if n <= 1:
            return torch.zeros_like(adv_BT) if self.shift else adv_BT
        a = adv_BT.double()
        centered_BT, var = self._variance(a, mask_BT)
        if var.sqrt() <= EQUAL * (a.abs() * mask_BT).max():
            return torch.zeros_like(adv_BT) if self.shift else adv_BT
        out_BT = (centered_BT if self.shift else a * mask_BT) / (var + self.eps).sqrt()
        return out_BT.to(adv_BT.dtype)

    def dominated(self, adv_BT: Tensor, mask_BT: Tensor) -> bool | None:
        if mask_BT.sum() <= 1:
            return None
        _, var = self._variance(adv_BT.double(), mask_BT)
        return bool(0 < var < self.eps)

    def _variance(self, a_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        n = mask_BT.sum()
        centered_BT = (a_BT - (a_BT * mask_BT).sum() / n) * mask_BT
        return centered_BT, centered_BT.square().sum() / (n - int(self.bessel))
