"""What an import is: a recipe, settings of rung.train, and where the words of the configuration and its mathematics part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung.errors import Refusals
from rung.recipe_io import all_recipes, diff, to_dict
from rung.recipes import Recipe
from rung.training.config import typed_settings


@dataclass(frozen=True)
class Imported:
    """recipe: what the configuration computes.  settings: of rung.train, as far as it says.

    warnings: where a name says one thing and the mathematics is another.  notes: what does not change the mathematics, or is not
    read from there.
    """

    source: str
    recipe: Recipe
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def base(self) -> Recipe:
        """The recipe of the ladder that is nearest, itself where there is one that computes the same."""

        def distance(known: Recipe) -> tuple[int, int]:
            """First in the kinds of parts, then in their values."""
            apart = diff(known, self.recipe).values()
            return sum(type(a) is not type(b) for a, b in apart), len(apart)

        return min(all_recipes().values(), key=distance)

    def toml(self) -> dict[str, Any]:
        """What `rung train --config` reads: the nearest recipe and the parts that differ from it, then the settings."""
        base = self.base()
        overrides = {name: to_dict(new) for name, (_, new) in diff(base, self.recipe).items()}
        return {
            "recipe": base.name,
            **{k: v for k, v in self.settings.items() if v is not None},
            "overrides": overrides,
        }


def fitting(settings: Mapping[str, Any], refusals: Refusals) -> dict[str, Any]:
    """The settings, each of which rung.train must take."""
    for name, value in settings.items():
        with refusals:
            typed_settings({name: value})
    return dict(settings)


def named(recipe: Recipe) -> Recipe:
    """The recipe under the name of the ladder's that computes the same, if there is one."""
    for known in all_recipes().values():
        if not diff(known, recipe):
            return known
    return recipe
