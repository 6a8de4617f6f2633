"""Surrogate: the gain per token, a function of log-ratio and advantage, to be MAXIMIZED.

At rho = 1 every one of them has the gradient A grad log pi: with one update per batch they are the same method.
They differ in what happens once the policy has moved.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rung.maths.ratio import own_gradient
from rung.settings.ranges import Checked, Coefficient, above, between

ROOM = 0.2  # the widest usual clip; without one a weight of 1.2 is already no longer 1
Bound = Annotated[float, above(1, "the ratio is 1 at pi_old, where a smaller bound would silence every bad token")]


class Surrogate(Checked):
    """A part that maps (log_ratio_BT, logp_BT, adv_BT, mask_BT) to a gain per token, float[B, T] with gradient."""

    acts_without_advantage: ClassVar[bool] = False  # whether a row with A = 0 still has a gradient

    @abstractmethod
    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def room(self) -> float:
        """|log rho| within which every token keeps a gradient of about A grad log pi."""
        return ROOM

    def clipped(self, log_ratio_BT: Tensor, adv_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens without gradient because rho fell too low (A < 0), rose too high (A > 0): two bool[B, T]."""
        none_BT = torch.zeros_like(adv_BT, dtype=torch.bool)
        return none_BT, none_BT

    def bounded(self, log_ratio_BT: Tensor, adv_BT: Tensor) -> Tensor:
        """Tokens with A < 0 that have risen so far that a second bound (dual, two-sided) silences them: bool[B, T]."""
        return torch.zeros_like(adv_BT, dtype=torch.bool)


Temperature = Annotated[float, above(0, "the gain is divided by it")]


@dataclass(frozen=True)
class ScoreFunction(Surrogate):
    """S = A log pi(y_t|.)   (Williams 1992; assumes that the batch was sampled by pi).   grad S = A grad log pi."""

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return adv_BT * logp_BT


@dataclass(frozen=True)
class Importance(Surrogate):
    """S = rho A   (the surrogate of TRPO, arXiv:1502.05477 eq. 14)."""

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return log_ratio_BT.exp() * adv_BT


@dataclass(frozen=True)
class Clip(Surrogate):
    """S = min(rho A, clip(rho, 1 - low, 1 + high) A)   (PPO, arXiv:1707.06347 eq. 7).

    high > low is DAPO's clip-higher (arXiv:2503.14476 eq. 8). For A < 0 and rho >> 1 the gain falls without bound:
    dual       S = max(S, dual A) there            (arXiv:1912.09729, dual = 3);
    two_sided  rho is cut at this in the first branch (INTELLECT-2, arXiv:2505.07291, two_sided = 4).
    """

    low: Coefficient = 0.2
    high: Coefficient = 0.2
    dual: Bound | None = None
    two_sided: Bound | None = None

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        rho_BT = log_ratio_BT.exp()
        near_BT = rho_BT.clamp(1 - self.low, 1 + self.high)
        free_BT = rho_BT if self.two_sided is None else rho_BT.clamp(max=self.two_sided)
        gain_BT = torch.minimum(free_BT * adv_BT, near_BT * adv_BT)
        if self.dual is not None:
            gain_BT = torch.where(adv_BT < 0, torch.maximum(gain_BT, self.dual * adv_BT), gain_BT)
        return gain_BT

    @property
    def room(self) -> float:
        return min(ROOM, math.log1p(self.high), -math.log1p(-self.low) if self.low < 1 else math.inf)

    def clipped(self, log_ratio_BT: Tensor, adv_BT: Tensor) -> tuple[Tensor, Tensor]:
        rho_BT = log_ratio_BT.exp()
        return (adv_BT < 0) & (rho_BT < 1 - self.low), (adv_BT > 0) & (rho_BT > 1 + self.high)

    def bounded(self, log_ratio_BT: Tensor, adv_BT: Tensor) -> Tensor:
        limit = min(self.dual or torch.inf, self.two_sided or torch.inf)
        return (adv_BT < 0) & (log_ratio_BT.exp() > limit)


