"""TOML text as tables; what would take hours to read is refused before."""

from __future__ import annotations

import re
import tomllib
from typing import Any

DEEPEST = 64  # names in one key: a.b.c has three
_KEY = r"(?<![\w-])(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')[ \t]*+\.[ \t]*+"
_DEEP = re.compile(rf"(?:{_KEY}){{{DEEPEST}}}")


def loads(text: str) -> dict[str, Any]:
    """The tables of a TOML text. tomllib's time grows with the square of a dotted key's length.

    Raises:
        ValueError: it is no TOML, or has a key of too many parts.
        RecursionError: it is nested too deeply.
    """
    found = _DEEP.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"a key of more than {DEEPEST} parts (at line {line})")
    return tomllib.loads(text)
