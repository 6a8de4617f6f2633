"""Names of recipes as their files write them: recipes bring torch, and a misspelt name is refused before."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from rung.advice import command
from rung.errors import unknown
from rung.settings.paths import path_of

FILES = ("recipes.py", "recipes_contrib.py")


@cache
def written() -> tuple[str, ...]:
    """The names that stand in these files, in their order: Recipe(name="grpo"), rung(PARENT, "grpo", ...)."""
    trees = [ast.parse((Path(__file__).parents[1] / name).read_text(encoding="utf-8")) for name in FILES]
    calls = [
        x.value for tree in trees for x in tree.body if isinstance(x, ast.Assign) and isinstance(x.value, ast.Call)
    ]
    at = [word for call in calls for word in (*call.args[1:2], *(k.value for k in call.keywords if k.arg == "name"))]
    return tuple(word.value for word in at if isinstance(word, ast.Constant) and isinstance(word.value, str))


def meant(name: str, known: Collection[str]) -> str:
    """The known name that is meant; case, hyphens and "++" are forgiven (reinforce++ is reinforce_pp).

    Raises:
        InputError: there is none.
    """
    plain = name.lower().replace("++", "_pp").replace("-", "_").replace(".", "").replace(" ", "_").replace("__", "_")
    for key in (plain, plain.replace("drgrpo", "dr_grpo")):
        if key in known:
            return key
    raise unknown("recipe", name, known, more=f" The tree: {command('recipes')}")


def refuse_strange(words: Iterable[str]) -> None:
    """Refuse the first word that names no recipe. A path stands for a run."""
    for word in words:
        if "/" not in word and not path_of(word).is_dir():
            meant(word, written())
