"""A configuration of another trainer as it stands in its file: names and values, from YAML, JSON or a Python call."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import InputError
from rung.settings import documents
from rung.settings.ranges import shown


@dataclass(frozen=True)
class ConfigFile:
    """values: by name.  made: the class that a Python file calls, "" elsewhere.  unread: names whose values are no literals."""

    path: Path
    values: Mapping[str, Any]
    made: str = ""
    unread: Mapping[str, str] | None = None


def read_config(path: Path, classes: Sequence[str] = ()) -> ConfigFile:
    """What a file says. classes: those whose call a Python file is read for."""
    text = read_text(path, "a configuration in YAML, JSON or Python")
    if path.suffix == ".py":
        return _python(path, text, classes)
    values = _json(path, text) if path.suffix == ".json" else _yaml(path, text)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} must hold names with values, and holds {shown(values)}.")
    return ConfigFile(path, values)


def number(value: Any) -> Any:
    """1e-6, which YAML takes for text, as the number that it is; a whole one may count. Anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:  # text
        return value


def read_text(path: Path, what: str) -> str:
    """What stands in the file. what: it should be."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Give {what}.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: {error}. Give {what}.") from error


def _json(path: Path, text: str) -> Any:
    try:
        return documents.from_json(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}. Mend it, or name a YAML file .yaml.") from error


def _yaml(path: Path, text: str) -> Any:
    try:
        return documents.from_yaml(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error


def _python(path: Path, text: str, classes: Sequence[str]) -> ConfigFile:
    """The keywords of the one call of one of the classes; the file is read, not run."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise InputError(f"{path} is not valid Python: {error}") from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) in classes]
    if len(calls) != 1:
        raise InputError(
            f"{path} calls {' or '.join(classes) or 'no configuration'} {len(calls)} times, and is read for one call. Give a file "
            "with one, or its values as YAML."
        )
    (call,), known = calls, _constants(tree)
    values, unread = {}, {}
    written = [keyword.arg for keyword in call.keywords if keyword.arg]
    if twice := next((name for name in written if written.count(name) > 1), None):
        raise InputError(f"{path} is not valid Python: {_name(call.func)} is given {twice} twice. Keep one of the two.")
    for keyword in call.keywords:
        try:
            values[keyword.arg or "**"] = known.get(_name(keyword.value), ...)
            if values[keyword.arg or "**"] is ...:
                values[keyword.arg or "**"] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError):  # an expression: what it gives is known when the script runs, and here never
            unread[keyword.arg or "**"] = ast.unparse(keyword.value)
            values.pop(keyword.arg or "**", None)
    for name, argument in zip(("output_dir",), call.args, strict=False):
        if isinstance(argument, ast.Constant):
            values[name] = argument.value
    return ConfigFile(path, values, _name(call.func), unread)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names that the module gives one literal, and nothing else in it assigns."""
    assigned = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    out = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and len(node.targets) == 1:
            name = _name(node.targets[0])
            if assigned.count(name) == 1:
                out[name] = node.value.value
    return out
