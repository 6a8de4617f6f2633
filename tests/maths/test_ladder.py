"""What the recipes are made of: what each needs, what each rung changed, and which combinations are refused."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import ClassVar

import pytest

import rung.parts as p
from rung.errors import InputError
from rung.recipe_io import LABELS, all_recipes, diff
from rung.recipe_rules import RULES, refuse_contradictions, refuse_sampling
from rung.recipes import Recipe

RECIPES = all_recipes()
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())

NEEDS = {
    "reinforce": "",
    "reward_to_go": "",
    "moving_average": "",
    "batch_mean": "",
    "leave_one_out": "groups",
    "value_baseline": "values",
    "a2c": "values",
    "trpo": "values old_full",
    "ppo_kl": "values old_full",
    "ppo": "values ref_logp",
    "vapo": "values",
    "grpo": "groups ref_logp",
    "grpo_process": "groups steps ref_logp",
    "dr_grpo": "groups",
    "dapo": "groups",
    "lite_ppo": "groups",
    "gspo": "groups",
    "cispo": "groups",
    "gmpo": "groups",
    "sapo": "groups",
    "rloo": "groups ref_logp",
    "remax": "greedy ref_logp",
    "opo": "groups",
    "reinforce_pp": "ref_logp",
    "reinforce_pp_baseline": "groups ref_logp",
    "maxrl": "groups",
    "kimi": "groups",
}


@every_recipe
def test_needs_are_those_of_the_parts(recipe):
    declared = [getattr(getattr(recipe, f.name), "needs", frozenset()) for f in fields(recipe)]
    assert recipe.needs == frozenset().union(*declared)
    if recipe.name in NEEDS:
        assert recipe.needs == set(NEEDS[recipe.name].split())


def test_initial_state_starts_from_the_coefficients():
    state = RECIPES["ppo_kl"].initial_state()
    assert (state.kl_coef, state.trust_coef, state.mean, state.mean_updates) == (0.0, 1.0, 0.0, 0)
    assert RECIPES["grpo"].initial_state().kl_coef == 0.04


# -- the ladder: what each paper changed ------------------------------------------------------------------------------
CHANGES = {  # field: the part that it became
    "reward_to_go": {"credit": "RewardToGo"},
    "moving_average": {"credit": "MovingAverage"},
    "batch_mean": {"credit": "BatchMean"},
    "leave_one_out": {"credit": "LeaveOneOut"},
    "value_baseline": {"credit": "Value MC"},
    "a2c": {"credit": "Value GAE", "aggregate": "TokenMean", "entropy": "0.01"},
    "trpo": {
        "normalize": "Whiten",
        "ratio": "TokenRatio",
        "surrogate": "Importance",
        "entropy": "0.0",
        "update": "NaturalStep",
    },
    "ppo_kl": {"trust": "OldKL", "update": "GradientSteps"},
    "ppo": {"credit": "Value GAE", "surrogate": "Clip", "kl": "K1 reward", "update": "GradientSteps"},
    "vapo": {
        "credit": "Value LengthAdaptiveGAE",
        "normalize": "AsIs",
        "surrogate": "Clip",
        "kl": "NoKL",
        "imitation": "0.1",
    },
    "grpo": {
        "credit": "GroupMean group",
        "normalize": "AsIs",
        "kl": "K3 loss",
        "aggregate": "SequenceMean",
        "update": "GradientSteps",
    },
    "grpo_process": {"credit": "StepMean"},
    "dr_grpo": {"credit": "GroupMean none", "kl": "NoKL", "aggregate": "FixedBudget"},
    "dapo": {"surrogate": "Clip", "kl": "NoKL", "aggregate": "TokenMean", "data": "Data"},
    "lite_ppo": {"credit": "GroupMean batch", "kl": "NoKL", "aggregate": "TokenMean"},
    "gspo": {"ratio": "SequenceRatio", "surrogate": "Clip", "kl": "NoKL", "update": "GradientSteps"},
    "cispo": {"surrogate": "CISPO", "kl": "NoKL", "aggregate": "TokenMean"},
    "gmpo": {"surrogate": "GMPO", "kl": "NoKL"},
    "sapo": {"surrogate": "SAPO", "kl": "NoKL"},
    "rloo": {"kl": "K1 reward"},
    "remax": {"credit": "Greedy", "kl": "K1 reward"},
    "opo": {"credit": "LengthWeighted", "aggregate": "TokenMean"},
    "reinforce_pp": {"credit": "RewardToGo", "kl": "K1 reward", "update": "GradientSteps"},
    "reinforce_pp_baseline": {"credit": "GroupMean none", "kl": "K2 loss"},
    "maxrl": {"credit": "GroupMean mean", "kl": "NoKL", "aggregate": "SequenceSum"},
    "kimi": {"credit": "GroupMean none", "surrogate": "MirrorDescent", "update": "GradientSteps"},
}


def label(x) -> str:
    if not is_dataclass(x):
        return str(x)
    detail = ""
    if isinstance(x, p.GroupMean):
        detail = x.scale
    elif isinstance(x, p.Value):
        detail = type(x.estimator).__name__
    elif isinstance(x, p.ReferenceKL) and x.coef:
        detail = x.where
    return f"{type(x).__name__} {detail}".strip()


@every_recipe
def test_a_rung_is_a_difference(recipe):
    if recipe.name == "reinforce":
        assert recipe.parent is None
        return
    assert recipe.parent in RECIPES
    assert recipe.paper and recipe.why
    changed = diff(RECIPES[recipe.parent], recipe)
    assert changed, "a rung changes something"
    assert not set(changed) & set(LABELS)
    if recipe.name in CHANGES:
        assert {name: label(pair[1]) for name, pair in changed.items()} == CHANGES[recipe.name]


def test_the_tree_has_no_loop():
    for recipe in RECIPES.values():
        seen = [recipe.name]
        while (parent := RECIPES[seen[-1]].parent) is not None:
            assert parent not in seen
            seen.append(parent)
        assert seen[-1] == "reinforce"


# -- what is refused --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Curious(p.RewardToGo):
    """A user's own part that asks for values and brings no critic."""

    needs: ClassVar = frozenset({"values"})


