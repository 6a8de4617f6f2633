"""Our recipes as functions of somebody else's, which ask by name for what their parts need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import asking
from rung.maths.assess import advantages
from rung.maths.logprob import entropy_of
from rung.maths.objective import objective
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals

GIVEN = {"old_logp": "old_logp_BT", "behavior_logp": "behavior_logp_BT", "ref_logp": "ref_logp_BT", "values": "value_BT",
         "greedy_rewards": "greedy_B"}  # fmt: skip


def as_pair(recipe: Recipe) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(loss, advantage function) of a recipe without what a function cannot do: draw other prompts, see the old law whole."""
    recipe = replace(recipe, data=p.Data(), trust=p.NoTrust())
    adv_asks = ["reward_BT", "mask", "groups"]
    adv_asks += _if(recipe.kl.where == "reward" and recipe.kl.coef, "old_logp", "ref_logp")
    adv_asks += [*_if("values" in recipe.needs, "values"), *_if("greedy" in recipe.needs, "greedy_rewards")]
    moved = not isinstance(recipe.ratio, p.NoRatio) or isinstance(recipe.surrogate, p.MirrorDescent)
    corrected = not isinstance(recipe.correction, p.NoCorrection)
    asks = ["logp", "advantages", "mask", "groups", "total_tokens", "total_sequences", "max_tokens", "step"]
    asks += [*_if(moved or corrected, "old_logp"), *_if(corrected, "behavior_logp")]
    asks += _if(recipe.kl.where == "loss" and recipe.kl.coef, "ref_logp")
    asks += [*_if(recipe.entropy, "logits", "temperature"), *_if(recipe.imitation, "reward_BT")]

    def advantage(**x: Any) -> Tensor:
        batch = _batch(recipe, x)
        return advantages(recipe, batch, recipe.kl.shape_reward(batch))[0]

    def loss(**x: Any) -> Tensor:
        batch, step = _batch(recipe, x), x["step"]
        right = int((step.mask & (step.reward_BT.sum(1) > 0)[:, None]).sum())
        prompts_P = torch.zeros(int(step.groups.max()) + 1, dtype=torch.long)
        prompts_P.index_add_(0, step.groups, step.mask.sum(1))
        total = Totals(
            x["total_tokens"], x["total_sequences"], x["max_tokens"], right_tokens=right, prompt_tokens_P=prompts_P
        )
        entropy = entropy_of((x["logits"] / x["temperature"]).log_softmax(-1)) if recipe.entropy else None
        return -objective(recipe, batch, Scores(x["logp"], entropy), x["advantages"], total)

    return asking(loss, f"{recipe.name}_loss", *asks), asking(advantage, f"{recipe.name}_advantage", *adv_asks)


def _if(condition: Any, *names: str) -> list[str]:
    return list(names) if condition else []


def _batch(recipe: Recipe, x: dict[str, Any]) -> Batch:
    mask_BT = x["mask"]
    zeros, true = torch.zeros(mask_BT.shape, dtype=torch.float64), torch.ones(len(mask_BT), dtype=torch.bool)
    given = {ours: x.get(name) for name, ours in GIVEN.items()}
    now = x["logp"].detach() if "logp" in x else zeros
    laws = {"old_logp_BT": x.get("old_logp", now), "behavior_logp_BT": x.get("behavior_logp", x.get("old_logp", now))}
    return Batch(
        **{**given, **laws},
        reward_BT=x.get("reward_BT", zeros),
        mask_BT=mask_BT,
        group_B=x["groups"],
        valid_B=mask_BT.any(1),
        keep_B=true,
        truncated_B=~true,
        right_B=(x["reward_BT"] * mask_BT).sum(1) > 0 if "reward_BT" in x else None,
        bootstrap_B=zeros[:, 0] if "values" in x else None,
        step_end_BT=mask_BT,
        state=replace(recipe.initial_state(), mean=0.2, mean_updates=5),
    )
