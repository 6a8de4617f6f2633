"""The one objective of which every recipe is an instance. J is maximized: the minus sign stands in training/work.py."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rung.maths.aggregate import Aggregate
from rung.maths.correction import Correction
from rung.maths.kl import ReferenceKL
from rung.maths.ratio import Ratio, log_difference
from rung.maths.returns import group_sum
from rung.maths.surrogate import Surrogate
from rung.records import Batch, Scores, Totals


class Parts(Protocol):
    """The fields of a Recipe that the objective reads."""

    @property
    def ratio(self) -> Ratio: ...
    @property
    def correction(self) -> Correction: ...
    @property
    def surrogate(self) -> Surrogate: ...
    @property
    def kl(self) -> ReferenceKL: ...
    @property
    def aggregate(self) -> Aggregate: ...
    @property
    def entropy(self) -> float: ...
    @property
    def imitation(self) -> float: ...


def count(batch: Batch, max_tokens: int) -> Totals:
    """The denominators of a whole optimizer step. Count once, before the batch is split."""
    length_B = batch.mask_BT.sum(1)
    return Totals(
        tokens=int(length_B.sum()),
        sequences=len(length_B),
        max_tokens=max_tokens,
        prompt_tokens_P=group_sum(length_B, batch.group_B),
        right_tokens=int(length_B[right(batch)].sum()),
    )


def right(batch: Batch) -> Tensor:
    """Rows that the imitation term copies: valid, and right by the task's own reward: bool[B]."""
    return torch.zeros_like(batch.valid_B) if batch.right_B is None else batch.valid_B & batch.right_B


def objective(parts: Parts, batch: Batch, scores: Scores, adv_BT: Tensor, total: Totals) -> Tensor:
    """J = sum_bt w_bt [ c_bt S(rho_bt, A_bt) - beta k_bt + c_H H_bt - beta_old KL(old||pi)_bt ] + c_+ imitation.

    Args:
        parts: the recipe.  batch, adv_BT: the rows at hand.  scores: what the policy says about them, with gradient.
        total: counts over the whole optimizer step, so that J summed over any split of the batch is exact.

    Returns:
        a scalar to MAXIMIZE. Rows and tokens outside `loss_mask_BT` contribute nothing, whatever they hold.
    """
    mask_BT, in_loss_BT = batch.mask_BT, batch.loss_mask_BT
    logp_BT = scores.logp_BT.masked_fill(~mask_BT, 0.0)  # padding may hold anything, NaN included
    old_logp_BT = batch.old_logp_BT.masked_fill(~mask_BT, 0.0)
    log_ratio_BT = parts.ratio(logp_BT, old_logp_BT, mask_BT)

    correction_BT = parts.correction(batch, logp_BT, adv_BT)
    gain_BT = correction_BT * parts.surrogate(log_ratio_BT, logp_BT, adv_BT, mask_BT)
    token_ratio_BT = log_difference(logp_BT, old_logp_BT, mask_BT)  # a KL per token, whatever ratio the advantages have
    gain_BT = gain_BT - batch.state.kl_coef * parts.kl.penalty(batch, scores, logp_BT, token_ratio_BT)
    if scores.entropy_BT is not None and parts.entropy:
        gain_BT = gain_BT + parts.entropy * scores.entropy_BT
    if scores.old_kl_BT is not None:
        gain_BT = gain_BT - batch.state.trust_coef * scores.old_kl_BT

    weight_BT = parts.aggregate(mask_BT, batch.group_B, total)
    J = (weight_BT.to(gain_BT.dtype) * gain_BT).masked_fill(~in_loss_BT, 0.0).sum()
    if parts.imitation:  # log-likelihood of the right answers, + c_+ / N_+ sum log pi   (VAPO, arXiv:2504.05118)
        copied_BT = in_loss_BT & right(batch)[:, None]
        J = J + parts.imitation * torch.where(copied_BT, logp_BT, 0.0).sum() / max(total.right_tokens, 1)
    return J
