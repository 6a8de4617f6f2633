"""Teach language models to reason with policy gradients: one ladder, from REINFORCE to Dr. GRPO.

    import rung
    run = rung.train("grpo", model="starter", steps=60)
    run.ask("4*7-2=")

`rung.recipes` is the file to open first; docs/python.md says everything that can be called. Nothing is loaded before it is
used: importing rung takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.api import evaluate, load, train
    from rung.errors import InputError
    from rung.run import Run
    from rung.training.callbacks import StepRecord

__all__ = ["InputError", "Run", "StepRecord", "__version__", "evaluate", "load", "recipes", "records", "train"]
__version__ = "0.1.0"  # the only place: pyproject.toml reads it here
_FOUND_IN = {
    "evaluate": "rung.api",
    "load": "rung.api",
    "train": "rung.api",
    "Run": "rung.run",
    "InputError": "rung.errors",
    "StepRecord": "rung.training.callbacks",
}
_MODULES = ("recipes", "records")


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        return getattr(importlib.import_module(_FOUND_IN[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"rung.{name}")
    raise AttributeError(f"module 'rung' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
