"""docs/export.md: its blocks are run, and its tables are what the code says.   python tests/export/page.py  writes it anew."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from rung.cli import main
from rung.export.command import export
from rung.export.targets import ROWS, TARGETS, TITLES, refusals
from rung.parts import Value
from rung.recipe_io import all_recipes

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
COLUMNS = "118"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def said(words: list[str]) -> str:
    """What a command prints on a terminal of that width."""
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": COLUMNS}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        main(words)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def run(body: str) -> str:
    """The commands of a block with what they print; of a long one the lines around "..." that the page has."""
    shown = []
    for part in re.split(r"^(?=\$ )", body, flags=re.MULTILINE):
        if part:
            line, _, before = part.partition("\n")
            shown.append(f"{line}\n{_cut(said(shlex.split(line.removeprefix('$ rung '))), before.strip())}")
    return "\n".join(shown) + "\n"


def _cut(text: str, before: str) -> str:
    """The page may leave out a middle: what it has before ..., and from the line behind it on to the end."""
    head, dots, tail = f"\n{before}\n".partition("\n...\n")
    lines, first = text.splitlines(), len(head.strip("\n").splitlines())
    if not dots or not tail or tail.splitlines()[0] not in lines:
        return text
    return "\n".join([*lines[:first], "...", *lines[lines.index(tail.splitlines()[0]) :]])


def executed(text: str) -> str:
    """The page with every block of a shell run again, in the working directory, and its tables made again."""

    def again(match: re.Match[str]) -> str:
        language, body = match[1], match[2]
        if language == "yaml" and (name := re.match(r"# (\S+)\n", body)):
            Path(name[1]).write_text(body, encoding="utf-8")
        return f"```console\n{run(body)}```" if language == "console" else match[0]

    text = re.sub(r"^```(\w+)\n(.*?)^```$", again, text, flags=re.MULTILINE | re.DOTALL)
    for name, table in TABLES.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, t=table: m[1] + t() + m[2], text, flags=re.DOTALL
        )
    return text


def ladder() -> str:
    """Each recipe: settings alone, a module, or the fields that keep it out."""
    rows = [
        f"| recipe | {' | '.join(f'{TITLES[t]} {TARGETS[t]}' for t in TARGETS)} |",
        "|---" * (1 + len(TARGETS)) + "|",
    ]
    for name, recipe in all_recipes().items():
        cells = []
        for target in TARGETS:
            why = refusals(recipe, target)
            cells.append(f"no: {', '.join(why)}" if why else "module" if export(recipe, target).module else "settings")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def parts() -> str:
    """Each part that some target refuses whatever its values, and why; what stands inside Value goes with it."""
    rows = ["| part | refused by | because |", "|---|---|---|"]
    for part, row in ROWS.items():
        if part is not Value and row.refused == ROWS[Value].refused:
            continue
        by_reason: dict[str, list[str]] = {}
        for target, why in row.refused.items():
            name = TITLES[target]
            same = why.replace(f"{name}'s", "its").replace(name, "it") if len(row.refused) > 1 else why
            by_reason.setdefault(same, []).append(name)
        rows += [f"| `{part.__name__}` | {', '.join(names)} | {why} |" for why, names in by_reason.items()]
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {"ladder": ladder, "parts": parts}


if __name__ == "__main__":
    written = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        PAGE.write_text(executed(written), encoding="utf-8")
