"""A recipe's advantages and policy loss with the arguments of SkyRL's registered functions.

SkyRL multiplies A by the weights w (its loss_reduction) before a loss sees it, so that a loss is the sum of c S(rho, w A), and
adds its own KL and entropy terms; what it has set otherwise than the recipe is refused before anything is learned from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.errors import InputError
from rung.export.inside.flat import PolicyTerm, estimator, flat, refuse_other
from rung.export.targets import refuse
from rung.maths.aggregate import Aggregate
from rung.maths.objective import objective
from rung.maths.wide import wide
from rung.recipes import Recipe
from rung.records import Scores, Totals


@dataclass(frozen=True)
class InAdvantage(Aggregate):
    """w_bt = m_bt: the weights stand in A."""

    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        return wide(mask_BT)


def advantage_estimator(recipe: Recipe, wanted: Mapping[str, Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """What AdvantageEstimatorRegistry takes. wanted: settings of `trainer.algorithm` that the recipe needs."""
    return estimator(recipe, "skyrl", "trainer.algorithm", wanted)


def policy_loss(recipe: Recipe, wanted: Mapping[str, Any]) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """What PolicyLossRegistry takes. wanted: settings of `trainer.algorithm` that the recipe needs."""
    refuse(recipe, "skyrl")

    def loss(
        log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, config: Any = None, loss_mask: Tensor | None = None,
        rollout_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
        refuse_other(recipe, "trainer.algorithm", dict(wanted), config)
        if rollout_logprobs is None and recipe.correction.needs:
            raise InputError(
                f"{recipe.name} corrects for the sampler, which gave no log-probabilities. Give "
                "generator.sampling_params.logprobs=1."
            )
        mask_BT = torch.ones_like(log_probs, dtype=torch.bool) if loss_mask is None else loss_mask.bool()
        sampled_BT = old_log_probs if rollout_logprobs is None else rollout_logprobs
        batch = flat(
            torch.zeros_like(log_probs), mask_BT, torch.arange(len(mask_BT), device=mask_BT.device),
            old_logp_BT=old_log_probs, behavior_logp_BT=sampled_BT,
        )  # fmt: skip
        term = PolicyTerm(recipe.ratio, recipe.correction, recipe.surrogate, InAdvantage())
        J = objective(term, batch, Scores(log_probs), advantages, Totals(0, 0, 0))
        low_BT, high_BT = recipe.surrogate.clipped(recipe.ratio(log_probs.detach(), old_log_probs, mask_BT), advantages)
        return -J, {"clip_ratio": float(((low_BT | high_BT) & mask_BT).sum() / mask_BT.sum().clamp(min=1))}

    return loss
