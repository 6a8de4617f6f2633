"""What every metric means: the table of metrics.md beside this file, which docs/metrics.md repeats word for word."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SYMBOLS = {
    "lvert": "|", "rvert": "|", "Vert": "‖", "pi": "π", "mu": "μ", "rho": "ρ", "ell": "ℓ",
    "beta": "β", "sum": "Σ", "lt": "<", "gt": ">", "log": "log ",
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """One row: `formula`, `healthy` and `catches` are Markdown with code spans and a little TeX."""

    name: str
    formula: str
    unit: str
    healthy: str
    catches: str


@cache
def definitions() -> dict[str, Metric]:
    """Every metric by its name, in the order of the table."""
    lines = files("rung.io").joinpath("metrics.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): Metric(row[0].strip("`"), *row[1:]) for row in rows}


def definition(name: str) -> Metric | None:
    """That of a name as it was logged: rewards/correct/mean is defined as rewards/NAME/mean."""
    general = re.sub(r"^rewards/[^/]+/(mean|std)$", r"rewards/NAME/\1", name)
    return definitions().get(re.sub(r"^health/.+$", "health/NAME", general))


def as_html(text: str) -> str:
    """The Markdown of a cell as HTML: code spans, and formulas in letters, with raised and lowered exponents."""
    pieces = re.split(r"(`[^`]*`|\$[^$]*\$)", text)
    return "".join(_piece(piece) for piece in pieces)


def _piece(piece: str) -> str:
    if piece.startswith("`"):
        return f"<code>{html.escape(piece.strip('`'))}</code>"
    if not piece.startswith("$"):
        return html.escape(piece)
    text = re.sub(r"\\mathrm\{(\w+)\}", r"\1", piece.strip("$"))
    text = re.sub(r"\\([A-Za-z]+)", lambda m: SYMBOLS.get(m[1], m[1]), text)
    text = re.sub(r"\| ?(.*?) ?\|", r"|\1|", re.sub(r"\s+", " ", text))
    text = re.sub(r"\s+", " ", html.escape(text.replace("-", "−")))
    # innermost braces first: e^{Σ_t ℓ_t}
    text = re.sub(r"_(?:\{([^{}]*)\}|(\w))", lambda m: f"<sub>{m[1] or m[2]}</sub>", text)
    text = re.sub(r"\^(?:\{([^{}]*)\}|(\w))", lambda m: f"<sup>{m[1] or m[2]}</sup>", text)
    return f'<span class="tex">{text}</span>'
