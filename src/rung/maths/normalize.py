"""Normalization of advantages over the whole optimizer batch, after credit and before the objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rung.maths.credit import EQUAL
from rung.ranges import Checked, Coefficient


@dataclass(frozen=True)
class AsIs(Checked):
    """A <- A: advantages are not normalized."""

    def __call__(self, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return adv_BT


@dataclass(frozen=True)
class Whiten(Checked):
    """A <- (A - mean) / sqrt(var + eps) over all action tokens of the whole optimizer batch   (REINFORCE++ eq. 8-10).

    `shift=False` only divides, which keeps every sign. With fewer than two tokens, or no variance, the centered
    advantages (zeros) are returned.
    """

    shift: bool = True
    bessel: bool = True
    eps: Coefficient = 1e-8

    def __call__(self, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        n = mask_BT.sum()
        if n <= 1:
            return torch.zeros_like(adv_BT) if self.shift else adv_BT
        a = adv_BT.double()
        mean = (a * mask_BT).sum() / n
        centered_BT = (a - mean) * mask_BT
        var = centered_BT.square().sum() / (n - int(self.bessel))
        if var <= EQUAL**2:
            return torch.zeros_like(adv_BT) if self.shift else adv_BT
        out_BT = (centered_BT if self.shift else a * mask_BT) / (var + self.eps).sqrt()
        return out_BT.to(adv_BT.dtype)