R = RECIPES
ILLEGAL = [  # below, changes, a word of the reason, and a legal neighbor
    ("reinforce", {"update": p.GradientSteps(epochs=2)}, "another policy", {"update": p.GradientSteps(target_kl=0.1)}),
    ("reinforce", {"update": p.GradientSteps(minibatches=2)}, "another policy", {}),
    (
        "reinforce",
        {"surrogate": p.Clip()},
        "weighs tokens by an importance ratio",
        {"surrogate": p.Clip(), "ratio": p.TokenRatio()},
    ),
    (
        "reinforce",
        {"ratio": p.TokenRatio()},
        "does not read a ratio",
        {"ratio": p.TokenRatio(), "surrogate": p.Importance()},
    ),
    ("kimi", {"ratio": p.TokenRatio()}, "squared log-ratio", {"update": p.GradientSteps(epochs=9)}),
    ("grpo", {"kl": p.K1()}, "beta/std", {"kl": p.K1(), "credit": p.GroupMean(scale="none")}),
    ("grpo", {"kl": p.K1(), "credit": p.StepMean()}, "beta/std", {"kl": p.K1(coef=0.0)}),
    ("maxrl", {"kl": p.K1()}, "beta/std", {"kl": p.K1(), "credit": p.GroupMean(scale="batch")}),
    ("grpo", {"kl": p.K1(where="loss")}, "expected gradient is zero", {"kl": p.K1(0.0, where="loss")}),
    ("dr_grpo", {"kl": p.RatioK3(where="reward")}, "through its gradient", {"kl": p.RatioK3()}),
    ("dr_grpo", {"kl": p.FullKL(where="reward")}, "through its gradient", {"kl": p.FullKL()}),
    ("dr_grpo", {"kl": p.SequenceK2(where="reward")}, "through its gradient", {"kl": p.SequenceK2()}),
    ("dr_grpo", {"kl": p.StraightThrough(where="reward")}, "through its gradient", {"kl": p.StraightThrough()}),
    ("grpo", {"kl": p.NoKL(coef=0.1)}, "no reference policy", {"kl": p.NoKL()}),
    (
        "reinforce_pp_baseline",
        {"data": p.Data(resample=1)},
        "zero-variance groups",
        {"data": p.Data(resample=1), "normalize": p.Whiten(shift=False)},
    ),
    ("grpo", {"correction": p.TokenTIS(cap=0.5)}, "another weight than 1", {"correction": p.TokenTIS(cap=1.0)}),
    ("grpo", {"correction": p.TokenMask(low=2.0)}, "another weight than 1", {"correction": p.TokenMask(low=1.0)}),
    (
        "grpo",
        {"correction": p.GeometricMask(0.5, 0.9)},
        "another weight than 1",
        {"correction": p.GeometricMask(0.5, 1)},
    ),
    (
        "grpo",
        {"correction": p.StaleNegativeMask(-0.1)},
        "every bad one",
        {"correction": p.StaleNegativeMask(0.0)},
    ),
    ("trpo", {"ratio": p.PerDecision()}, "only with token ratios", {}),
    (
        "vapo",
        {"credit": p.Value(p.GAE(gamma=0.9), target=p.MC())},
        "at another discount",
        {"credit": p.Value(p.GAE(gamma=0.9), target=p.MC(0.9))},
    ),
    ("cispo", {"surrogate": p.CISPO(high=0.2)}, "absolute cap", {"surrogate": p.CISPO(high=1.0)}),
    ("trpo", {"surrogate": p.Clip()}, "not that surrogate", {"update": p.NaturalStep(max_kl=0.1)}),
    ("trpo", {"trust": p.OldKL()}, "bounds the KL", {}),
    ("trpo", {"imitation": 0.1}, "bounds the KL", {}),
    (
        "trpo",
        {"credit": p.Value(p.GAE(), critic=p.Critic(shared=True))},
        "never reach it",
        {"credit": p.Value(p.GAE())},
    ),
    ("reinforce", {"credit": Curious()}, "belongs to credit=Value", {"credit": p.Value()}),
    ("ppo", {"data": p.Data(resample=1)}, "the critic has to learn", {"data": p.Data(drop_truncated=True)}),
]


