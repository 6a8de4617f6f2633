"""A run over several processes, foretold: seconds of a step by side, what bounds it, and which spread takes the least.

Whoever computes is a Crew: this machine, as the rehearsal has timed it (here.py), or GPUs from a data sheet (planned.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from rung.errors import setting
from rung.plan.pipeline import Stage, closed_form, step_seconds
from rung.recipe_io import override
from rung.recipes import Recipe
from rung.settings.cluster import Cluster

STALE = (0, 1, 2)  # bounds that are tried
GAIN = 0.99  # of a step's seconds: less of a gain is none


class Crew(Protocol):
    """places: processes that can compute at once.  recipe: with what corrects for stale answers, where they are."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def places(self) -> float: ...
    def drawing(self, spread: Cluster) -> tuple[Stage, ...]: ...
    def learning(self, spread: Cluster) -> tuple[Stage, ...]: ...
    def learner_bytes(self, spread: Cluster) -> float: ...
    def sampler_bytes(self, spread: Cluster) -> float: ...
    def behind(self, spread: Cluster) -> float: ...
    def fits(self, spread: Cluster) -> bool: ...
    def others(self, spread: Cluster) -> Iterator[Forecast]:
        """What could be set otherwise, a change each, which is the forecast's `settings`."""


@dataclass(frozen=True)
class Forecast:
    """One spread of one crew. settings: that make it, or that are changed for it."""

    crew: Crew
    spread: Cluster
    settings: dict[str, object]

    @cached_property
    def drawing(self) -> tuple[Stage, ...]:
        return self.crew.drawing(self.spread)

    @cached_property
    def learning(self) -> tuple[Stage, ...]:
        return self.crew.learning(self.spread)

    @property
    def sides(self) -> tuple[float, float]:
        """Seconds of each side of a step, if it had the places to itself."""
        return sum(stage.seconds for stage in self.drawing), sum(stage.seconds for stage in self.learning)

    @cached_property
    def seconds(self) -> float:
        """Of a step once the run goes evenly."""
        if self.crew.places == float("inf"):
            return closed_form(*self.sides, self.spread.staleness)
        return step_seconds(self.drawing, self.learning, self.spread.staleness, self.crew.places)

    @property
    def behind(self) -> float:
        """Updates between the weights that drew a token and those that learn from it, on average."""
        return self.crew.behind(self.spread)

    @property
    def busy(self) -> tuple[float, float]:
        """(samplers, learners): the share of a step in which they draw, and in which they learn."""
        names = ("draw", "learn")
        return tuple(  # type: ignore[return-value]
            min(1.0, sum(s.seconds for s in side if s.name == name) / self.seconds)
            for name, side in zip(names, (self.drawing, self.learning), strict=True)
        )

    @property
    def bottleneck(self) -> str:
        """The stage that takes longest, on the side that decides; without staleness both do."""
        a, b = self.sides
        decides = (
            (*self.drawing, *self.learning) if not self.spread.staleness else self.drawing if a > b else self.learning
        )
        return max(decides, key=lambda stage: stage.seconds).name

    @property
    def said(self) -> str:
        """Its settings as they are given."""
        return " ".join(setting(name, value) for name, value in self.settings.items())


def corrected(recipe: Recipe, staleness: int) -> tuple[Recipe, dict[str, object]]:
    """The recipe as it learns from stale answers, and the setting that this takes."""
    if not staleness or "old_logp" in recipe.correction.needs:
        return recipe, {}
    return override(recipe, {"correction": "TokenTIS"}), {"recipe.correction": "TokenTIS"}


def best(found: Iterable[Forecast]) -> Forecast | None:
    """The one that takes the least; of those that take about as long, the first. None: there are none."""
    least: Forecast | None = None
    for one in found:
        if least is None or one.seconds < GAIN * least.seconds:
            least = one
    return least


def changes(now: Forecast) -> list[Forecast]:
    """What to change first: what makes a step shorter, the most first, each alone."""
    better = [
        one for one in now.crew.others(now.spread) if one.seconds < GAIN * now.seconds and one.crew.fits(one.spread)
    ]
    return sorted(better, key=lambda one: one.seconds)


def shifted(spread: Cluster, most: int) -> Iterator[Cluster]:
    """A process of one kind instead of one of the other, and one more of either. most: of each kind."""
    n, m = spread.learners, spread.samplers
    for learners, samplers in ((n + 1, m - 1), (n - 1, m + 1), (n + 1, m), (n, m + 1)):
        if 1 <= learners <= most and 1 <= samplers <= most:
            yield replace(spread, learners=learners, samplers=samplers)
