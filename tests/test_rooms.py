"""The house is what its rooms say: each names exactly its files, in their own words, and what is listed is written out."""

import ast
import importlib
import inspect
import pkgutil
import re
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

import rung
import rung.maths
import rung.parts as p
from rung import recipes, recipes_contrib
from rung.recipe_io import PARTS
from rung.recipes import LADDER, Recipe
from rung.recipes_contrib import CONTRIB
from rung.settings.ranges import Checked

HOUSE = Path(rung.__file__).parent
ROOMS = [init.parent for init in sorted(HOUSE.rglob("__init__.py"))]
ABSTRACT = {"ReferenceKL"}  # what the KL penalties share; no part by itself


def said(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def files(room):
    """name -> what it says of itself."""
    found = {x.stem: x for x in room.glob("*.py") if not x.stem.startswith("__")}
    found |= {f"{x.name}/": x / "__init__.py" for x in room.iterdir() if (x / "__init__.py").exists()}
    return {name: " ".join(said(path).split()) for name, path in found.items()}


def listed(doc, there):
    """The lines `name  what is in it` of a room's docstring: two spaces at least behind a name that is none."""
    rows = re.finditer(r"^(\w+/?)( +)(\S.*)$", doc, re.MULTILINE)
    return {m[1]: m[3] for m in rows if len(m[2]) > 1 or m[1] in there}


def faults(doc, there):
    lines = listed(doc, there)
    missing = [f"{name} is not listed" for name in there if name not in lines]
    gone = [f"{name} is listed and is not there" for name in lines if name not in there]
    other = [n for n, line in lines.items() if n in there and not there[n].startswith(line.rstrip(". "))]
    return [*missing, *gone, *(f"{n} says of itself {there[n][:150]!r}, and the room {lines[n]!r}" for n in other)]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(HOUSE.parent)))
def test_a_room_lists_its_files_in_their_own_words(room):
    found = faults(said(room / "__init__.py"), files(room))
    assert not found, "\n".join(found)


def test_a_file_that_is_forgotten_gone_or_another_by_now_is_named():
    doc = "A room.\n\nhere   What is here.\ngone   What was here.\nother  What it was.\n\nProse is  no list."
    there = {"here": "What is here. And more.", "new": "What came.", "other": "What it is."}
    assert [fault.partition(" ")[0] for fault in faults(doc, there)] == ["new", "gone", "other"]


# -- names -------------------------------------------------------------------------------------------------------------
def shadowed(package):
    """Names of a package that mean something else than its submodule of that name."""
    inside = {module.name for module in pkgutil.iter_modules(package.__path__)}
    public = {*vars(package), *getattr(package, "__all__", ())} & inside
    wanted = {name: f"{package.__name__}.{name}" for name in public}
    return [n for n, full in wanted.items() if getattr(getattr(package, n), "__name__", "") != full]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(HOUSE.parent)))
def test_nothing_is_called_like_a_module_beside_it(room):
    package = importlib.import_module(".".join(room.relative_to(HOUSE.parent).parts))
    assert not shadowed(package), "rung.train is a function, so no module can be called train"


def test_a_name_that_hides_a_module_is_found(monkeypatch):
    monkeypatch.setattr(rung, "text", lambda: None, raising=False)
    assert shadowed(rung) == ["text"]


# -- written out -------------------------------------------------------------------------------------------------------
def collected(source):
    """Lines at which names are collected from what a module happens to hold, or __all__ is no list of names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            bare = node.func.id in ("dir", "vars") and not node.args
            if bare or node.func.id in ("globals", "locals"):
                found.append(node.lineno)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            value = node.value
            if not isinstance(value, ast.List | ast.Tuple) or not all(isinstance(x, ast.Constant) for x in value.elts):
                found.append(node.lineno)
    return found


def test_no_file_and_no_function_is_longer_than_one_reads():
    """CONTRIBUTING.md: files of 330 lines at most, functions of 50."""
    long = []
    for path in sorted(HOUSE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        pieces = [(str(path.relative_to(HOUSE)), 330, text.count("\n"))]
        pieces += [
            (f"{path.relative_to(HOUSE)}:{node.name}", 50, (node.end_lineno or 0) - node.lineno + 1)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        long += [f"{name} has {lines} lines" for name, most, lines in pieces if lines > most]
    assert not long


def test_lists_are_written_out():
    found = {path.name: lines for path in HOUSE.rglob("*.py") if (lines := collected(path.read_text(encoding="utf-8")))}
    assert not found
    for line in ("__all__ = [n for n in dir()]", "__all__ = sorted(x)", "ALL = globals().values()", "ALL = vars()", "ALL = dir()"):
        assert collected(line) == [1] * collected(line).count(1) != [], line
    assert not collected('__all__ = ["a"]\nx = vars(a), dir(a)')


def forgotten(module: ModuleType, ladder) -> list[str]:
    """Recipes that a module makes and does not list."""
    own = {n: x for n, x in vars(module).items() if isinstance(x, Recipe) and n.isupper()}
    return [n for n, x in own.items() if ladder.get(x.name) is not x]


def test_no_recipe_is_forgotten(monkeypatch):
    everything = {**LADDER, **CONTRIB}
    assert forgotten(recipes, LADDER) == [] and forgotten(recipes_contrib, everything) == []
    assert len(LADDER) == len(recipes.RUNGS) and not {*LADDER} & {*CONTRIB}
    monkeypatch.setattr(recipes, "NEW", recipes.rung(recipes.GRPO, "new", "", ""), raising=False)
    assert forgotten(recipes, LADDER) == ["NEW"]


def parts_made() -> set[type]:
    """All parts: checked records of the maths, and those of parts.py."""
    modules = [importlib.import_module(f"rung.maths.{m.name}") for m in pkgutil.iter_modules(rung.maths.__path__)]
    classes = {x for module in [*modules, p] for x in vars(module).values() if inspect.isclass(x)}
    return {x for x in classes if issubclass(x, Checked) and is_dataclass(x)} - {Checked}


def test_no_part_is_forgotten():
    names = {part.__name__ for part in parts_made()}
    assert sorted(names - {*p.__all__}) == [], "a part that `rung.parts` does not list cannot be named by anybody"
    assert sorted(names - ABSTRACT) == sorted(PARTS)
    assert sorted(p.__all__) == sorted({*p.__all__} & {*vars(p)}), "a name twice, or of nothing"
