"""The health of runs: what went wrong, in which steps, with its likely cause and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.report.markup import Child, Markup, name_tag, section, table, tag

HEAD = ("symptom", "steps", "what was seen first", "likely cause", "what to do")


def health(runs: Sequence[dict[str, Any]], symptoms: Sequence[dict[str, str]]) -> Markup:
    """A verdict on each run, a table of what it showed, and, folded, what was looked for and not seen."""
    out: list[Child] = []
    for i, run in enumerate(runs):
        found = run["health"]
        seen = {f["name"] for f in found}
        verdict = (
            f"{len(seen)} of {len(symptoms)} known symptoms were seen."
            if found
            else "None of the known symptoms was seen."
        )
        rows = [(tag("code", f["name"]), f["when"], f["seen"], f["cause"], f["remedy"]) for f in found]
        rest = [(tag("code", s["name"]), s["sign"]) for s in symptoms if s["name"] not in seen]
        what = f"The {len(rest)} that were looked for and not seen"
        note = (
            "One that needs what this run has not (a critic, a reference, evaluations on the way) cannot be seen in it."
        )
        out += [
            name_tag(run["name"], i, len(runs)),
            tag("p", tag("b", verdict), class_="warn" if found else None),
            table(HEAD, rows) if found else None,
            tag("details", tag("summary", what), tag("p", note, class_="hint"), table(("symptom", "sign"), rest)),
        ]
    return section("health", "Health", *out)
