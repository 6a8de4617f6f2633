"""The program's side: runs it, then does what its judge asks. Whatever happens here can only be a value or a failure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from types import ModuleType
from typing import Any

from .wire import Broken, Line, decode, encode

SAID = 300  # characters of an exception's text


def serve(source: str, line: Line) -> None:
    """Answers one request after the other until the line closes. Requests: [what, number of the object, args, named]."""
    objects: list[Any] = []

    def keep(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    module = ModuleType("__answer__")
    names = vars(module)
    sys.modules[module.__name__] = module  # dataclasses and pickles look for it
    try:
        exec(compile(source, "<answer>", "exec", dont_inherit=True), names)
        line.send({"value": None})
    except BaseException as error:  # noqa: BLE001 - a program may raise anything, SystemExit too
        line.send(_raised(error))
        return
    while True:
        try:
            what, number, raw, raw_named = line.receive()
        except Broken:
            return
        try:
            args = [decode(item, objects.__getitem__) for item in raw]
            named = {key: decode(item, objects.__getitem__) for key, item in raw_named.items()}
            value = encode(_do(what, names if number is None else objects[number], args, named), keep)
            after = [encode(item, keep) for item in args] if what == "change" else []
            reply = {"value": value, "args": after}
        except BaseException as error:  # noqa: BLE001 - a program may raise anything, SystemExit too
            reply = _raised(error)
        line.send(reply)


def _do(what: str, target: Any, args: list[Any], named: dict[str, Any]) -> Any:
    if what in ("call", "change"):
        return target(*args, **named)
    if what == "take":
        return _taken(target, args[0])
    if what == "name":
        return (True, target[args[0]]) if args[0] in target else (False, None)
    if what == "get":
        return getattr(target, args[0])
    if what == "item":
        return target[args[0]]
    if what == "isinstance":
        return isinstance(args[0], target)
    whole: dict[str, Callable[[Any], Any]] = {"len": len, "iter": iter, "str": str, "repr": repr}
    return whole[what](target)


def _taken(iterator: Any, most: int) -> tuple[list[Any], str]:
    """Up to `most` items, and "more" or "end". An error between the items stands in place of them."""
    items = list(islice(iterator, most))
    return items, "more" if len(items) == most else "end"


def _raised(error: BaseException) -> dict[str, Any]:
    """The names of the exception's classes, the nearest first, and its text."""
    try:
        text = str(error)[:SAID]
    except BaseException:  # noqa: BLE001 - its own __str__ may raise anything
        text = ""
    return {"raised": [[kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"], text]}
