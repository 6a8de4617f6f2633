"""Every field of every part: set by flags, TOML and Python, read back, and refused out of its range with one message."""

import math
import tomllib
from dataclasses import fields, is_dataclass, replace
from typing import Literal, get_args, get_origin

import pytest
import tomli_w

import rung.parts as p
from rung.errors import InputError
from rung.recipe_io import LABELS, PARTS, all_recipes, flatten, from_dict, override, to_dict
from rung.recipes import Recipe
from rung.settings.ranges import hints, options_of
from rung.shell.arguments import prefixed

RECIPES = all_recipes()
inf, nan = math.inf, math.nan

CAPS = {
    "TokenTIS.cap", "SequenceTIS.cap", "SequenceMask.cap", "GeometricMask.cap", "GeometricMask.high", "TokenMask.high",
    "CISPO.high",
}  # fmt: skip
KLS = ("NoKL", "K1", "K2", "K3", "RatioK3", "StraightThrough", "SequenceK2", "FullKL")
# Part.field: the smallest and the largest legal value; a bracket in front or behind says which end is left out. A cap may
# be infinite, which is none.
RANGES = {
    "TotalReturn.gamma": "0 1", "RewardToGo.gamma": "0 1", "MovingAverage.rate": "(0 1", "GroupMean.eps": "0 inf",
    "StepMean.eps": "0 inf", "GAE.gamma": "0 1", "GAE.lam": "0 1", "MC.gamma": "0 1", "TD.gamma": "0 1", "NStep.n": "1 inf",
    "NStep.gamma": "0 1", "LengthAdaptiveGAE.gamma": "0 1", "LengthAdaptiveGAE.alpha": "(0 inf", "Critic.coef": "0 inf",
    "Critic.learning_rate": "0 inf", "Critic.epochs": "1 inf", "Critic.minibatches": "1 inf", "Critic.clip": "(0 inf",
    "Critic.warmup": "0 inf", "Whiten.eps": "0 inf", "TokenTIS.cap": "(0 inf", "SequenceTIS.cap": "(0 inf",
    "TokenMask.low": "0 5", "TokenMask.high": "0.5 inf", "SequenceMask.cap": "(0 inf", "GeometricMask.low": "0 1.01",
    "GeometricMask.high": "0.99 inf", "GeometricMask.cap": "(0 inf", "StaleNegativeMask.delta": "-inf inf", "Clip.low": "0 inf",
    "Clip.high": "0 inf", "Clip.dual": "(1 inf", "Clip.two_sided": "(1 inf", "CISPO.low": "0 1", "CISPO.high": "(0 inf",
    "SAPO.positive": "(0 inf", "SAPO.negative": "(0 inf", "GMPO.width": "(0 inf", "MirrorDescent.tau": "(0 inf",
    **{f"{kl}.coef": "0 inf" for kl in (*KLS, "OldKL")},
    **{f"{kl}.target": "(0 inf" for kl in (*KLS, "OldKL")},
    **{f"{kl}.horizon": "1 inf" for kl in KLS},
    "FixedBudget.budget": "1 inf", "GradientSteps.epochs": "1 inf", "GradientSteps.minibatches": "1 inf",
    "GradientSteps.target_kl": "(0 inf", "NaturalStep.max_kl": "(0 inf", "NaturalStep.damping": "0 inf",
    "NaturalStep.cg_iterations": "1 inf", "NaturalStep.backtracks": "1 inf", "NaturalStep.shrink": "(0 1)",
    "NaturalStep.curvature_tokens": "1 inf", "Overlong.buffer": "0 1", "Overlong.factor": "0 inf", "Data.resample": "0 inf",
    "Recipe.entropy": "-inf inf", "Recipe.imitation": "0 inf",
}  # fmt: skip


def is_number(hint):
    return any(o in (int, float) or get_args(o)[:1] in ((int,), (float,)) for o in options_of(hint))


