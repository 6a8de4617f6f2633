"""Recipes by name, as JSON, with fields overridden, compared, and explained."""

from __future__ import annotations

import importlib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import rung.parts as parts
from rung.errors import InputError, unknown
from rung.recipes import LADDER, Recipe

LABELS = ("name", "parent", "paper", "why", "silent")  # what describes a recipe, not what it computes
PARTS = {name: part for name in parts.__all__ if is_dataclass(part := getattr(parts, name))}


def all_recipes() -> dict[str, Recipe]:
    """The ladder, then the young variants."""
    contrib = importlib.import_module("rung.recipes_contrib")
    return {**LADDER, **contrib.CONTRIB}


def find(name: str) -> Recipe:
    """A recipe by its name; case, hyphens and "++" are forgiven (reinforce++ is reinforce_pp)."""
    known = all_recipes()
    plain = name.lower().replace("++", "_pp").replace("-", "_").replace(".", "").replace(" ", "_").replace("__", "_")
    for key in (plain, plain.replace("drgrpo", "dr_grpo")):
        if key in known:
            return known[key]
    raise unknown("recipe", name, known, more=" `rung recipes` shows the tree.")


# -- JSON ----------------------------------------------------------------------------------------------------------
def to_dict(value: Any) -> Any:
    """A recipe or part as plain data: {"part": "Clip", "low": 0.2, "high": 0.28}. None fields are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        head = {} if isinstance(value, Recipe) else {"part": type(value).__name__}
        body = {f.name: to_dict(x) for f in fields(value) if (x := getattr(value, f.name)) is not None}
        return {**head, **body}
    return list(value) if isinstance(value, tuple) else value


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_dict`. Unknown parts and fields are errors with the nearest match."""
    known = {f.name for f in fields(Recipe)}
    for key in data:
        if key not in known:
            raise unknown("field of a recipe", key, known)
    values: dict[str, Any] = {k: tuple(v) if k == "silent" else _part(v) for k, v in data.items()}
    return Recipe(**values)


def _part(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    cls = _part_class(str(data.get("part")))
    known = {f.name for f in fields(cls)}
    for key in data:
        if key != "part" and key not in known:
            raise unknown(f"field of {cls.__name__}", key, known)
    return cls(**{k: _part(v) for k, v in data.items() if k != "part"})


def _part_class(name: str) -> Any:
    by_plain = {k.lower().replace("_", ""): v for k, v in PARTS.items()}
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in by_plain:
        raise unknown("part", name, PARTS)
    return by_plain[plain]


# -- overrides -----------------------------------------------------------------------------------------------------
def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with fields replaced by path: {"surrogate.high": 0.28, "kl": "K3", "kl.coef": 0.01}.

    All changes are made before the recipe is checked, so that two of them may be legal only together.
    """
    values = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in LABELS}
    hints = typing.get_type_hints(Recipe, {**vars(importlib.import_module("rung.recipes"))})
    for path, value in sorted(changes.items(), key=lambda item: item[0].count(".")):
        name, _, rest = path.replace("-", "_").partition(".")
        if name not in values:
            raise unknown(f"field --recipe.{path}: a recipe has no", name, values)
        values[name] = (
            _set(values[name], rest.split("."), value, path) if rest else _fit(value, values[name], hints[name], path)
        )
    return replace(recipe, **values)


def _set(part: Any, path: list[str], value: Any, whole: str) -> Any:
    """`part` with the field at `path` replaced."""
    if not is_dataclass(part) or isinstance(part, type):
        raise InputError(f"--recipe.{whole}: {part!r} has no fields of its own. Leave out {'.'.join(path)!r}.")
    known = {f.name for f in fields(part)}
    if path[0] not in known:
        raise unknown(f"field --recipe.{whole}: {type(part).__name__} has no", path[0], known)
    now = getattr(part, path[0])
    if len(path) > 1:
        return replace(part, **{path[0]: _set(now, path[1:], value, whole)})
    wanted = typing.get_type_hints(type(part), vars(importlib.import_module(type(part).__module__)))[path[0]]
    return replace(part, **{path[0]: _fit(value, now, wanted, whole)})


def _fit(value: Any, now: Any, wanted: Any, path: str) -> Any:
    """`value`, perhaps text from the command line, as the field's type."""
    if is_dataclass(value) and not isinstance(value, type):
        return value
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if any(is_dataclass(o) or (isinstance(o, type) and o.__module__.startswith("rung.")) for o in options):
        if isinstance(value, Mapping):
            return _part(value)
        if str(value).lower() == "none" and type(None) in options:
            return None
        part = _part_class(str(value))
        if not issubclass(part, tuple(o for o in options if isinstance(o, type))):
            raise InputError(f"--recipe.{path}: {part.__name__} is no such part; this field takes {wanted}.")
        return part()
    text = str(value)
    if type(None) in options and text.lower() == "none":
        return None
    for kind in options:
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float) and not isinstance(value, bool):
            try:
                return kind(text)
            except ValueError:
                continue
        if typing.get_origin(kind) is typing.Literal and text in typing.get_args(kind):
            return text
    raise InputError(f"--recipe.{path}: {value!r} does not fit; the value now is {now!r}, expected {wanted}.")


# -- comparison and explanation ------------------------------------------------------------------------------------
def diff(a: Recipe, b: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields in which two recipes compute differently: {field: (a's, b's)}."""
    pairs = {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in fields(Recipe) if f.name not in LABELS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def brief(value: Any, full: bool = False) -> str:
    """A part on one line: Clip(high=0.28). Fields at their default are left out unless `full`; so are None fields."""
    if is_dataclass(value) and not isinstance(value, type):
        usual = type(value)()
        chosen = [(f.name, getattr(value, f.name), getattr(usual, f.name)) for f in fields(value)]
        shown = [f"{name}={brief(x, full)}" for name, x, default in chosen if x is not None and (full or x != default)]
        return f"{type(value).__name__}({', '.join(shown)})"
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def equation(part: Any) -> str:
    """What a part computes, and its source: its own `equation` (if that depends on its fields), else its docstring's first line."""
    own = getattr(part, "equation", None)
    if isinstance(own, str):
        return own
    return (type(part).__doc__ or "").strip().splitlines()[0].rstrip()


def lineage(recipe: Recipe) -> list[Recipe]:
    """From the bottom of the ladder to this rung."""
    known, out = all_recipes(), [recipe]
    while out[0].parent is not None and out[0].parent in known:
        out.insert(0, known[out[0].parent])
    return out
