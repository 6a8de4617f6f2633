"""Why an expected gradient bends: each part of a recipe is swapped for one that is known to be exact, one at a time.

Nothing here knows what a part does. A swap that leaves the expected gradient as it was is made and not mentioned; of
the others, the one that straightens it most comes first, until E[g] = c grad J.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.errors import InputError
from rung.exact.estimate import Estimate
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, World, scene
from rung.maths.kl import difference, k3
from rung.maths.ratio import log_difference
from rung.recipe_io import LABELS
from rung.recipes import Recipe
from rung.records import Batch, Scores

STRAIGHT = 1e-7  # sin of the angle to the true gradient below which the two are proportional


@dataclass(frozen=True)
class Cause:
    """`what` in the recipe bends the gradient; with `instead` (and what stands before it in the list) the cosine is `cosine`."""

    what: str
    instead: str
    cosine: float


@dataclass(frozen=True)
class Swap:
    """A change of some fields of the recipe, or of the condition."""

    what: str
    instead: str
    parts: tuple[tuple[str, Any], ...] = ()
    condition: tuple[tuple[str, Any], ...] = ()

    def __call__(self, recipe: Recipe, condition: Condition) -> tuple[Recipe, Condition]:
        return replace(recipe, **dict(self.parts)), replace(condition, **dict(self.condition))


def bare(recipe: Recipe) -> Recipe:
    """The recipe without its labels, and with one plain gradient step: what decides the gradient's expectation."""
    default = Recipe(name="bare")
    return replace(recipe, update=p.GradientSteps(), **{name: getattr(default, name) for name in LABELS})


@lru_cache(maxsize=4096)
def estimate_of(recipe: Recipe, condition: Condition, world: World) -> Estimate:
    """The expected gradient, remembered: recipes differ in few parts, so that their swaps meet."""
    return expected_gradient(recipe, scene(world, condition))


@dataclass(frozen=True)
class AnswerKL(p.ReferenceKL):
    """k_t = rho (q - log q - 1), rho the whole answer's: with SequenceSum the gradient of the KL between answers.

    Exact off-policy as well, at the variance of such ratios: a measure, not a part to train with.
    """

    def penalty(self, batch: Batch, scores: Scores, logp_BT: Tensor, log_ratio_BT: Tensor) -> Tensor:
        assert batch.ref_logp_BT is not None
        rho_B1 = log_difference(logp_BT, batch.old_logp_BT, batch.mask_BT).sum(1, keepdim=True).exp()
        return rho_B1 * k3(difference(logp_BT, batch.ref_logp_BT, batch.mask_BT))


# -- what would be exact ------------------------------------------------------------------------------------------------
def exact_parts(recipe: Recipe, condition: Condition) -> dict[str, Any]:
    """For each question of a recipe a part whose expectation is exact under the condition."""
    moved = condition.old_kl > 0 or condition.sampler_kl > 0
    return {
        "normalize": p.AsIs(),
        "ratio": p.SequenceProduct() if moved else p.NoRatio(),
        "surrogate": p.CISPO(high=math.inf) if moved else p.ScoreFunction(),  # sg[whole answer's ratio] A grad log pi
        "correction": p.SequenceTIS(cap=math.inf) if condition.sampler_kl > 0 else p.NoCorrection(),
        "kl": p.NoKL() if not recipe.kl.coef else AnswerKL(recipe.kl.coef) if moved else p.K1(recipe.kl.coef),
        "trust": p.NoTrust(),
        "aggregate": p.SequenceSum(),
        "entropy": 0.0,
        "imitation": 0.0,
        "data": p.Data(overlong=recipe.data.overlong),
    }


def exact_condition(condition: Condition) -> Condition:
    return replace(condition, critic="exact", scored_temperature=condition.temperature)


def _straight_with(recipe: Recipe, credit: p.Credit, condition: Condition, world: World) -> bool:
    """Whether a credit is exact up to a constant where all other parts are exact, whatever the critic."""
    try:
        other = replace(recipe, credit=credit, **exact_parts(recipe, condition))
    except InputError:
        return False
    laws = replace(condition, scored_temperature=condition.temperature)
    return estimate_of(other, laws, world).bend < STRAIGHT


def exact_credit(recipe: Recipe, condition: Condition, world: World) -> p.Credit:
    """The credit itself where it is exact; else the nearest one: a field changed, then leave-one-out, then reward-to-go."""
    near: list[p.Credit] = list(_one_field_changed(recipe.credit))
    groups: list[p.Credit] = [p.LeaveOneOut()] if "groups" in recipe.credit.needs else []
    for credit in (recipe.credit, *near, *groups):
        if _straight_with(recipe, credit, condition, world):
            return credit
    return p.RewardToGo()


def _one_field_changed(part: Any) -> Iterator[Any]:
    """The part with one choice made otherwise, one number set to 1, or one part of it by its simplest relative."""
    try:
        hints = typing.get_type_hints(type(part))
    except NameError:  # a part defined inside a function, with names that only its body knows
        hints = {}
    for f in fields(part) if is_dataclass(part) else ():
        now, hint = getattr(part, f.name), hints.get(f.name)
        others: list[Any] = []
        if isinstance(now, bool):
            others = [not now]
        elif isinstance(now, float) and 0 < now < 1 and f.name != "eps":
            others = [1.0]
        elif typing.get_origin(hint) is typing.Literal:
            others = [x for x in typing.get_args(hint) if x != now]
        elif isinstance(now, p.GAE | p.TD | p.NStep | p.LengthAdaptiveGAE) and f.name == "estimator":
            others = [p.MC(now.gamma)]
        for other in others:
            yield replace(part, **{f.name: other})


