"""Training: policy, critic, update rules, the loop. The module itself can be called: rung.train(recipe="grpo", ...)."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.tasks.environment import Splits
    from rung.train.loop import Run


class _Callable(ModuleType):
    def __call__(self, *, splits: Splits | None = None, **settings: Any) -> Run:
        """Train as the settings say (the fields of rung.train.config.TrainConfig) and return the Run.

        recipe: a name, or a rung.recipes.Recipe; it is stored with the run part by part.
        splits: problems made in Python (rung.tasks.environment.Splits), instead of a task's name.
        resume: the directory of a run to go on with; everything that is not given is as the run has it.

        Raises:
            rung.errors.InputError: a setting is unknown or does not fit; the message says what to do.
        """
        from rung.recipes import Recipe
        from rung.train.config import TrainConfig, checked
        from rung.train.loop import train
        from rung.train.resume import going_on

        recipe = settings.get("recipe")
        own = recipe if isinstance(recipe, Recipe) else None
        if own is not None:
            settings["recipe"] = own.name
        if splits is not None:
            settings = {"task": f"python:{splits.name}", **settings}
        if settings.get("resume", False) is not False:
            given = {k: v for k, v in settings.items() if k not in ("resume", "out")}
            config = going_on({**checked(given), "resume": settings["resume"], "out": settings.get("out")})
        else:
            config = TrainConfig(**checked(settings))
        return train(config, splits=splits, recipe=own)


sys.modules[__name__].__class__ = _Callable