NUMBERS = [(c, f.name) for c in [*PARTS.values(), Recipe] for f in fields(c) if is_number(hints(c)[f.name])]


def made(cls, **values):
    return cls(name="mine", **values) if cls is Recipe else cls(**values)


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=[f"{c.__name__}.{n}" for c, n in NUMBERS])
def test_a_number_is_checked_where_the_part_is_made(cls, name):
    low, high = RANGES[f"{cls.__name__}.{name}"].split()
    least, most = float(low.strip("(")), float(high.strip(")"))
    whole = any(get_args(o)[:1] == (int,) for o in options_of(hints(cls)[name]))
    tiny = 1 if whole else 1e-9
    inside = [
        least + tiny,
        *([] if "(" in low else [least]),
        *([] if ")" in high else [min(most, 2**53 if whole else 1e9)]),
    ]
    outside = [least if "(" in low else least - tiny, most if ")" in high else most + tiny, 2 * most, -1e300, 1e300]
    inside = [x for x in inside if math.isfinite(x)] + [0] * (least < 0)
    inside += [inf] if f"{cls.__name__}.{name}" in CAPS else []
    for value in (int(x) if whole else x for x in inside):
        assert getattr(made(cls, **{name: value}), name) == value
    capped = f"{cls.__name__}.{name}" in CAPS
    outside = [x for x in outside if not (capped and x > least)]
    wrong = [
        *outside,
        nan,
        -inf,
        *([] if capped else [inf, 10**400]),
        -(10**5000),
        "many",
        "",
        [1.0],
        {},
        True,
        *([1.5] if whole else []),
    ]
    for value in wrong:
        with pytest.raises(
            InputError, match=rf"^{cls.__name__}\.({name} is .*must be|low is .*nothing lies)"
        ) as refused:
            made(cls, **{name: value})
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_every_number_has_a_range_and_every_range_a_number():
    assert {f"{cls.__name__}.{name}" for cls, name in NUMBERS} == set(RANGES)


@pytest.mark.parametrize("name", PARTS)
def test_choices_switches_and_parts_are_checked_where_the_part_is_made(name):
    for f in fields(PARTS[name]):
        if (PARTS[name], f.name) not in NUMBERS:
            for value in (0, -1, nan, "nonsense", [], p.Data):
                with pytest.raises(InputError, match=rf"^{name}\.{f.name} is .*; it must be "):
                    PARTS[name](**{f.name: value})


# -- three ways to set a field -----------------------------------------------------------------------------------------
def paths(part, inside):
    """Every field of a part and of the parts inside it: (path, value now, annotation)."""
    for f in fields(part):
        now, path = getattr(part, f.name), f"{inside}.{f.name}".strip(".")
        if inside or f.name not in LABELS:
            yield path, now, hints(type(part))[f.name]
            if is_dataclass(now):
                yield from paths(now, path)


def values(now, hint):
    """The value at hand, and others that are legal if the part is looked at alone, or nearly."""
    out = [now]
    for option in options_of(hint):
        kind = get_args(option)[0] if hasattr(option, "__metadata__") else option
        if get_origin(kind) is Literal:
            out += get_args(kind)
        elif kind in (int, float, bool):
            out += {int: [3, 2], float: [0.75, 0.5, 1.5], bool: [True, False]}[kind]
        elif kind is type(None):
            out.append(None)
        else:
            out += [part() for part in PARTS.values() if issubclass(part, kind)]
    return out


def outcome(act):
    """What a way of setting gives: a recipe, or the reason why a rule about several parts refuses it."""
    try:
        return act()
    except InputError as error:
        return str(error).replace("'", "")  # 'nan' from a flag is text, until it is read


def by_flag(recipe, path, value):
    words = [w for k, x in flatten({path: to_dict(value)}).items() for w in (f"--recipe.{k.replace('_', '-')}", str(x))]
    rest, found = prefixed(["--steps", "3", *words], "--recipe")
    assert rest == ["--steps", "3"]
    return override(recipe, found)


