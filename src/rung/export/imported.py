"""What an import is: a recipe, settings of rung.train, and where the words of the configuration and its mathematics part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung import errors
from rung.errors import InputError, Refusals
from rung.recipe_io import all_recipes, diff, to_dict
from rung.recipe_rules import refuse_sampling
from rung.recipes import Recipe
from rung.settings.ranges import shown
from rung.training.config import TrainConfig, typed_settings
from rung.training.together import refuse_together


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


def fitting(settings: Mapping[str, Any], words: Mapping[str, str], refusals: Refusals) -> dict[str, Any]:
    """Those of the settings that rung.train takes, each by itself; the others are refused. words: the source's for them."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        with refusals:
            try:
                found |= typed_settings({name: value})
            except InputError as error:
                word = words.get(name, name)
                if word.removesuffix("=") == name:
                    raise
                raise InputError(f"{word}{shown(value) if word.endswith('=') else ''}: {error}") from error
    return found


def refuse_untrainable(
    recipe: Recipe, settings: Mapping[str, Any], words: Mapping[str, str], refusals: Refusals
) -> None:
    """Refuse what `rung train` would, as far as it is seen without model and task. words: the source's for rung's settings."""
    config = TrainConfig(**settings)
    with errors.named(words):
        with refusals:
            refuse_together(config)
        with refusals:
            refuse_sampling(
                recipe,
                samples_per_prompt=config.samples_per_prompt,
                rows=(config.prompts_per_step or 1) * config.samples_per_prompt,
                temperature=config.temperature,
                is_full=config.top_p == 1 and not config.top_k,
                max_new_tokens=config.max_new_tokens or 1,
            )


def named(recipe: Recipe) -> Recipe:
    """The recipe under the name of the ladder's that computes the same, if there is one."""
    for known in all_recipes().values():
        if not diff(known, recipe):
            return known
    return recipe
