"""YAML and JSON as people write them: a name that stands twice in one table is refused, for one of the two would be lost.

TOML refuses that itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any


class Twice(ValueError):
    """A name stands twice in one table."""

    def __init__(self, name: object, where: str = "") -> None:
        super().__init__(f"the name {str(name)[:80]!r} stands twice in one table{where}. Keep one of the two")


def from_json(text: str) -> Any:
    """Raises: ValueError: it is no JSON, or a name stands twice (Twice)."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice((name, "") for name, _ in pairs)
    return dict(pairs)


def from_yaml(text: str) -> Any:
    """Raises: ValueError: it is no YAML, or a name stands twice (Twice)."""
    import yaml

    try:
        return _loader()(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


@cache
def _loader() -> Any:
    """yaml.SafeLoader, which takes the second of two values: it is asked before `<<` brings names that another table has."""
    import yaml

    class Once(yaml.SafeLoader):  # type: ignore[misc]
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _refuse_twice(((key.tag, key.value), f" (line {key.start_mark.line + 1})") for key in keys)
            return node

    return Once


def _refuse_twice(names: Iterable[tuple[Any, str]]) -> None:
    seen = set()
    for name, where in names:
        if name in seen:
            raise Twice(name[1] if isinstance(name, tuple) else name, where)
        seen.add(name)
