"""A recipe's advantages and policy loss with the arguments of verl's registered functions.

verl adds its own KL and entropy terms, averaged as the policy term is, and hands over the numbers of tokens and answers of the
whole mini-batch, over all ranks; what it has set otherwise than the recipe is refused before anything is learned from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.errors import InputError
from rung.export.inside.flat import PolicyTerm, estimator, flat, refuse_other
from rung.export.targets import refuse
from rung.maths.correction import Correction
from rung.maths.objective import objective
from rung.maths.ratio import log_difference
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals

Loss = tuple[Tensor, dict[str, float]]


@dataclass(frozen=True)
class Given(Correction):
    """c as verl has worked it out from what its sampler said; None: 1."""

    weight_BT: Tensor | None

    def __call__(self, batch: Batch, logp_BT: Tensor, adv_BT: Tensor) -> Tensor:
        return torch.ones_like(adv_BT) if self.weight_BT is None else self.weight_BT


def advantage_estimator(recipe: Recipe, wanted: Mapping[str, Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """What `register_adv_est` takes. wanted: settings of `algorithm` that the recipe needs."""
    return estimator(recipe, "verl", "algorithm", wanted)


def policy_loss(recipe: Recipe, wanted: Mapping[str, Any]) -> Callable[..., Loss]:
    """What `register_policy_loss` takes. wanted: settings of `actor_rollout_ref.actor` that the recipe needs."""
    refuse(recipe, "verl")

    def loss(
        old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor, loss_agg_mode: str = "",
        config: Any = None, rollout_is_weights: Tensor | None = None, **others: Any,
    ) -> Loss:  # fmt: skip
        refuse_other(recipe, "actor_rollout_ref.actor", dict(wanted), config)
        corrected = rollout_is_weights is not None
        if corrected != isinstance(recipe.correction, p.TokenTIS | p.SequenceTIS | p.TokenMask):
            raise InputError(
                f"{recipe.name} has {type(recipe.correction).__name__}, and verl {'has' if corrected else 'has no'} weights for "
                "its sampler. Set algorithm.rollout_correction as `rung export` wrote it."
            )
        own = recipe.correction if isinstance(recipe.correction, p.StaleNegativeMask) else Given(rollout_is_weights)
        term = PolicyTerm(recipe.ratio, own, recipe.surrogate, recipe.aggregate)
        mask_BT, info = response_mask.bool(), config.global_batch_info
        batch = flat(torch.zeros_like(log_prob), mask_BT, torch.arange(len(mask_BT)), old_logp_BT=old_log_prob)
        J = objective(term, batch, Scores(log_prob), advantages, _totals(recipe, info))
        return -J * info.get("dp_size", 1), _metrics(recipe, log_prob.detach(), old_log_prob, mask_BT, advantages)

    return loss


def _totals(recipe: Recipe, info: Mapping[str, Any]) -> Totals:
    """Counts over the whole mini-batch, as verl hands them over."""
    tokens, sequences = info.get("batch_num_tokens"), info.get("global_batch_size")
    if tokens is None or sequences is None:
        raise InputError(
            f"{recipe.name}: verl's engine gives batch_num_tokens={tokens} and global_batch_size={sequences}; without both a "
            "gradient would depend on the size of micro-batches. Use an engine of verl 0.9.1."
        )
    limit = info.get("loss_scale_factor")
    if isinstance(recipe.aggregate, p.FixedBudget) and not limit:
        raise InputError(
            f"{recipe.name}: actor_rollout_ref.actor.loss_scale_factor is not set. Set data.max_response_length."
        )
    return Totals(int(tokens), int(sequences), int(limit or 1))


def _metrics(recipe: Recipe, logp_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, adv_BT: Tensor) -> dict[str, float]:
    """verl's names for how far the policy has moved, and the share of tokens whose gradient the surrogate stops."""
    moved_BT, count = log_difference(logp_BT, old_BT, mask_BT), mask_BT.sum().clamp(min=1)
    low_BT, high_BT = recipe.surrogate.clipped(recipe.ratio(logp_BT, old_BT, mask_BT), adv_BT)
    stopped = ((low_BT | high_BT) & mask_BT).sum() / count
    return {"actor/pg_clipfrac": float(stopped), "actor/ppo_kl": float(-moved_BT.sum() / count)}
