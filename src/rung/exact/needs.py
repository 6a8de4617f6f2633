"""What parts need, prepared exactly for enumerated worlds, by the names of recipe_rules.NEEDS. One name, one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rung.maths.returns import reward_to_go
from rung.recipes import Recipe
from rung.records import Batch

if TYPE_CHECKING:
    from rung.exact.world import Scene


def _as_it_is(scene: Scene, recipe: Recipe, batch: Batch) -> Batch:
    return batch


def _ref_logp(scene: Scene, recipe: Recipe, batch: Batch) -> Batch:
    law = scene.law(scene.ref, scene.condition.scored_temperature)
    return replace(batch, ref_logp_BT=scene.logp(law).flatten(0, 1))


def _steps(scene: Scene, recipe: Recipe, batch: Batch) -> Batch:
    return replace(batch, step_end_BT=batch.mask_BT) if scene.world.reward == "dense" else batch


def _greedy(scene: Scene, recipe: Recipe, batch: Batch) -> Batch:
    """Reward of the argmax-decoded answer to each cell's prompt: [P A]."""
    best_PS = scene.law(scene.behavior).argmax(-1)
    total_PA = (scene.reward_PAT + scene.overlong(recipe)).sum(-1)
    follows_PA = (best_PS[:, scene.tree.state_AT] == scene.tree.token_AT) | ~scene.tree.mask_AT
    return replace(batch, greedy_B=total_PA[follows_PA.all(-1)].repeat_interleave(scene.world.answers))


def _values(scene: Scene, recipe: Recipe, batch: Batch) -> Batch:
    """V(s) = E[reward still to come | s] under the law that draws, of the reward that the critic is trained on; or noise."""
    P, A, S = scene.world.prompts, scene.world.answers, scene.world.states
    if scene.condition.critic == "wrong":
        return replace(
            batch, value_BT=scene.at_states(scene.wrong_PS).flatten(0, 1), bootstrap_B=scene.wrong_PA.flatten()
        )
    earned_BT = recipe.kl.shape_reward(batch).reward_BT
    G_PAT = reward_to_go(earned_BT, batch.mask_BT, recipe.credit.discount).view(P, A, -1)
    state, seen = scene.tree.state_AT[scene.tree.mask_AT], scene.tree.mask_AT
    total, weight = torch.zeros(2, P, S, dtype=torch.float64)
    for p in range(P):  # an answer passes through its states: condition on each
        prob_AT = scene.prob_PA[p][:, None].expand_as(seen)
        total[p].index_add_(0, state, (prob_AT * G_PAT[p])[seen])
        weight[p].index_add_(0, state, prob_AT[seen])
    V_BT = scene.at_states(total / weight).flatten(0, 1)
    return replace(batch, value_BT=V_BT, bootstrap_B=torch.zeros(P * A, dtype=torch.float64))


PREPARED: Mapping[str, Callable[[Scene, Recipe, Batch], Batch]] = {
    "groups": _as_it_is,
    "greedy": _greedy,
    "steps": _steps,
    "old_logp": _as_it_is,  # the condition says what it is
    "ref_logp": _ref_logp,
    "values": _values,
    "bootstrap": _values,
    "ref_full": _as_it_is,  # a channel of `Scene.scores`, as the next one
    "old_full": _as_it_is,
}
FULL: tuple[frozenset[str], ...] = (  # what opens the channels of `Scene.scores` behind the log-probabilities
    frozenset(),  # entropy
    frozenset({"ref_full"}),
    frozenset({"old_full"}),
)
