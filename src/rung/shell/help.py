"""`rung COMMAND --help`: its flags in groups, what each takes, and what it is where it is left out. Nothing here needs torch.

A flag's text stands under its field; "; None: WORDS" at its end says what None becomes.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.text import Text

from rung.io.terminal import make_rich
from rung.settings.cluster import Cluster
from rung.settings.ranges import hints, is_hidden, is_positional, options_of
from rung.settings.shared import Problems, Weights
from rung.shell.arguments import OPTIONS
from rung.training.config import GROUPS, TrainConfig

WIDEST = 110  # longer lines are hard to read
COLUMN = 32  # of the flags; the texts stand beside it where there is room
NAMES = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Flag:
    """One line of the help. takes: what follows it, "" for a switch.  usual: what it is where it is left out."""

    name: str
    takes: str
    text: str
    usual: str = ""
    positional: bool = False
    choices: tuple[str, ...] = ()


def flags_of(spec: Any, becomes: Mapping[str, str] | None = None) -> dict[str, Flag]:
    """{field: flag} of a command's dataclass. becomes: what the None of a field turns into, where that is computed."""
    texts = _texts(spec)
    return {
        f.name: flag
        for f in sorted(
            fields(spec), key=lambda f: f.name not in spec.__annotations__
        )  # its own first, then shared ones
        if (flag := _flag(f, hints(spec)[f.name], texts.get(f.name, ""), (becomes or {}).get(f.name)))
    }


def show(command: str, spec: Any) -> None:
    """Print the help of a command by the dataclass of its flags."""
    flags = flags_of(spec)
    words = " ".join(flag.name for flag in flags.values() if flag.positional)
    _print(
        f"rung {command} {words} [FLAGS]".replace("  ", " "), spec.__doc__, flags, shared(spec), more_of(spec, command)
    )


def shared(spec: Any) -> dict[str, str]:
    """{first field: title} of the settings that the command shares with `rung train`."""
    groups = {}
    for kind, first in ((Problems, "task"), (Weights, "dtype")):
        if issubclass(spec, kind):
            names = [f.name for f in fields(kind) if f.name not in spec.__annotations__]
            groups[names[0]] = GROUPS[first]
    return groups


def more_of(spec: Any, command: str) -> list[Flag]:
    """The flags of a command that are no fields of its dataclass."""
    if spec is not TrainConfig:
        return [MORE[name] for name in ("overrides", *OPTIONS) if name in {field.name for field in fields(spec)}]
    own = ["dry_run"] if command == "train" else ["answer_tokens", "gpu", "gpus", "json"]
    spread = [replace(flag, name=flag.name.replace("--", "--cluster.", 1)) for flag in flags_of(Cluster).values()]
    return [*(MORE[name] for name in ("overrides", *OPTIONS)), *spread, *(MORE[name] for name in ("config", *own))]


def show_training(command: str) -> None:
    """Print the help of `rung train` or `rung plan`."""
    about = {
        "train": "Train a language model with a recipe of the ladder; `rung recipes` lists them.",
        "plan": "Memory and time of a run, estimated before anything is loaded. Takes the flags of `rung train`.",
    }
    flags = flags_of(TrainConfig, becomes())
    _print(f"rung {command} [RECIPE] [FLAGS]", about[command], flags, GROUPS, more_of(TrainConfig, command))


def becomes() -> dict[str, str]:
    """What a None of TrainConfig turns into, for the starter and for other models."""
    small, other = TrainConfig().resolved(), TrainConfig(model="other").resolved()
    open_fields = [f.name for f in fields(TrainConfig) if f.default is None and getattr(small, f.name) is not None]
    return {
        n: f"{_said(getattr(small, n))} for the starter, {_said(getattr(other, n))} for others" for n in open_fields
    }


def _print(usage: str, about: str, flags: Mapping[str, Flag], groups: Mapping[str, str], more: Sequence[Flag]) -> None:
    """groups: {first field: title}, in the order in which they are shown; more: flags that are no fields, at the end."""
    console = make_rich(sys.stdout)
    width = min(console.width, WIDEST)
    for line in (f"usage: {usage}", "", *inspect.cleandoc(about).splitlines(), ""):
        console.print(Text(textwrap.fill(line, width)), soft_wrap=True)
    titled: dict[str, list[Flag]] = {}
    title = "flags"
    for name, flag in flags.items():
        title = groups.get(name, title)
        titled.setdefault("arguments" if flag.positional else title, []).append(flag)
    titled.setdefault("also" if groups else "flags", []).extend([*more, HELP])
    order = list(groups.values())
    sections = sorted(
        titled.items(), key=lambda part: (part[0] == "also", order.index(part[0]) if part[0] in order else -1)
    )
    for index, (title, group) in enumerate(sections):
        console.print(Text(("\n" if index else "") + title, "bold"))
        for flag in group:
            for text in _lines(flag, width):
                console.print(text, soft_wrap=True)