@dataclass(frozen=True)
class CISPO(Surrogate):
    """S = stop_gradient[clip(rho, low, high)] A log pi   (MiniMax-M1, arXiv:2506.13585 eq. 4-5).

    The weight is capped, the token is never dropped. `high` is the absolute cap on rho (5 in ScaleRL,
    arXiv:2510.13786; the first paper does not disclose 1 + eps_high); `low` = 0 caps on one side only.
    """

    low: Annotated[float, between(0, 1, "the ratio is 1 at pi_old, and must keep its weight there")] = 0.0
    high: Annotated[float, above(0, "a weight that is cut at 0 drops every token", high=torch.inf)] = 5.0

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return log_ratio_BT.detach().exp().clamp(self.low, self.high) * adv_BT * logp_BT


@dataclass(frozen=True)
class SAPO(Surrogate):
    """S = (4/tau) sigmoid(tau (rho - 1)) A,  tau = positive or negative by the sign of A   (arXiv:2511.20347).

    A soft gate instead of a hard clip: slope sech^2(tau (rho-1)/2), which is 1 at rho = 1; the value there is 2/tau.
    """

    positive: Temperature = 1.0
    negative: Temperature = 1.05

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        tau_BT = torch.full_like(adv_BT, self.negative).masked_fill(adv_BT > 0, self.positive)
        return 4 / tau_BT * torch.sigmoid(tau_BT * (log_ratio_BT.exp() - 1)) * adv_BT


@dataclass(frozen=True)
class GMPO(Surrogate):
    """S = A exp((1/L) sum_t clip(ell_t)), the geometric mean of clipped token ratios   (arXiv:2507.20673).

    ell_t is cut at +width for A > 0 and at -width for A < 0, in log space; the mean stands on every token, each with
    the gradient of its own ell_t (none outside the cut): the same sum, and right where A differs between tokens.
    """

    width: Annotated[float, above(0, "at 0 a ratio may not move at all")] = 0.4

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        near_BT = log_ratio_BT.clamp(-self.width, self.width)
        worse_BT = torch.where(
            adv_BT > 0, torch.minimum(log_ratio_BT, near_BT), torch.maximum(log_ratio_BT, near_BT)
        ).masked_fill(~mask_BT, 0.0)
        mean_B1 = worse_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)
        return own_gradient(mean_B1, worse_BT).exp() * adv_BT

    @property
    def room(self) -> float:
        return min(ROOM, self.width)

    def clipped(self, log_ratio_BT: Tensor, adv_BT: Tensor) -> tuple[Tensor, Tensor]:
        return (adv_BT < 0) & (log_ratio_BT < -self.width), (adv_BT > 0) & (log_ratio_BT > self.width)


@dataclass(frozen=True)
class MirrorDescent(Surrogate):
    """S = -1/(2 tau) (A - tau sum_t ell_t)^2 / L on each token   (Kimi k1.5, arXiv:2501.12599 sec. 2.3.2).

    A is the reward minus the group's mean, which stands for tau log Z. At pi_old the gradient is the policy
    gradient; later it is A - tau sum ell: a squared pull back instead of an importance ratio. Each token has the
    gradient of its own ell_t: the same sum, and right where A differs between tokens.
    """

    tau: Temperature = 0.1
    acts_without_advantage: ClassVar[bool] = True

    def __call__(self, log_ratio_BT: Tensor, logp_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor) -> Tensor:
        L_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
        d_BT = log_ratio_BT.masked_fill(~mask_BT, 0.0)
        pull_BT = adv_BT - self.tau * d_BT.detach().sum(1, keepdim=True)
        return pull_BT * (d_BT - d_BT.detach()) - pull_BT.square() / (2 * self.tau) / L_B1
