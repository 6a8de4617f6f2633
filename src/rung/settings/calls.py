"""What Python may call: a call that does not fit is one sentence that names the argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rung.errors import unknown
from rung.settings.ranges import plain, refuse, shown

P = ParamSpec("P")
R = TypeVar("R")


def takes(name: str, **kinds: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Look at the arguments of the function, which people know as `name`. kinds: what some of its arguments must be.

    Raises:
        TypeError: an argument stands where none belongs, is missing, or has a name that there is not.
        InputError: an argument is of another kind.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **named: P.kwargs) -> R:
            bound = _bound(name, signature, args, named)
            for argument in bound.arguments.keys() & kinds.keys():
                bound.arguments[argument] = plain(bound.arguments[argument])
                refuse(bound.arguments[argument], kinds[argument], argument)
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _bound(name: str, signature: inspect.Signature, args: Any, named: Any) -> inspect.BoundArguments:
    all_of_them = {p.name: p.kind for p in signature.parameters.values() if p.name not in ("self", "cls")}
    placed = [n for n, kind in all_of_them.items() if kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    own = len([n for n in signature.parameters if n in ("self", "cls")])
    if len(args) > len(placed) + own:
        only = f"takes {' and '.join(placed)} by place" if placed else "takes nothing by place"
        rest = [n for n, kind in all_of_them.items() if kind == inspect.Parameter.KEYWORD_ONLY]
        more = f" Give it by its name: {', '.join(rest[:4])}{', ...' if rest[4:] else ''}." if rest else ""
        raise TypeError(f"{name} {only}, and {shown(args[len(placed) + own])} is one more.{more}")
    anything = inspect.Parameter.VAR_KEYWORD in all_of_them.values()
    for given in named if not anything else ():
        if given not in all_of_them:
            raise TypeError(str(unknown(f"argument of {name}:", given, all_of_them)))
    try:
        return signature.bind(*args, **named)
    except TypeError as error:
        raise TypeError(f"{name}: {error}. It takes {', '.join(all_of_them)}.") from error
