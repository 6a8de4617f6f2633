"""What a user did that we cannot do: one message that says what, why and what to do (exit status 2)."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input was refused. The message says what was given, why it cannot work, and what to do instead."""


def unknown(kind: str, name: str, known: Iterable[str], *, more: str = "") -> InputError:
    """The error for a name that is not among `known`, with the nearest match and the full list."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.{more}")
