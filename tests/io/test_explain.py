"""`rung explain`: every symbol on its screen is defined on it, and it says where the recipe is derived."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rung.cli import main
from rung.io.recipe_views import MEANINGS, derivation, meanings, objective_text
from rung.maths.correction import TokenTIS
from rung.recipe_io import all_recipes, find
from rung.recipes import Recipe

RECIPES = all_recipes()
WORDS = {"over", "right", "answers", "with", "log", "sum", "t"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_symbol_of_the_objective_is_defined(recipe: Recipe):
    defined = {word for symbol, _ in meanings(recipe) for word in re.findall(r"\w+", symbol)} | WORDS | {"N", "old"}
    for name in re.findall(r"[A-Za-z_]+", objective_text(recipe)):
        assert name in defined or name.split("_")[0] in defined, name


def test_no_definition_is_without_a_use():
    corrected = replace(find("ppo"), correction=TokenTIS())
    used = {symbol for recipe in [*RECIPES.values(), corrected] for symbol, _ in meanings(recipe)}
    assert {symbol for _, symbol, _ in MEANINGS} - used == set()


def test_the_screen_defines_what_it_uses_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["explain", "ppo"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  rho +ratio: the token's probability now", out, re.MULTILINE) and "Fisher" not in out
    assert "docs/ladder/ppo.md" in out


def test_the_derivation_is_there_also_of_a_recipe_without_a_page():
    root = Path(__file__).parents[2]
    assert all((root / str(derivation(recipe))).is_file() for recipe in RECIPES.values())
    assert derivation(replace(find("grpo"), name="mine", parent="grpo")) == "docs/ladder/grpo.md"
