"""`rung export`: a recipe's settings and module for another trainer, shown or written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.text import Text

from rung.errors import InputError
from rung.export.made import Export
from rung.export.skyrl import to_skyrl
from rung.export.targets import TARGETS, TITLES, target_of
from rung.export.trl import to_trl
from rung.export.verl import to_verl
from rung.io.tables import refuse_existing, refuse_target, show, write_new
from rung.io.terminal import make_rich
from rung.recipe_io import override
from rung.recipes import Recipe
from rung.settings.elsewhere import Export as Flags
from rung.training.resume import recipe_of

WAYS: Mapping[str, Callable[[Recipe], Export]] = {"trl": to_trl, "verl": to_verl, "skyrl": to_skyrl}


def export(recipe: Recipe, target: str) -> Export:
    """The recipe for a target. InputError with every reason why it cannot run there."""
    return WAYS[target_of(target)](recipe)


def run_export(args: Flags) -> int:
    """Show what the target is given; with --out, write it."""
    refuse_target(args.json)
    made = export(override(recipe_of(args.recipe), args.overrides), args.to)
    if args.out is not None:
        write(made.files, args.out)
    if args.json is not None:
        show(made.recipe.name, ("setting", "value"), list(made.settings.items()), args.json)
        return 0
    console = make_rich(sys.stdout)
    title = f"{made.recipe.name} in {TITLES[made.target]} {TARGETS[made.target]}: {made.trainer}, computed by {made.computed_by}"
    console.print(Text(title, "bold"))
    show("settings", ("setting", "value"), [(name, _text(value)) for name, value in made.settings.items()])
    for note in made.notes:
        console.print(Text(f"  - {note}"))
    where = args.out or Path()
    written = f"written: {', '.join(str(where / name) for name in made.files)}"
    console.print(Text(written if args.out is not None else "--out DIR writes " + " and ".join(made.files), "dim"))
    return 0


def write(files: Mapping[str, str], folder: Path) -> None:
    """New files in a folder, all or none."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--out {folder}: that is a file. Name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot write: {error.strerror}. Give another name.") from error
    for name in files:
        refuse_existing("--out", folder / name)
    for name, text in files.items():
        write_new("--out", folder / name, text)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