# -- swaps ----------------------------------------------------------------------------------------------------------------
def swaps(recipe: Recipe, condition: Condition, world: World) -> list[Swap]:
    """Everything in which recipe and condition differ from what is exact; ratio and surrogate belong together."""
    exact, out = exact_parts(recipe, condition), []
    credit = exact_credit(recipe, condition, world)
    if credit != recipe.credit:
        what, instead = contrast(recipe.credit, credit)
        out.append(Swap(f"credit={what}", instead, (("credit", credit),)))
    law = ("ratio", "surrogate")
    if any(getattr(recipe, name) != exact[name] for name in law):
        what, instead = (
            ", ".join(f"{name}={short(x[name])}" for name in law) for x in ({n: getattr(recipe, n) for n in law}, exact)
        )
        out.append(Swap(what, instead, tuple((name, exact[name]) for name in law)))
    for name in ("aggregate", "normalize", "kl", "correction", "trust", "entropy", "imitation", "data"):
        if getattr(recipe, name) != exact[name]:
            what, instead = contrast(getattr(recipe, name), exact[name])
            out.append(Swap(f"{name}={what}", instead, ((name, exact[name]),)))
    if "values" in recipe.needs and condition.critic == "wrong":
        out.append(Swap("the wrong critic", "an exact one", condition=(("critic", "exact"),)))
    if condition.temperature != condition.scored_temperature:
        T, scored = condition.temperature, condition.scored_temperature
        what = f"answers drawn at temperature {T:g} but scored at {scored:g}"
        out.append(Swap(what, f"scores at {T:g}", condition=(("scored_temperature", T),)))
    return out


def find_causes(recipe: Recipe, condition: Condition, world: World) -> tuple[Cause, ...]:
    """What bends the gradient, worst first: swaps made one after the other until it is proportional to the true one."""
    recipe, found = bare(recipe), list[Cause]()
    while estimate_of(recipe, condition, world).bend >= STRAIGHT:
        for swap in swaps(recipe, condition, world):
            trial = _tried(swap, recipe, condition)
            if trial and _same(estimate_of(*trial, world), estimate_of(recipe, condition, world)):
                recipe, condition = trial
        legal = [(s, trial) for s in swaps(recipe, condition, world) if (trial := _tried(s, recipe, condition))]
        if not legal:
            break
        best, (recipe, condition) = min(legal, key=lambda pair: round(estimate_of(*pair[1], world).bend, 9))
        found.append(Cause(best.what, best.instead, estimate_of(recipe, condition, world).cosine))
    return tuple(found)


def constants(recipe: Recipe, condition: Condition, world: World) -> dict[str, float]:
    """The constant that each part alone would put before the true gradient, where it is not 1."""
    recipe = bare(recipe)
    exact = replace(recipe, credit=p.RewardToGo(), **exact_parts(recipe, condition))
    pairs = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name in ("credit", "aggregate", "normalize")}
    out = {}
    for name, part in pairs.items():
        scale = estimate_of(replace(exact, **{name: part}), exact_condition(condition), world).scale
        if abs(scale - 1) > STRAIGHT:
            out[f"{name}={contrast(part, None)[0]}"] = scale
    return out


def _tried(swap: Swap, recipe: Recipe, condition: Condition) -> tuple[Recipe, Condition] | None:
    """Recipe and condition with the swap made, or None where the parts would not fit together."""
    try:
        return swap(recipe, condition)
    except InputError:
        return None


def _same(a: Estimate, b: Estimate) -> bool:
    return bool(torch.allclose(a.gradient, b.gradient, rtol=1e-9, atol=1e-9 * float(b.gradient.norm())))


# -- names ----------------------------------------------------------------------------------------------------------------
def short(part: Any, shown: tuple[str, ...] = ()) -> str:
    """A part with the fields that are not at their default: Clip(high=0.28)."""
    if not is_dataclass(part) or isinstance(part, type):
        return f"{part:g}" if isinstance(part, float) else repr(part)
    default = type(part)()
    inside = [
        f"{f.name}={short(getattr(part, f.name))}"
        for f in fields(part)
        if f.name in shown or (f.name != "critic" and getattr(part, f.name) != getattr(default, f.name))
    ]
    return f"{type(part).__name__}({', '.join(inside)})"


def contrast(a: Any, b: Any) -> tuple[str, str]:
    """Two parts, with the fields in which they differ where they are of one kind."""
    if type(a) is type(b) and is_dataclass(a) and not isinstance(a, type):
        shown = tuple(f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name))
        return short(a, shown), short(b, shown)
    choice = (
        tuple(f.name for f in fields(a) if f.name == "scale") if is_dataclass(a) and not isinstance(a, type) else ()
    )
    return short(a, choice), short(b)
