"""Recipes by name, as JSON, with fields overridden, compared, and explained."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import rung.parts as parts
from rung.errors import InputError, Refusals, printable, setting, unknown
from rung.recipes import LADDER, Recipe
from rung.settings.overrides import flatten, nested
from rung.settings.ranges import Checked, hints, options_of, read, refuse, shown
from rung.settings.recipe_names import meant

LABELS = ("name", "parent", "paper", "why", "silent")  # what describes a recipe, not what it computes
PARTS: dict[str, Any] = {
    n: x for n in parts.__all__ if is_dataclass(x := getattr(parts, n)) and x is not parts.ReferenceKL
}


def all_recipes() -> dict[str, Recipe]:
    """The ladder, then the young variants."""
    contrib = importlib.import_module("rung.recipes_contrib")
    return {**LADDER, **contrib.CONTRIB}


def find(name: str) -> Recipe:
    """A recipe by its name, as `meant` reads it."""
    known = all_recipes()
    return known[meant(name, known)]


# -- JSON ----------------------------------------------------------------------------------------------------------
def to_dict(value: Any) -> Any:
    """A recipe or part as plain data: {"part": "Clip", "low": 0.2, "high": 0.28}. None, where usual, is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        head = {} if isinstance(value, Recipe) else {"part": type(value).__name__}
        held = {f.name: (getattr(value, f.name), f.default) for f in fields(value)}
        body = {k: "none" if x is None else to_dict(x) for k, (x, usual) in held.items() if x is not None or usual}
        return {**head, **body}
    return list(value) if isinstance(value, tuple) else value


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_dict`. Unknown parts and fields are errors with the nearest match."""
    known = {f.name for f in fields(Recipe)}
    for key in data:
        if key not in known:
            raise unknown("field of a recipe", key, known)
    wanted = hints(Recipe)
    values: dict[str, Any] = {k: _value(v, None, wanted[k], k) for k, v in data.items()}
    if isinstance(values.get("silent"), list):  # JSON and TOML have no tuples
        values["silent"] = tuple(values["silent"])
    values |= {k: printable(v, lines=True) for k, v in values.items() if isinstance(v, str)}  # a file's words are shown
    return Recipe(**values)


def strangers(data: Any, path: str = "") -> dict[str, str]:
    """{field: class} of the parts in a recipe's dictionary that this process has not: they came from Python."""
    found: dict[str, str] = {}
    if isinstance(data, Mapping):
        name = data.get("part")
        if isinstance(name, str) and name not in PARTS and _made(name, (Checked,)) is None:
            return {path: name}
        for key, value in data.items():
            found |= strangers(value, f"{path}.{key}" if path else str(key))
    return found


def is_stored(recipe: Recipe) -> bool:
    """Whether its dictionary gives it back anywhere: a part of the user's own has a name in its own process only."""
    return all(_is_ours(getattr(recipe, f.name)) for f in fields(recipe))


def _is_ours(value: Any) -> bool:
    if not is_dataclass(value) or isinstance(value, type):
        return True
    return PARTS.get(type(value).__name__) is type(value) and all(
        _is_ours(getattr(value, f.name)) for f in fields(value)
    )


# -- overrides -----------------------------------------------------------------------------------------------------
def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with fields replaced by path: {"surrogate.high": 0.28, "kl": "K3", "kl.coef": 0.01}.

    Tables say the same: {"kl": {"part": "K3", "coef": 0.01}}; without "part" the fields of the part at hand change. All
    changes are made before anything is checked, since two of them may be legal only together. Text, as it comes from the
    command line, is read as the field's type.
    """
    now = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in LABELS}
    wanted, values, refusals = hints(Recipe), dict[str, Any](), Refusals()
    for name, change in nested(flatten(changes)).items():
        with refusals:
            if name not in now:
                raise unknown(f"field {setting('recipe.' + name)}: a recipe has no", name, now)
            values[name] = _value(change, now[name], wanted[name], name)
    refusals.refuse(f"changes to the recipe {recipe.name}")
    return replace(recipe, **values)


def _value(change: Any, now: Any, hint: Any, path: str) -> Any:
    """A field's new value. change: the value, its text, or a table of changes to a part's fields; now: the old value."""
    kinds = tuple(k for k in options_of(hint) if isinstance(k, type) and issubclass(k, Checked))
    if not isinstance(change, Mapping):
        return _part(change, hint, kinds, path) if kinds else read(change, hint)
    inner = {k: v for k, v in change.items() if k != "part"}
    part: Any = _part(change["part"], hint, kinds, path) if "part" in change else now
    if not hasattr(part, "__dataclass_fields__"):
        raise InputError(
            f"{setting('recipe.' + path)}: {shown(part)} has no fields of its own. Leave out {next(iter(inner), 'part')!r}."
        )
    known = {f.name for f in fields(part)}
    for key in inner:
        if key not in known:
            raise unknown(f"field {setting(f'recipe.{path}.{key}')}: {type(part).__name__} has no", key, known)
    kind: Any = type(part)
    wanted = hints(kind)
    return replace(part, **{k: _value(v, getattr(part, k), wanted[k], f"{path}.{k}") for k, v in inner.items()})


def _part(value: Any, hint: Any, kinds: tuple[type, ...], path: str) -> Any:
    """The part that a name stands for, as it usually is; a part made in Python as it is."""
    value = read(value, hint)
    if not isinstance(value, str):
        refuse(value, hint, setting(f"recipe.{path}"))
        return value
    fitting = {name: part for name, part in PARTS.items() if issubclass(part, kinds)}
    if value not in fitting and (made := _made(value, kinds)) is not None:
        return made()
    by_plain = {name.lower(): part for name, part in fitting.items()}
    plain = value.lower().replace("_", "").replace("-", "")
    if plain not in by_plain:
        raise unknown(f"part for {setting('recipe.' + path)}", value, fitting)
    return by_plain[plain]()


def _made(name: str, kinds: tuple[Any, ...]) -> Any:
    """A part of the user's own, by the name of its class; the newest of several."""
    found: Any = None
    below: list[Any] = [cls for kind in kinds for cls in kind.__subclasses__()]
    for cls in below:
        found = (cls if cls.__name__ == name and is_dataclass(cls) else None) or _made(name, (cls,)) or found
    return found


# -- comparison and explanation ------------------------------------------------------------------------------------
def diff(a: Recipe, b: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields in which two recipes compute differently: {field: (a's, b's)}."""
    pairs = {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in fields(Recipe) if f.name not in LABELS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def brief(value: Any, full: bool = False) -> str:
    """A part on one line: Clip(high=0.28). Fields at their default are left out unless `full`; so is a usual None."""
    if is_dataclass(value) and not isinstance(value, type):
        usual = type(value)()
        chosen = [(f.name, getattr(value, f.name), getattr(usual, f.name)) for f in fields(value)]
        said = [f"{k}={brief(x, full)}" for k, x, default in chosen if x != default or (full and x is not None)]
        return f"{type(value).__name__}({', '.join(said)})"
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
