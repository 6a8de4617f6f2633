"""Stand-ins for packages that a peer imports and a CPU does not need (ray, vllm, flash_attn, ...).

They are imported, and nothing else: what a stand-in gives can be subclassed and used as a decorator, which happens while a module
is read. Any other use raises, so that no number can come out of one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import MutableSequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Named(type):
    """A class of which every attribute is another one like it: module.A.B, read while a module is read."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name, (StandIn,), {"__module__": cls.__module__})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not issubclass(cls, StandIn) or StandIn not in cls.__bases__:
            return super().__call__(*args, **kwargs)  # a class of the peer's that inherits from a stand-in
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else _Decorator(cls)

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __iter__(cls) -> Any:
        return iter(())

    def __getitem__(cls, key: Any) -> Any:
        return cls


class StandIn(metaclass=_Named):
    """What a stand-in's module holds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Decorator:
    """What a stand-in returns: it hands back what it decorates, and can do nothing else."""

    def __init__(self, of: type) -> None:
        self._of = of

    def __bool__(self) -> bool:
        return False  # is_initialized(), is_available(), ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and callable(args[0]) and not kwargs:
            return args[0]
        raise RuntimeError(f"{self._of.__module__}.{self._of.__name__} is a stand-in: it cannot compute anything.")


class _Module(ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012
    __version__ = "0.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Named(name, (StandIn,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    """Finds the stand-ins, before folders that happen to have their names."""

    def __init__(self) -> None:
        self.roots: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if any(fullname == root or fullname.startswith(root + ".") for root in self.roots):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


_finder = _Finder()


def stand_in_for(*roots: str) -> tuple[str, ...]:
    """Let these packages be imported where they are not installed; the names of those that are not."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    absent = tuple(r for r in roots if r in _finder.roots or not _installed(r))
    _finder.roots.update(absent)
    return absent


def _installed(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None  # a mere folder has none
    except ModuleNotFoundError:  # its parent is not there
        return False
