"""What an export is: settings, a module, and what is to be said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung import __version__
from rung.errors import InputError
from rung.export.targets import TARGETS, TITLES
from rung.recipe_io import is_stored, to_dict
from rung.recipes import Recipe
from rung.settings.overrides import nested


@dataclass(frozen=True)
class Export:
    """A recipe for a target.

    trainer: the class or setting of the target that the settings are for.
    settings: of the target, by their full names, every one that the recipe's mathematics depends on.
    module: the source of a module that calls rung's parts; "": the target's own code computes the recipe.
    head: of the file of settings, where the target's needs one; None: the module holds the settings.
    notes: what else the user has to know: where the two differ in what is no mathematics, and guards against overflow.
    """

    recipe: Recipe
    target: str
    trainer: str
    settings: Mapping[str, Any]
    module: str = ""
    notes: tuple[str, ...] = ()
    head: str | None = ""

    @property
    def name(self) -> str:
        """Of the files, and of what is registered in the target."""
        return f"rung_{self.recipe.name}"

    @property
    def files(self) -> dict[str, str]:
        """What is written: {name: text}."""
        settings = {} if self.head is None else {f"{self.name}.yaml": self.head + yaml(self.settings)}
        return settings | ({f"{self.name}.py": self.module} if self.module else {})

    @property
    def computed_by(self) -> str:
        return "rung's parts, called from the module" if self.module else f"{TITLES[self.target]}'s own code"


def yaml(settings: Mapping[str, Any]) -> str:
    """Nested mappings of plain values as YAML, which reads the values as JSON has them."""
    return "".join(_lines(nested(settings), ""))


def _lines(values: Mapping[str, Any], indent: str) -> list[str]:
    out: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            out += [f"{indent}{name}:\n", *_lines(value, indent + "  ")]
        else:
            out.append(f"{indent}{name}: {_scalar(value)}\n")
    return out


def _scalar(value: Any) -> str:
    """YAML takes 1e-05 for text and 1.0e-05 for a number."""
    text = json.dumps(value)
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "e" in text and "." not in text else text


def header(recipe: Recipe, target: str, what: str) -> str:
    """The docstring of a generated module."""
    said = f"{recipe.name} ({recipe.paper})" if recipe.paper else recipe.name
    return (
        f'"""{said} in {TITLES[target]} {TARGETS[target]}: {what}\n\n'
        f"Written by `rung export {recipe.name} --to {target}`, rung {__version__}. It calls the parts of the rung\n"
        f'installed beside {TITLES[target]}: there is one implementation of them, a certified one.\n"""\n'
    )


def literal(recipe: Recipe) -> str:
    """The recipe as the text of a Python expression."""
    if not is_stored(recipe):
        raise InputError(f"recipe {recipe.name!r} has a part that only this process knows. Use parts of rung.parts.")
    inside = "".join(f"        {name!r}: {value!r},\n" for name, value in to_dict(recipe).items())
    return "from_dict(\n    {\n" + inside + "    }\n)"


def times(recipe: Recipe) -> str:
    """How a batch compares with a mini-batch: "as large as" or "4 times"."""
    parts = recipe.update.cost().minibatches
    return "as large as" if parts == 1 else f"{parts} times"
