"""Docstrings are plain text with equations; here they become reST that says the same, for the pages of the API.

A first line with an equation in it, and what is indented    set in a fixed width
`name: meaning` or `name    meaning`, a line or several      a list
all else                                                     paragraphs, with nothing in them that reST would take for markup
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

ENTRY = re.compile(r"(\*{0,2}[A-Za-z_][\w.]*(?:, \w+)*):(?:\s+(\S.*))?$")
COLUMN = re.compile(r"([a-z_]\w*(?:, \w+)*) {2,}([^\s=].*)$")
EQUATION = re.compile(r"\S+(,? +\S+){0,3} +(=|<-|->|<=) ")


def rest(docstring: str) -> list[str]:
    """Lines of reST."""
    out: list[str] = []
    for n, block in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(docstring))):
        lines = block.rstrip().splitlines()
        if all(line.startswith("  ") for line in lines):
            out += _fixed(lines)
        elif n == 0 and EQUATION.match(lines[0]):
            out += [*_fixed(lines[:1]), *_text(lines[1:])]
        elif n == 0:
            out += [*_text(lines[:1], entries=False), *_text(lines[1:])]
        else:
            out += _text(lines)
    return out


def _fixed(lines: list[str]) -> list[str]:
    inside = inspect.cleandoc("\n" + "\n".join(lines)).splitlines()
    return [".. code-block:: text", "", *(f"    {line}" for line in inside), ""]


def _text(lines: list[str], entries: bool = True) -> list[str]:
    """A paragraph, up to the first entry of a list; then the list, with the lines that go on below an entry."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        entry, end = _entry(lines, at) if entries else None, at + 1
        while end < len(lines) and (lines[end].startswith(" ") if entry else _entry(lines, end) is None):
            end += 1
        below = lines[at + 1 : end]
        if entry is None:
            out += [_plain(" ".join(x.strip() for x in lines[at:end])), ""]
        elif entry[1]:
            names = ", ".join(
                f"``{name}``" for name in entry[0].split(", ")
            )  # a field list would write them with a capital
            out += ["", names, f"    {_plain(' '.join([entry[1], *(x.strip() for x in below)]))}", ""]
        else:  # Args:, Returns:, Raises: with their own entries below
            inner = inspect.cleandoc("\n" + "\n".join(below)).splitlines() if below else []
            out += ["", f"**{entry[0]}**", "", *_text(inner), ""]
        at = end
    return [*out, ""]


def _entry(lines: list[str], at: int) -> tuple[str, str] | None:
    if column := COLUMN.match(lines[at]):
        return column[1], column[2]
    found = ENTRY.match(lines[at])
    if found is None or not (found[2] or (at + 1 < len(lines) and lines[at + 1].startswith(" "))):
        return None
    return found[1], found[2] or ""


def _plain(text: str) -> str:
    """Text between `...` is code; everything else means itself."""
    parts = re.split(r"`+([^`]+)`+", text)
    escaped = [re.sub(r"([\\*_|`:<>])", r"\\\1", part) for part in parts[::2]]
    code = [f"\\ ``{part.strip()}``\\ " for part in parts[1::2]]
    return "".join(x for pair in zip(escaped, [*code, ""], strict=True) for x in pair)


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    told = not isinstance(obj, property) or obj.__doc__  # one without words would get those of its value's type
    lines[:] = rest("\n".join(lines)) if told else []


DEFAULT = re.compile(r"= <.*?>+(?=[,)])")  # <factory>, <function <lambda>>: no Python, so that a signature is not read
RANGE = re.compile(r"~?(?:typing\.)?Annotated\[(.+?),\s+~?(?:rung\.settings\.ranges\.)?Range\(.*?\)\]", re.DOTALL)


def _plain_types(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Types without the ranges that are checked when a part is made; its message says them."""
    if signature:
        signature = DEFAULT.sub("= ...", RANGE.sub(r"\1", signature))
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _plain_types)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
