"""`rung explain`: every symbol on its screen is defined on it, and it says where the recipe is derived."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rung.cli import main
from rung.io.recipe_views import MEANINGS, derivation, meanings, objective_text
from rung.maths.correction import TokenTIS
from rung.recipe_io import all_recipes, brief, find, override
from rung.recipes import Recipe
from rung.settings.overrides import flatten
from rung.shell.arguments import prefixed

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


# -- a recipe by its name or as a run has it, changed as `rung train` changes it ------------------------------------
CHANGE = ("--recipe.kl", "K1", "--recipe.kl.coef=0.1", "--recipe.update.epochs", "2")


@pytest.fixture(scope="module")
def changed_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    small = (
        "--steps",
        "0",
        "--prompts-per-step",
        "4",
        "--samples-per-prompt",
        "2",
        "--eval-problems",
        "2",
        "--threads",
        "1",
    )
    assert main(["train", "ppo", *small, *CHANGE, "--out", str(out)]) == 0
    return str(out)


def rows(capsys, *words):
    capsys.readouterr()
    assert main([*words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_explain_takes_changes_and_runs_through_the_one_way_of_train(changed_run, capsys):
    by_flags, by_run = rows(capsys, "explain", "ppo", *CHANGE), rows(capsys, "explain", changed_run)
    trained = override(find("ppo"), flatten(prefixed([*CHANGE], "--recipe")[1]))
    assert by_flags == by_run != rows(capsys, "explain", "ppo")
    assert {row["field"]: row["part"] for row in by_run}["kl"] == brief(trained.kl, full=True)
    more = rows(capsys, "explain", changed_run, "--recipe.kl.coef", "0.2")
    assert "coef=0.2" in {row["field"]: row["part"] for row in more}["kl"], "a run's recipe can be changed further"
    assert main(["explain", changed_run]) == 0
    assert "changed: kl is K1(coef=0.1), not K1(coef=0.01); update is" in " ".join(capsys.readouterr().out.split())


def test_diff_takes_changes_and_runs(changed_run, capsys):
    fields = {row["field"] for row in rows(capsys, "diff", "ppo", changed_run)}
    assert fields == {"kl", "update"} == {row["field"] for row in rows(capsys, "diff", "ppo", *CHANGE)}
    assert rows(capsys, "diff", changed_run, "ppo", *CHANGE) == [], "the changes are the second's"
    assert {row["field"] for row in rows(capsys, "diff", changed_run, "--recipe.entropy", "0.1")} == {"entropy"}
    (row,) = rows(capsys, "diff", "ppo", "--recipe.entropy", "0.1")
    assert row["ppo"] == "0" and row["ppo, changed"] == "0.1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff", "ppo"], "has nothing to compare it with"), (["explain", "runs/none"], "is not a run"),
        (["explain", "ppo", "--recipe.kk", "1"], "a recipe has no"), (["explain", "ppo", "--recipe.kl"], "needs a value"),
        (["diff", "ppo", "grpo", "--recipe.ratio", "NoRatio"], "weighs tokens by an importance ratio"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_refused(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_recipe_goes_before_a_directory_of_its_name(changed_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grpo").symlink_to(changed_run)
    assert rows(capsys, "explain", "./grpo") == rows(capsys, "explain", changed_run) != rows(capsys, "explain", "grpo")
