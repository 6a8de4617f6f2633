"""Rows of answers as a run's files hold them (evaluations/, rollouts/): what each column is; other rows are damage.

Nothing of a row is taken on trust: a file may have been edited, or come from somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

NEEDED = ("task", "prompt", "answer", "reward", "rewards")
FAR = 2**63  # whole numbers beyond it are none of ours

Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """A number that a float holds, or null where it was NaN."""
    if value is None or isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < FAR


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < FAR


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(m, dict) and _is_text(m.get("role")) and _is_text(m.get("content")) for m in value)
    return isinstance(value, str)


def _are(each: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(each, value))


COLUMNS: dict[str, Check] = {
    "task": _is_text,
    "prompt": _is_prompt,
    "answer": _is_text,
    "reward": is_number,
    "rewards": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "stop": _is_text,
    "version": _is_count,
    "group": _is_count,
    "tokens": _are(_is_count),
    "logp": _are(is_number),
    "advantages": _are(is_number),
    "actions": _are(_is_count),
    "ratios": _are(is_number),
    "clipped": _are(_is_count),
    "ref_logp": _are(is_number),
    "values": _are(is_number),
}
OF_TOKENS = (
    "logp",
    "advantages",
    "actions",
    "ratios",
    "clipped",
    "ref_logp",
    "values",
)  # as many as the row has tokens


def looked_at(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """The rows. ValueError: one of them is no answer, or a column of it is of another kind."""
    out = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {*NEEDED} <= row.keys():
            raise ValueError(f"row {number} has not all of {', '.join(NEEDED)}")
        for name, value in row.items():
            if name in COLUMNS and not COLUMNS[name](value):
                raise ValueError(f"row {number} has {name} of another kind")
        if any(len(row[name]) != len(row.get("tokens", ())) for name in OF_TOKENS if name in row):
            raise ValueError(f"row {number} has not one number a token")
        if ("ratios" in row) != ("clipped" in row):
            raise ValueError(f"row {number} has one of ratios and clipped without the other")
        out.append(row)
    return out
