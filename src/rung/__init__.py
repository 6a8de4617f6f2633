"""Teach language models to reason with policy gradients: one ladder, from REINFORCE to Dr. GRPO.

    import rung
    run = rung.train("grpo", model="starter", steps=60)
    run.ask("4*7-2=")

`rung.recipes` is the file to open first; docs/python.md says everything that can be called. Nothing is loaded before it is
used: importing rung takes milliseconds.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rung import train as _package

if TYPE_CHECKING:
    from rung.api import evaluate, load
    from rung.errors import InputError
    from rung.run import Run
    from rung.train.callbacks import StepRecord

__all__ = ["InputError", "Run", "StepRecord", "__version__", "evaluate", "load", "recipes", "records", "train"]
__version__ = "0.1.0"  # the only place: pyproject.toml reads it here
_FOUND_IN = {
    "evaluate": "rung.api",
    "load": "rung.api",
    "Run": "rung.run",
    "InputError": "rung.errors",
    "StepRecord": "rung.train.callbacks",
}
_MODULES = ("recipes", "records")


class _Callable(ModuleType):
    """The package of the training loop, which is called `rung.train` like the function: called, it is the function."""

    def __call__(self, *args: Any, **settings: Any) -> "Run":
        return _api().train(*args, **settings)

    @property
    def __signature__(self) -> Any:
        return _api().signature()

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return str(_api().train.__doc__)


def _api() -> Any:
    return importlib.import_module("rung.api")


_package.__class__ = _Callable


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        return getattr(importlib.import_module(_FOUND_IN[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"rung.{name}")
    raise AttributeError(f"module 'rung' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
