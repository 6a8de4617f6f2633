"""What each target can express: a row for every part and field, and every recipe exported or refused with its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from rung.errors import InputError
from rung.export import targets
from rung.export.command import WAYS, export
from rung.export.targets import PLAIN, ROWS, RULES, TARGETS, refusals
from rung.maths.surrogate import Surrogate
from rung.recipe_io import LABELS, PARTS, all_recipes, find, override
from rung.recipes import Recipe

REFUSED = {  # of the ladder, {target: {recipe: the field that it is refused for}}
    "trl": {
        "moving_average": "credit", "value_baseline": "credit", "a2c": "credit", "trpo": "credit, update",
        "ppo_kl": "credit, trust", "ppo": "credit", "vapo": "credit", "grpo_process": "credit", "dapo": "data.resample",
        "remax": "credit",
    },
    "verl": {
        "moving_average": "credit", "value_baseline": "credit", "a2c": "credit", "trpo": "credit, update",
        "ppo_kl": "credit, trust", "ppo": "credit", "vapo": "credit, imitation", "grpo_process": "credit",
        "dapo": "data.resample, data.overlong", "remax": "credit",
    },
    "skyrl": {
        "moving_average": "credit", "value_baseline": "credit", "a2c": "credit, entropy", "trpo": "credit, update",
        "ppo_kl": "credit, trust", "ppo": "credit", "vapo": "credit, imitation", "grpo_process": "credit",
        "dapo": "data.resample, data.overlong", "remax": "credit", "reinforce_pp_baseline": "kl", "kimi": "surrogate",
    },
}  # fmt: skip
every_target = pytest.mark.parametrize("target", WAYS)


def unseen(parts, rows):
    """What of the parts has no row, and what of the rows is no part's."""
    found = [f"{name} has no row" for name, part in parts.items() if part not in rows]
    for name, part in parts.items():
        if part in rows:
            now, seen = {f.name for f in fields(part)}, set(rows[part].fields.split())
            found += [f"{name}.{field} was not looked at" for field in sorted(now - seen)]
            found += [f"{name} has no {field}" for field in sorted(seen - now)]
    return [*found, *(f"{part.__name__} is no part" for part in rows if part not in parts.values())]


def test_every_part_and_field_was_looked_at():
    assert unseen(PARTS, ROWS) == []
    numbers = {f.name for f in fields(Recipe)} - {*LABELS} - {*PLAIN}
    assert all(type(getattr(find("grpo"), name)) in ROWS for name in numbers), "a new field of a recipe needs rows"
    assert {rule.field for rule in RULES} >= {*PLAIN}
    assert all({*row.refused} <= {*TARGETS} for row in (*ROWS.values(), *RULES))


def test_a_new_part_or_field_without_a_row_is_found():
    @dataclass(frozen=True)
    class Sharp(Surrogate):
        edge: float = 0.5

        def __call__(self, log_ratio_BT, logp_BT, adv_BT, mask_BT):
            return adv_BT * logp_BT

    assert unseen({**PARTS, "Sharp": Sharp}, ROWS) == ["Sharp has no row"]
    assert unseen({**PARTS, "Sharp": Sharp}, {**ROWS, Sharp: targets.Row("")}) == ["Sharp.edge was not looked at"]
    recipe = override(find("grpo"), {"surrogate": Sharp()})
    assert "not rung's own" in refusals(recipe, "trl")["surrogate"]
    with pytest.raises(InputError, match=r"surrogate=Sharp.*not rung's own"):
        export(recipe, "trl")


@every_target
@pytest.mark.parametrize("name", all_recipes())
def test_every_recipe_is_exported_or_refused_with_the_reason(target, name):
    why = REFUSED[target].get(name)
    if why is None:
        made = export(find(name), target)
        assert made.settings and (made.module or made.computed_by.endswith("own code"))
        if made.module:
            compile(made.module, name, "exec")
        return
    with pytest.raises(InputError, match="nothing is approximated") as said:
        export(find(name), target)
    assert ", ".join(refusals(find(name), target)) == why
    assert all(f"\n  {field}=" in str(said.value) for field in why.split(", "))


def test_an_unknown_target_is_named():
    with pytest.raises(InputError, match="Did you mean 'verl'"):
        export(find("grpo"), "verls")
