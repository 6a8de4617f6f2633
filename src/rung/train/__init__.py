"""Training: policy, critic, update rules, the loop. The module itself can be called: rung.train(recipe="grpo", ...)."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.train.loop import Run


class _Callable(ModuleType):
    def __call__(self, **settings: Any) -> Run:
        """Train as the settings say (the fields of rung.train.config.TrainConfig) and return the Run.

        Raises:
            rung.errors.InputError: a setting is unknown or does not fit; the message says what to do.
        """
        from rung.train.config import TrainConfig, checked
        from rung.train.loop import train

        return train(TrainConfig(**checked(settings)))


sys.modules[__name__].__class__ = _Callable