@pytest.mark.parametrize(("below", "changes", "why", "legal"), ILLEGAL, ids=[f"{x[0]}: {x[2]}" for x in ILLEGAL])
def test_nonsense_is_refused_with_the_reason(below, changes, why, legal):
    with pytest.raises(InputError, match=why) as refused:
        replace(R[below], name="mine", **changes)
    assert "'mine'" in str(refused.value)
    refuse_contradictions(replace(R[below], **legal))


def test_every_rule_has_its_example():
    messages = []
    for below, changes, _, _ in ILLEGAL:
        try:
            replace(R[below], **changes)
        except InputError as error:
            messages.append(str(error))
    for _, reason in RULES:
        assert any(reason in m for m in messages), reason


GOOD_SAMPLING = {"samples_per_prompt": 4, "rows": 16, "temperature": 1.0, "is_full": True, "max_new_tokens": 16}


@every_recipe
def test_ordinary_sampling_is_accepted(recipe):
    refuse_sampling(recipe, **GOOD_SAMPLING)


@pytest.mark.parametrize(
    ("recipe", "changes", "why"),
    [
        (R["grpo"], {"samples_per_prompt": 1}, "a group of one has nothing to compare with"),
        (R["reinforce"], {"temperature": 0.0}, "greedy answers are all the same"),
        (R["reinforce"], {"is_full": False}, "the gradient would be biased"),
        (replace(R["dr_grpo"], aggregate=p.FixedBudget(15)), {}, "more than the budget allows"),
        (R["reinforce_pp"], {"samples_per_prompt": 1, "rows": 1}, "the batch has one answer"),
    ],
)
def test_sampling_that_contradicts_the_recipe_is_refused(recipe, changes, why):
    with pytest.raises(InputError, match=why):
        refuse_sampling(recipe, **{**GOOD_SAMPLING, **changes})


def test_sampling_at_the_edge_is_accepted():
    refuse_sampling(R["reinforce"], **{**GOOD_SAMPLING, "samples_per_prompt": 1, "rows": 1, "temperature": 0.01})
    refuse_sampling(R["grpo"], **{**GOOD_SAMPLING, "samples_per_prompt": 2})
    refuse_sampling(replace(R["dr_grpo"], aggregate=p.FixedBudget(16)), **GOOD_SAMPLING)
    refuse_sampling(R["reinforce_pp"], **{**GOOD_SAMPLING, "samples_per_prompt": 2, "rows": 2})


@pytest.mark.parametrize(
    "name", ["", " ", "grpo ", "a\nb", "a\x1b[2J", "\ud800", "a/b", "..\\x", "..", ".", "x" * 101, None, 3]
)
def test_a_recipe_has_a_name_that_a_table_and_a_file_can_have(name):
    for make in (lambda: Recipe(name=name), lambda: replace(R["grpo"], name=name)):
        with pytest.raises(InputError, match=r"Recipe\.name is "):
            make()
    for good in ("mine", "grpo, twice as long", "reinforce++", "1", "über"):
        assert replace(R["grpo"], name=good).name == good
