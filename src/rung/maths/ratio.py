"""Ratio: how far the policy has moved from the one that the batch belongs to, as a log-ratio per token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rung.ranges import Checked

LIMIT = 20.0  # |log ratio| beyond this is cut before any exp: exp(20) = 5e8 is no longer a weight but an accident


def log_difference(logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Delta_bt = log pi(y_bt|.) - log pi_old(y_bt|.), 0 off the mask, cut at +-20: float[B, T]."""
    return torch.where(mask_BT, logp_BT - old_logp_BT, 0.0).clamp(-LIMIT, LIMIT)


def _mean(d_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return d_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)


class Ratio(Checked):
    """A part that maps (logp_BT, old_logp_BT, mask_BT) to log rho_BT, float[B, T] with gradient."""

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
    """log s_b = (1/|y_b|) sum_t Delta_bt, one geometric mean on every token   (GSPO, arXiv:2507.18071 eq. 7).

    `per_token=True` is GSPO-token (eq. 13-14): the same value, but token t's gradient flows through its own log pi,
    which allows advantages that differ between tokens.
    """

    per_token: bool = False

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        d_BT = log_difference(logp_BT, old_logp_BT, mask_BT)
        log_s_BT = _mean(d_BT, mask_BT).expand_as(d_BT)
        return log_s_BT.detach() + d_BT - d_BT.detach() if self.per_token else log_s_BT


@dataclass(frozen=True)
class SequenceProduct(Ratio):
    """log rho_b = sum_t Delta_bt, the whole answer's ratio on every token.

    Unbiased off-policy for returns of whole answers; its variance grows exponentially with the length.
    """

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        d_BT = log_difference(logp_BT, old_logp_BT, mask_BT)
        return d_BT.sum(1, keepdim=True).clamp(-LIMIT, LIMIT).expand_as(d_BT)


@dataclass(frozen=True)
class PerDecision(Ratio):
    """log rho_bt = sum_{k <= t} Delta_bk   (per-decision importance sampling, Precup et al. 2000): unbiased."""

    def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return log_difference(logp_BT, old_logp_BT, mask_BT).cumsum(1).clamp(-LIMIT, LIMIT)
