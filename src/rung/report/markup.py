"""HTML by construction: every text is escaped, unless it was made here."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from typing import Any

from rung.io.files import plain


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | float | None | Iterable[Any]
VOID = {"meta", "br", "line", "rect", "path", "circle", "polyline", "polygon", "input", "col"}


def tag(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """<name attributes>children</name>. `class_` is class, `aria_label` is aria-label; None and False are left out."""
    pairs = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None and v is not False)
    inside = "".join(f" {k}" if v is True else f' {k}="{html.escape(str(v), quote=True)}"' for k, v in pairs)
    if name in VOID and not children:
        return Markup(f"<{name}{inside}/>")
    return Markup(f"<{name}{inside}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Children after each other: markup as it is, everything else escaped."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str | int | float):
        return Markup(html.escape(str(children), quote=True))
    return Markup("".join(join(child) for child in children))


def script_json(value: Any) -> Markup:
    """JSON that may stand inside a <script> element: nothing in it can end the element or begin a comment.

    ASCII only (so U+2028 and U+2029 are escapes), and <, > and & are escapes as well.
    """
    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], class_: str | None = None) -> Markup:
    """A table in a box of its own, which scrolls where the page is narrow. Columns of numbers are set to the right."""
    cells = [list(row) for row in rows]
    right = {i for i in range(len(cells[0]) if cells else 0) if all(_is_number(row[i]) for row in cells)}
    body = [tag("tr", [tag("td", c, class_="num" if i in right else None) for i, c in enumerate(row)]) for row in cells]
    top = tag(
        "thead",
        tag("tr", [tag("th", c, scope="col", class_="num" if i in right else None) for i, c in enumerate(head)]),
    )
    return tag("div", tag("table", top, tag("tbody", body), class_=class_), class_="scroll", tabindex="0")


def _is_number(cell: Child) -> bool:
    text = str(cell).strip().lstrip("+-−").rstrip("% ").replace(",", "")
    plain_text = isinstance(cell, str) and not isinstance(cell, Markup)
    return isinstance(cell, int | float) or (plain_text and (text in ("", "–") or text.replace(".", "", 1).isdigit()))


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: 0.7578 is 0.758, 31.24 is 31.2, 1347.0 is 1,347, 0.0004 and 6.9e-14 stay."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == int(value) or size >= 1000:
        return f"{value:,.0f}"
    if size < 10 ** -(digits + 1):
        return scientific(value, 1)
    if size < 0.01:
        return f"{value:.{digits}g}"
    return f"{value:.{max(0, digits - len(str(int(size))) + (size < 1))}f}"


def scientific(value: float, digits: int) -> str:
    """4e-5, 6.9e-14: without zeros that say nothing."""
    mantissa, _, power = f"{value:.{digits}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"


def section(key: str, heading: str, *children: Child) -> Markup:
    return tag("section", tag("h2", heading, id=f"{key}-h"), *children, id=key, aria_labelledby=f"{key}-h")


def name_tag(name: str, i: int, runs: int) -> Child:
    """A run's name with its colour, where there are several."""
    return tag("h3", tag("i", class_=f"swatch c{i % 8}"), name) if runs > 1 else None
