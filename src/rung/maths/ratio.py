"""Ratio: how far the policy has moved from the one that the batch belongs to, as a log-ratio per token.

Whatever its value, the gradient of a token's log-ratio is that of its own log pi, so that at pi_old every ratio gives
the policy gradient: with any credit, outcome or per token, and under any aggregate.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.settings.ranges import Checked

LIMIT = 20.0  # |log ratio| beyond this is cut before any exp: exp(20) = 5e8 is no longer a weight but an accident


def log_difference(logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """ell_bt = log pi(y_bt|.) - log pi_old(y_bt|.), 0 off the mask, cut at +-20: float[B, T]."""
    return torch.where(mask_BT, logp_BT - old_logp_BT, 0.0).clamp(-LIMIT, LIMIT)


def own_gradient(value: Tensor, d_BT: Tensor) -> Tensor:
    """stop_gradient[value] + d_BT - stop_gradient[d_BT], without gradient where the value is at the cut of +-20.

    value: one a token, [B, T], or one an answer, [B, 1].
    """
    moves_BT = torch.where(value.abs() < LIMIT, d_BT - d_BT.detach(), 0.0)
    return value.detach() + moves_BT


class Ratio(Checked):
    """A part that maps (logp_BT, old_logp_BT, mask_BT) to log rho_BT, float[B, T] with gradient."""

    @abstractmethod
    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class NoRatio(Ratio):
    """No importance weight: the batch is used once, at the policy that sampled it. The drift is only measured."""

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return log_difference(logp_BT, old_logp_BT, mask_BT)


@dataclass(frozen=True)
class TokenRatio(Ratio):
    """log rho_bt = log pi(y_bt|.) - log pi_old(y_bt|.)   (PPO, arXiv:1707.06347 eq. 6).

    Biased off-policy: the states are still those that pi_old visits.
    """

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return log_difference(logp_BT, old_logp_BT, mask_BT)


@dataclass(frozen=True)
class SequenceRatio(Ratio):
    """log s_b = (1/|y_b|) sum_t ell_bt, one geometric mean on every token   (GSPO, arXiv:2507.18071 eq. 7).

    The gradient is that of GSPO-token (eq. 13-14): equal to GSPO's where an answer has one advantage, and right where
    advantages differ between tokens.
    """

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        d_BT = log_difference(logp_BT, old_logp_BT, mask_BT)
        log_s_B1 = d_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)
        return own_gradient(log_s_B1, d_BT)


@dataclass(frozen=True)
class SequenceProduct(Ratio):
    """log rho_b = sum_t ell_bt, the whole answer's ratio on every token.

    Unbiased off-policy, whatever the credit; its variance grows exponentially with the length.
    """

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        d_BT = log_difference(logp_BT, old_logp_BT, mask_BT)
        return own_gradient(d_BT.sum(1, keepdim=True).clamp(-LIMIT, LIMIT), d_BT)


@dataclass(frozen=True)
class PerDecision(Ratio):
    """log rho_bt = sum_{k <= t} ell_bk, the ratio of the answer so far   (per-decision; Precup et al. 2000).

    Weighs a state and its action as pi would meet them: unbiased off-policy where A is pi's own advantage (an exact
    critic's). A sampled return beyond the token is still that of pi_old.
    """

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        d_BT = log_difference(logp_BT, old_logp_BT, mask_BT)
        return own_gradient(d_BT.cumsum(1).clamp(-LIMIT, LIMIT), d_BT)