HELP = Flag("-h, --help", "", "this text")
MORE = {
    "overrides": Flag(
        "--recipe.FIELD", "VALUE", "change a part of the recipe: --recipe.surrogate.high 0.28 (`rung explain`)"
    ),
    "task_options": Flag("--task-options.NAME", "VALUE", "an option of the task itself, such as --task-options.seed 3"),
    "template_options": Flag("--template-options.NAME", "VALUE", "an argument of the model's chat template"),
    "config": Flag("--config", "FILE.toml", "settings from a file, such as a run's config.toml; flags come first"),
    "dry_run": Flag("--dry-run", "", "check and load everything, print the settings, write nothing"),
    "answer_tokens": Flag("--answer-tokens", "NUMBER", "expected mean length of an answer, for the time"),
    "gpu": Flag(
        "--gpu",
        "a100|b200|h100|h200",
        "plan a cluster of these instead of this machine (docs/scale.md)",
        choices=("a100", "b200", "h100", "h200"),
    ),
    "gpus": Flag("--gpus", "INT", "how many of them; the best split into learners and samplers is sought", "8"),
    "json": Flag("--json", "FILE", "write the table as JSON to this new file, or - for standard output"),
}


def _flag(f: Field[Any], hint: Any, text: str, becomes: str | None) -> Flag | None:
    positional = is_positional(hint)
    if is_hidden(hint) or any(typing.get_origin(option) is dict for option in options_of(hint)):
        return None
    text, _, none = text.partition("; None: ") if "; None: " in text else (text, "", "")
    takes, choices = _takes(hint)
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    name = f.name.upper() if positional else "--" + f.name.replace("_", "-")
    if isinstance(default, bool):
        return Flag(name.replace("--", "--no-", 1), "", f"do not {text}") if default else Flag(name, "", text)
    if bool in options_of(hint):  # three states
        return Flag(f"{name}, {name.replace('--', '--no-', 1)}", "", text, none)
    usual = "" if default in (MISSING, (), None) else _said(default)
    if default is None:
        usual = ": ".join(filter(None, (none, becomes)))
    if default is MISSING and not positional:
        text += "; must be given"
    if positional:
        name = f"[{name} ...]" if default == () else f"{name} ..." if takes.endswith(" ...") else name
        takes = "|".join(choices)
    return Flag(name, takes, text, usual, positional, choices)


def _takes(hint: Any) -> tuple[str, tuple[str, ...]]:
    """What a flag takes, for people, and its choices if it has some: INT, PATH, binary|real|dense."""
    names: list[str] = []
    for option in options_of(hint):
        kind = typing.get_args(option)[0] if typing.get_origin(option) is Annotated else option
        if typing.get_origin(kind) is Literal:
            return "|".join(map(str, typing.get_args(kind))), tuple(map(str, typing.get_args(kind)))
        if typing.get_origin(kind) is tuple:
            return f"{_takes(typing.get_args(kind)[0])[0]} ...", ()
        if kind is not type(None):
            names.append(NAMES.get(kind, str(getattr(kind, "__name__", kind)).upper()))
    return "|".join(names), ()


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _texts(spec: Any) -> dict[str, str]:
    """{field: the text under it} in the source of the class and of those that it shares settings with."""
    above = [cls for cls in reversed(spec.__mro__[1:]) if is_dataclass(cls)]
    return {name: text for cls in (*above, spec) for name, text in _own_texts(cls).items()}


def _own_texts(spec: Any) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(spec))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
        ):
            text = ast.literal_eval(below.value)
            found[statement.target.id] = " ".join(text.split())
    return found


def _lines(flag: Flag, width: int) -> Iterator[Text]:
    """The flag and its text: beside each other, or below each other where the flag is long or the terminal narrow."""
    usual = f"(default: {flag.usual})" if flag.usual else ""
    head = Text.assemble("  ", (flag.name, "bold cyan"), f" {flag.takes}" if flag.takes else "")
    beside = width >= 2 * COLUMN + 4
    indent = COLUMN if beside else 6
    wrapped = textwrap.wrap(f"{flag.text} {usual}".strip(), width - indent, break_on_hyphens=False) or [""]
    rest = [Text(" " * indent + line) for line in wrapped]
    if beside and head.cell_len < COLUMN - 1:
        head.append(" " * (COLUMN - head.cell_len)).append(wrapped[0])
        rest = rest[1:]
    if head.cell_len > width:
        head = Text.assemble("  ", (flag.name, "bold cyan"), f"\n      {flag.takes}")
    yield head
    yield from rest
