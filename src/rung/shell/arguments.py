"""From words to settings: what `rung` takes out of a command line before words.py reads its flags.

Nothing here needs torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.errors import InputError
from rung.settings import documents
from rung.settings.overrides import flatten
from rung.settings.paths import path_of
from rung.settings.ranges import shown
from rung.settings.recipe_names import refuse_strange
from rung.shell.words import parse
from rung.training.config import TrainConfig, from_toml, which

EVERY = "all"  # recipes, of `rung why`
OPTIONS = ("task_options", "template_options")  # settings with names of their own: --task-options.NAME VALUE


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


def refuse_repeated(argv: Sequence[str]) -> None:
    """A flag that is given twice is a slip, whichever of the two was meant; so is one with an empty value."""
    values: dict[str, str | None] = {}
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        name, equals, value = word.partition("=")
        if name == "--":
            return
        if name.startswith("--"):
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
        return documents.from_json(text)
    except documents.Twice as error:
        raise InputError(f"{text[:80]!r}: {error}.") from error
    except (ValueError, RecursionError):
        return text


# -- a command's flags ----------------------------------------------------------------------------------------------
def record(spec: Any, command: str, argv: list[str]) -> Any:
    """The flags of `rung COMMAND`, as its dataclass."""
    options: dict[str, Any] = {}
    own = {f.name for f in dataclasses.fields(spec)}
    if "overrides" in own:
        argv, changes = prefixed(argv, "--recipe")
        options["overrides"] = flatten(changes)
    for name in OPTIONS:
        if name in own:
            argv, options[name] = dotted(argv, name)
    args = dataclasses.replace(parse(spec, command, argv), **options)
    refuse_strange(_recipes(args))
    return args


def _recipes(args: Any) -> list[str]:
    """What must be names of recipes, or paths of runs, among a command's flags."""
    given = [getattr(args, name, None) for name in ("recipe", "recipes", "a", "b")]
    listed = [x.split(",") if isinstance(x, str) else x for x in given if x is not None]
    return [word.strip() for words in listed for word in words if word.strip() not in ("", EVERY)]


def settings(argv: list[str], command: str) -> TrainConfig:
    """The TrainConfig that the flags of `rung train` describe."""
    argv, overrides = prefixed(argv, "--recipe")
    given = {}
    for name in OPTIONS:
        argv, given[name] = dotted(argv, name)
    argv, spread = prefixed(argv, "--cluster")
    given["cluster_options"] = {key.replace("-", "_"): literal(value) for key, value in spread.items()}
    argv, run = named(argv)
    defaults: dict[str, Any] = {}
    if run is not None:
        from rung.training.resume import agreed, begun  # reads recipes, which need torch

        defaults = vars(begun(run)[0])
    argv, config_file = take(argv, "--config")
    defaults = defaults | ({} if config_file is None else from_toml(path_of(config_file)))
    if argv and not argv[0].startswith("-"):
        if any(word.partition("=")[0] == "--recipe" for word in argv):
            raise InputError(f"the recipe is given twice, as {argv[0]!r} and with --recipe. Give it once.")
        defaults["recipe"], argv = argv[0], argv[1:]
    defaults["overrides"] = {**flatten(defaults.get("overrides", {})), **flatten(overrides)}
    for name, options in given.items():
        defaults[name] = {**defaults.get(name, {}), **options}
    config = parse(TrainConfig, command, argv, TrainConfig(**defaults))
    config.spread()  # refused before torch is loaded
    if run is None:
        refuse_strange([config.recipe])
    return config if run is None else agreed(config)[0]


def dotted(argv: list[str], name: str) -> tuple[list[str], dict[str, Any]]:
    """Take --task-options.NAME VALUE out of the arguments, with the values as JSON reads them."""
    argv, found = prefixed(argv, "--" + name.replace("_", "-"))
    return argv, {k: literal(v) for k, v in found.items()}


def named(argv: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--resume RUN`, or `--resume --out RUN`, and the run; None: no run is resumed."""
    rest, out, resume = [], None, None
    words = list(argv)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag == "--resume":
            follows = not equals and words and not words[0].startswith("-")
            resume = value if equals else words.pop(0) if follows else True
        elif flag == "--out" and (equals or words):
            out = value if equals else words.pop(0)
        else:
            rest.append(flag + equals + value)
    return (list(argv), None) if resume is None else (rest, which(resume, out))
