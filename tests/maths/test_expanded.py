"""A default moved low on the ladder moves every rung above it; this file makes that visible."""

import json
from pathlib import Path

import pytest

from rung.recipe_io import all_recipes, from_dict, to_dict

FILE = Path(__file__).with_name("expanded_recipes.json")
STORED = json.loads(FILE.read_text())
HOW = "If that is meant, run `python tests/maths/expand.py` and review what moved."


@pytest.mark.parametrize("name", all_recipes())
def test_a_recipe_is_what_the_file_says(name):
    assert name in STORED, f"{name} is not in {FILE.name}. {HOW}"
    now = json.loads(json.dumps(to_dict(all_recipes()[name])))
    assert now == STORED[name], f"{name} is no longer what {FILE.name} says. {HOW}"
    assert from_dict(STORED[name]) == all_recipes()[name]


def test_the_file_has_no_recipe_too_many():
    assert list(STORED) == list(all_recipes()), f"{FILE.name} names other recipes, or in another order. {HOW}"
