"""What is being done now, told to whoever measures it: `with phase("sample"): ...`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Phase = Callable[[str], AbstractContextManager[object]]


def untold(name: str) -> AbstractContextManager[object]:
    """Nobody measures."""
    return nullcontext()
