"""The health of runs: what went wrong, in which steps, with its likely cause and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.io.report.markup import Child, Markup, table, tag
from rung.io.report.sections import section

HEAD = ("symptom", "steps", "what was seen first", "likely cause", "what to do")


def health(runs: Sequence[dict[str, Any]]) -> Markup:
    """A table of each run's symptoms; a sentence where it has none."""
    out: list[Child] = []
    for run in runs:
        if len(runs) > 1:
            out.append(tag("h3", run["name"]))
        found = run["health"]
        rows = [(tag("code", f["name"]), f["when"], f["seen"], f["cause"], f["remedy"]) for f in found]
        out.append(table(HEAD, rows) if found else tag("p", "None of the known symptoms was seen."))
    return section("health", "Health", *out)
