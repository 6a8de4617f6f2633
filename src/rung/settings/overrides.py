"""Changes to a recipe's fields, as flags say them (kl.coef) and as tables do (kl = {coef = ...}); nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.errors import InputError, setting
from rung.settings.ranges import shown


def flatten(changes: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Nested tables as paths: {"kl": {"part": "K3", "coef": 0.01}} as {"kl": "K3", "kl.coef": 0.01}; none twice."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        path = f"{inside}.{key}".strip(".").replace("-", "_").removesuffix(".part")
        own = inside if key == "part" else path
        for name, x in (flatten(value, path) if isinstance(value, Mapping) else {own: value}).items():
            if name in flat:
                raise InputError(
                    f"{setting('recipe.' + name)} is given twice, as {shown(flat[name])} and as {shown(x)}. Give it once."
                )
            flat[name] = x
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Paths as nested tables: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in sorted(flat.items(), key=lambda item: item[0].count(".")):
        *above, last = path.split(".")
        node = tree
        for step in above:
            if not isinstance(node.setdefault(step, {}), dict):
                node[step] = {"part": node[step]}
            node = node[step]
        node[last] = value
    return tree
