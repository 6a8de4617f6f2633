"""`rung import`: another trainer's configuration as a recipe, what it really computes, and as TOML for `rung train --config`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console
from rich.text import Text

from rung.errors import InputError
from rung.export.from_trl import from_trl
from rung.export.from_verl import from_verl
from rung.export.imported import Imported
from rung.export.targets import TARGETS, TITLES
from rung.io.recipe_views import explain
from rung.io.tables import refuse_existing, refuse_target, show, write_new
from rung.io.terminal import make_rich
from rung.recipe_io import brief, diff
from rung.settings.elsewhere import Import

WAYS: Mapping[str, Callable[[Path, str | None], Imported]] = {"trl": from_trl, "verl": from_verl}


def run_import(args: Import) -> int:
    """Print what the configuration computes; with --out, write it."""
    if args.trainer is not None and args.source != "trl":
        raise InputError(f"--trainer {args.trainer}: only TRL has two trainers. Leave it out.")
    refuse_target(args.json)
    if args.out is not None:
        refuse_existing("--out", args.out)
    found = WAYS[args.source](args.config, args.trainer)
    document = tomli_w.dumps(_plain(found.toml()))
    if args.out is not None:
        write_new("--out", args.out, document)
    if args.json is not None:
        show(str(args.config), ("setting", "value"), [(k, v) for k, v in _plain(found.toml()).items()], args.json)
        return 0
    console = make_rich(sys.stdout)
    console.print(
        Text(f"{args.config}, read as {TITLES[args.source]} {TARGETS[args.source]}'s {found.source}\n", "dim")
    )
    explain(found.recipe)
    _say(console, "where the words and the mathematics part", found.warnings)
    _say(console, "beside the mathematics", found.notes)
    base, changes = found.base(), diff(found.base(), found.recipe)
    said = ", ".join(f"{name} {brief(new, full=True)}" for name, (_, new) in changes.items())
    console.print(Text(f"\nin rung: {base.name}" + (f" with {said}" if said else ""), "bold"))
    if args.out is not None:
        console.print(Text(f"written: {args.out}, for `rung train --config {args.out}`", "dim"))
    else:
        console.print(Text("--out FILE.toml writes it for `rung train --config FILE.toml`", "dim"))
    return 0


def _say(console: Console, title: str, lines: tuple[str, ...]) -> None:
    if lines:
        console.print(Text(f"\n{title}", "bold"))
        for line in lines:
            console.print(Text(f"  - {line}"))


def _plain(value: Any) -> Any:
    """What TOML can hold."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None and v != {}}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
