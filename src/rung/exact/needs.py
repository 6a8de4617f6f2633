"""What parts need, prepared exactly for enumerated worlds, by the names of recipe_rules.NEEDS. One name, one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

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
    return replace(batch, greedy_B=scene.greedy(recipe))


def _values(scene: Scene, recipe: Recipe, batch: Batch) -> Batch:
    return scene.with_values(recipe, batch)


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
