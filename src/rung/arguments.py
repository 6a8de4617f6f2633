"""Pieces of argument handling: what `rung` takes out of a command line before the parser of its flags sees it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import tyro

from rung.errors import InputError
from rung.ranges import shown, unchecked


def take(argv: list[str], name: str) -> tuple[list[str], str | None]:
    """Remove `--name VALUE` or `--name=VALUE` from the arguments."""
    for i, word in enumerate(argv):
        if word.startswith(name + "="):
            return argv[:i] + argv[i + 1 :], word.split("=", 1)[1]
        if word == name:
            if i + 1 == len(argv):
                raise InputError(f"{name} needs a value.")
            return argv[:i] + argv[i + 2 :], argv[i + 1]
    return argv, None


def flag(argv: list[str], name: str) -> tuple[list[str], bool]:
    """Remove the flag `name`, and say whether it was there."""
    return [w for w in argv if w != name], name in argv


def prefixed(argv: list[str], prefix: str) -> tuple[list[str], dict[str, str]]:
    """Take --PREFIX.NAME VALUE out of the arguments: {"surrogate.high": "0.28"}."""
    rest, found, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith(prefix + "."):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix(prefix + ".").partition("=")
        found[key] = value if equals else next(words, "")
        if not found[key]:
            raise InputError(f"{word} needs a value.")
    return rest, found


def parsed(spec: Any, **how: Any) -> Any:
    """The flags as a record, which is checked in our words once the parser has made it."""
    with unchecked():
        args = tyro.cli(spec, **how)
    return dataclasses.replace(args)


def refuse_repeated(argv: Sequence[str]) -> None:
    """A flag that is given twice is a slip, whichever of the two was meant; so is one with an empty value."""
    values: dict[str, str | None] = {}
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name != "--":
            flag = name.replace("_", "-").replace("--no-", "--", 1)
            said = word if name.startswith("--no-") else value if equals else following
            if said == "":
                raise InputError(f"{flag} is given an empty value. Leave it out, or say which.")
            if flag in values:
                raise InputError(f"{flag} is given twice, as {shown(values[flag])} and as {shown(said)}. Give it once.")
            values[flag] = said


def literal(text: str) -> Any:
    """A number, true, false or a list as JSON reads it; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
