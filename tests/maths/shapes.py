"""Names say shapes, and here that is checked: in every call of the maths, B of adv_BT is B of length_B.

While the tests of this folder run, each function of `rung.maths` and each record is looked at as it returns: all its
names, arguments and intermediate values alike, that end in shape letters and hold a tensor must have one size for each
letter. A letter means one size within a call; the digit 1 is that size.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

LETTERS = re.compile(r"_([BTPGVHL1]+)$")
ROOMS = ("rung.maths.", "rung.records")


@cache
def shaped(code: CodeType) -> tuple[tuple[str, str], ...]:
    """(name, its letters) for every name of a function that says a shape."""
    found = ((name, LETTERS.search(name)) for name in (*code.co_varnames, *code.co_cellvars))
    return tuple((name, letters[1]) for name, letters in found if letters)


def disagreement(names: tuple[tuple[str, str], ...], values: Mapping[str, Any]) -> str | None:
    """What is wrong with the tensors among these values, or None."""
    sizes = {"1": (1, "its name")}
    for name, letters in names:
        value = values.get(name)
        if not isinstance(value, Tensor):
            continue
        shape = tuple(value.shape)
        if len(shape) != len(letters):
            return f"{name} is {shape}"
        for letter, size in zip(letters, shape, strict=True):
            wanted, said_by = sizes.setdefault(letter, (size, name))
            if size != wanted:
                return f"{letter} is {size} in {name} {shape} and {wanted} in {said_by}"
    return None


@contextmanager
def watched() -> Iterator[None]:
    """Fails at the end of this block if names disagreed in a call within it."""
    found: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and (names := shaped(frame.f_code)):
            place = frame.f_globals["__name__"]
            if place.startswith(ROOMS) and (wrong := disagreement(names, frame.f_locals)):
                found[f"{place}.{frame.f_code.co_qualname}: {wrong}"] = None

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert not found, "\n".join(found)
