"""Write expanded_recipes.json: every recipe with all of its fields, so that a moved default shows in review.

python tests/maths/expand.py
"""

import json
from pathlib import Path

from rung.recipe_io import all_recipes, to_dict

FILE = Path(__file__).with_name("expanded_recipes.json")


def expanded() -> str:
    return json.dumps({name: to_dict(recipe) for name, recipe in all_recipes().items()}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(expanded())
    print(f"wrote {FILE.name}")
