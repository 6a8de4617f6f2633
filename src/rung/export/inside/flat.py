"""A batch as trainers hand it to a registered function: rewards, masks and prompts of all rows, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.errors import InputError
from rung.export.targets import refuse
from rung.maths.aggregate import Aggregate
from rung.maths.assess import advantages
from rung.maths.correction import Correction
from rung.maths.kl import NoKL, ReferenceKL
from rung.maths.ratio import Ratio
from rung.maths.surrogate import Surrogate
from rung.recipes import Recipe
from rung.records import Batch


@dataclass(frozen=True)
class PolicyTerm:
    """The parts of J that a registered loss computes: sum w c S(rho, A). KL and entropy are the trainer's own terms."""

    ratio: Ratio
    correction: Correction
    surrogate: Surrogate
    aggregate: Aggregate
    kl: ReferenceKL = NoKL()
    entropy: float = 0.0
    imitation: float = 0.0


def credited(recipe: Recipe, reward_BT: Tensor, mask_BT: Tensor, index: Any) -> Tensor:
    """A of a whole batch whose rewards have the recipe's KL in them already: float[B, T], in the rewards' dtype.

    index: of each row, what tells its prompt from others: text or numbers.
    """
    if index is None and "groups" in recipe.needs:
        raise InputError(f"{recipe.name} compares the answers to one prompt, and nothing says which rows answer one.")
    mask_BT = mask_BT.bool()
    batch = flat(reward_BT.double().masked_fill(~mask_BT, 0.0), mask_BT, groups(index, mask_BT))
    adv_BT, _ = advantages(recipe, batch, batch)
    return adv_BT.to(reward_BT.dtype)


def estimator(
    recipe: Recipe, target: str, where: str, wanted: Mapping[str, Any]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A registered advantage estimator: rewards, mask [B, T] -> (A, returns), float[B, T] each; nobody asks for returns apart.

    where: the section of the target's settings that holds `wanted`, those which the recipe needs.
    """
    refuse(recipe, target)

    def estimate(
        token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **others: Any
    ) -> tuple[Tensor, Tensor]:
        refuse_other(recipe, where, dict(wanted), config)
        adv_BT = credited(recipe, token_level_rewards, response_mask, index)
        return adv_BT, adv_BT

    return estimate


def groups(index: Any, mask_BT: Tensor) -> Tensor:
    """The number of each row's prompt: int[B]."""
    if index is None:
        return torch.arange(len(mask_BT), device=mask_BT.device)
    known: dict[Any, int] = {}
    names = [x.item() if hasattr(x, "item") else x for x in index]
    return torch.tensor([known.setdefault(name, len(known)) for name in names], device=mask_BT.device)


def flat(reward_BT: Tensor, mask_BT: Tensor, group_B: Tensor, **more: Any) -> Batch:
    """A batch of which every row with a token counts."""
    valid_B, logp_BT = mask_BT.any(1), torch.zeros(mask_BT.shape, device=mask_BT.device)
    given = {"behavior_logp_BT": logp_BT, "old_logp_BT": logp_BT, **more}
    return Batch(
        reward_BT=reward_BT, mask_BT=mask_BT, group_B=group_B, valid_B=valid_B, keep_B=torch.ones_like(valid_B),
        truncated_B=torch.zeros_like(valid_B), **given,
    )  # fmt: skip


def refuse_other(recipe: Recipe, where: str, wanted: dict[str, Any], config: Any) -> None:
    """InputError with the settings of the trainer that are not what the recipe needs: {name with dots: value}."""
    found = {}
    for name, value in wanted.items():
        now = config
        for key in name.split("."):
            now = now.get(key) if hasattr(now, "get") and not hasattr(now, key) else getattr(now, key, None)
        if now != value and not (isinstance(value, float) and isinstance(now, int | float) and float(now) == value):
            found[name] = (now, value)
    if found:
        said = ", ".join(f"{where}.{name} is {now!r} and must be {value!r}" for name, (now, value) in found.items())
        raise InputError(f"{recipe.name}: {said}. Take the settings that `rung export` wrote.")