def by_toml(recipe, path, value, nested):
    value = "none" if value is None else to_dict(value)
    table = {path: value}
    for key in reversed(path.split(".") if nested else ()):
        table = {key: value if table == {path: value} else table}
    return override(recipe, tomllib.loads(tomli_w.dumps({"overrides": table}))["overrides"])


def by_replace(value, path, new):
    """In Python: dataclasses.replace along the path."""
    name, _, rest = path.partition(".")
    return replace(value, **{name: by_replace(getattr(value, name), rest, new) if rest else new})


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_part_can_be_set_by_flag_toml_and_python(name):
    recipe = RECIPES[name]
    for path, now, hint in paths(recipe, ""):
        done = []
        for value in values(now, hint):
            results = [
                outcome(lambda: override(recipe, {path: value})),  # noqa: B023
                outcome(lambda: by_flag(recipe, path, value)),  # noqa: B023
                outcome(lambda: by_toml(recipe, path, value, nested=False)),  # noqa: B023
                outcome(lambda: by_toml(recipe, path, value, nested=True)),  # noqa: B023
                outcome(lambda: by_replace(recipe, path, value)),  # noqa: B023
            ]
            assert all(r == results[0] for r in results), (path, value, results)
            if isinstance(results[0], Recipe):
                got = results[0]
                for step in path.split("."):
                    got = getattr(got, step)
                assert got == value and type(got) is type(value)
                assert from_dict(to_dict(results[0])) == results[0]
                done.append(value)
            else:  # refused by its range, or by a rule about several parts
                assert results[0].startswith("recipe ") or "it must be" in results[0]
        assert now in done


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_wrong_is_refused_alike_by_flag_toml_and_python(name):
    recipe = RECIPES[name]
    for path, _now, hint in paths(recipe, ""):
        for value in ("nonsense", *((nan, -inf) if is_number(hint) else ())):
            messages = {
                outcome(lambda: override(recipe, {path: value})),  # noqa: B023
                outcome(lambda: by_flag(recipe, path, value)),  # noqa: B023
                outcome(lambda: by_toml(recipe, path, value, nested=True)),  # noqa: B023
            }
            assert len(messages) == 1 and isinstance(next(iter(messages)), str), (path, value, messages)
        for wrong in (f"{path}.nonsense", path[:-1] + "qq"):
            assert str(outcome(lambda: override(recipe, {wrong: "1"}))).startswith(("unknown field", "overrides={"))  # noqa: B023


def test_one_setting_in_two_spellings_is_refused():
    with pytest.raises(InputError, match=r"kl\.coef': \.\.\.\} is given twice, as 0\.1 and as 0\.2"):
        override(RECIPES["grpo"], {"kl.coef": 0.1, "kl": {"coef": 0.2}})


def test_two_changes_that_are_legal_only_together():
    both = {"correction": "GeometricMask", "correction.low": "0.5", "correction.high": "1"}
    assert override(RECIPES["dr_grpo"], both).correction == p.GeometricMask(0.5, 1.0)
    with pytest.raises(
        InputError, match="another weight than 1"
    ):  # not that nothing lies between 6 and the default of 5
        override(RECIPES["dr_grpo"], {"correction": "TokenMask", "correction.low": "6", "correction.high": "8"})
    with pytest.raises(InputError, match="nothing lies between"):
        override(RECIPES["dr_grpo"], {"correction": "TokenMask", "correction.low": "6"})


def test_none_survives_the_way_through_a_file():
    recipe = override(RECIPES["trpo"], {"update.curvature_tokens": None})
    assert from_dict(to_dict(recipe)) == recipe


def test_a_part_made_by_the_user_is_checked_too():
    with pytest.raises(InputError, match=r"Recipe\.credit is Clip"):
        replace(RECIPES["grpo"], credit=p.Clip())
    with pytest.raises(InputError, match=r"overrides=\{'kl': \.\.\.\} is <class"):
        override(RECIPES["grpo"], {"kl": p.K3})
