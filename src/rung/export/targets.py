"""What each target can express of a recipe, part by part, and why not the rest.

A part, and each of its fields, has its row here before it can be exported anywhere: tests/export/test_targets.py holds the two
together, so that a new part or field is looked at for every target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import rung.parts as p
from rung.errors import InputError, unknown
from rung.recipe_io import LABELS, brief
from rung.recipes import Recipe

TARGETS: Mapping[str, str] = {"trl": "1.16", "verl": "0.9.1", "skyrl": "0.3"}  # and the version that was executed
TITLES: Mapping[str, str] = {"trl": "TRL", "verl": "verl", "skyrl": "SkyRL"}

_CRITIC = "it needs a critic, and A depends on how that is learned: {t} has none, or learns its own in another way"
_STEPS = "{t} knows no reasoning steps, and without rewards of steps this is GRPO. Export grpo"
_STATE = "what it remembers from step to step stands in no checkpoint of {t}'s: a resumed run would be another"
_GREEDY = "{t} asks for no greedy answer to a prompt"
_GREEDY_VERL = (
    "only verl's deprecated trainer (trainer.use_v1=False) asks for greedy answers, and for its own estimator alone"
)
_NATURAL = "a natural step solves a linear system with the policy's curvature; {t} takes steps of an optimizer"
_OLD_KL = "a KL to the old policy over the whole vocabulary: {t} keeps one number a token of it"
_FULL_KL = "a KL over the whole vocabulary: {t} keeps one number a token of the reference"
_REF_IN_LOSS = "the reference's log-probabilities do not reach a loss function in {t}, whose own KL losses are others"
_PROMPTS = "which rows answer one prompt does not reach a loss function in {t}"
_SAMPLER = (
    "the weights of verl's rollout_correction are cut at a cap, or dropped token by token; this one drops answers"
)
_LINEAR = "SkyRL multiplies A by the weight w beforehand, and this gain is not linear in A"


def _every(why: str) -> dict[str, str]:
    return {target: why.format(t=TITLES[target]) for target in TARGETS}


def _in(why: str, *targets: str) -> dict[str, str]:
    return {target: why.format(t=TITLES[target]) for target in targets}


@dataclass(frozen=True)
class Row:
    """fields: of the part, all that were looked at.  refused: {target: why} of the part, whatever its fields hold."""

    fields: str
    refused: Mapping[str, str] = field(default_factory=dict)


ROWS: Mapping[type, Row] = {
    # credit
    p.TotalReturn: Row("gamma"),
    p.RewardToGo: Row("gamma discount_state_weight"),
    p.MovingAverage: Row("rate debias", _every(_STATE)),
    p.BatchMean: Row("leave_one_out"),
    p.LeaveOneOut: Row("on_singleton"),
    p.GroupMean: Row("scale bessel eps on_singleton"),
    p.LengthWeighted: Row("on_singleton"),
    p.StepMean: Row("bessel eps", _every(_STEPS)),
    p.Greedy: Row("", {**_in(_GREEDY, "trl", "skyrl"), "verl": _GREEDY_VERL}),
    p.Value: Row("estimator target critic bootstrap_truncated", _every(_CRITIC)),
    p.MC: Row("gamma", _every(_CRITIC)),
    p.TD: Row("gamma", _every(_CRITIC)),
    p.NStep: Row("gamma n", _every(_CRITIC)),
    p.GAE: Row("gamma lam", _every(_CRITIC)),
    p.LengthAdaptiveGAE: Row("gamma alpha", _every(_CRITIC)),
    p.Critic: Row("shared coef learning_rate epochs minibatches clip warmup", _every(_CRITIC)),
    # normalize
    p.AsIs: Row(""),
    p.Whiten: Row("shift bessel eps"),
    # ratio
    p.NoRatio: Row(""),
    p.TokenRatio: Row(""),
    p.SequenceRatio: Row(""),
    p.SequenceProduct: Row(""),
    p.PerDecision: Row(""),
    # correction
    p.NoCorrection: Row(""),
    p.TokenTIS: Row("cap"),
    p.SequenceTIS: Row("cap"),
    p.TokenMask: Row("low high"),
    p.SequenceMask: Row("cap", {"verl": _SAMPLER}),
    p.GeometricMask: Row("low high cap", {"verl": _SAMPLER}),
    p.StaleNegativeMask: Row("delta"),
    # surrogate
    p.ScoreFunction: Row(""),
    p.Importance: Row(""),
    p.Clip: Row("low high dual two_sided"),
    p.CISPO: Row("low high"),
    p.SAPO: Row("positive negative"),
    p.GMPO: Row("width"),
    p.MirrorDescent: Row("tau", {"skyrl": _LINEAR}),
    # kl
    p.NoKL: Row("coef where target horizon"),
    p.K1: Row("coef where target horizon"),
    p.K2: Row("coef where target horizon"),
    p.K3: Row("coef where target horizon"),
    p.RatioK3: Row("coef where target horizon", _in(_REF_IN_LOSS, "verl", "skyrl")),
    p.StraightThrough: Row("coef where target horizon", _in(_REF_IN_LOSS, "skyrl")),
    p.SequenceK2: Row("coef where target horizon", _in(_REF_IN_LOSS, "verl", "skyrl")),
    p.FullKL: Row("coef where target horizon", _every(_FULL_KL)),
    # trust
    p.NoTrust: Row(""),
    p.OldKL: Row("coef target", _every(_OLD_KL)),
    # aggregate
    p.SequenceSum: Row(""),
    p.SequenceMean: Row(""),
    p.TokenMean: Row(""),
    p.FixedBudget: Row("budget"),
    p.PromptMean: Row("", _in(_PROMPTS, "verl")),
    # update
    p.GradientSteps: Row("epochs minibatches target_kl"),
    p.NaturalStep: Row("max_kl damping cg_iterations backtracks shrink curvature_tokens", _every(_NATURAL)),
    # data
    p.Data: Row("resample drop_truncated overlong"),
    p.Overlong: Row("buffer factor"),
}
PLAIN = ("entropy", "imitation")  # fields of a recipe that are numbers


@dataclass(frozen=True)
class Rule:
    """A field, or several together, that a target cannot express at every value."""

    field: str
    broken: Callable[[Recipe], bool]
    refused: Mapping[str, str]


def _kl_in_loss(r: Recipe) -> bool:
    return bool(r.kl.coef) and r.kl.where == "loss"


RULES: tuple[Rule, ...] = (
    Rule("kl.target", lambda r: r.kl.target is not None, _every("beta would be adapted from step to step. " + _STATE)),
    Rule(
        "kl",
        lambda r: _kl_in_loss(r) and not isinstance(r.aggregate, p.SequenceMean),
        _in("{t} averages its KL over an answer's tokens, then over answers, as SequenceMean does and nothing else", "skyrl"),
    ),
    Rule(
        "correction.low", lambda r: isinstance(r.correction, p.TokenMask) and r.correction.low <= 0,
        _in("{t}'s lower bound of a token's weight must be above 0", "verl"),
    ),
    Rule(
        "update.target_kl", lambda r: getattr(r.update, "target_kl", None) is not None,
        _every("{t} makes all its passes, however far the policy has moved"),
    ),
    Rule(
        "data.resample", lambda r: r.data.resample > 0,
        _every("{t} does not draw new problems for those without signal in this way (as often, the rest kept)"),
    ),
    Rule(
        "data.drop_truncated", lambda r: r.data.drop_truncated,
        _in("whether an answer was cut does not reach an estimator or loss in {t}", "verl", "skyrl"),
    ),
    Rule(
        "data.overlong", lambda r: r.data.overlong is not None,
        _in("a penalty for length belongs to your reward function in {t}", "verl", "skyrl"),
    ),
    Rule(
        "imitation", lambda r: r.imitation != 0,
        _in("which answers are right does not reach a loss function in {t}", "verl", "skyrl"),
    ),
    Rule(
        "entropy", lambda r: r.entropy != 0,
        _in("{t} averages the entropy over the tokens of each micro-batch, whatever the policy's weights", "skyrl"),
    ),
)  # fmt: skip


def target_of(name: str) -> str:
    """The target by its name; refuses another."""
    if name.lower() not in TARGETS:
        raise unknown("target", name, TARGETS)
    return name.lower()


def refusals(recipe: Recipe, target: str) -> dict[str, str]:
    """{field: why the target cannot express what the recipe has there}; empty: it can."""
    found: dict[str, str] = {}
    for name, part in ((f.name, getattr(recipe, f.name)) for f in fields(recipe) if f.name not in (*LABELS, *PLAIN)):
        row = ROWS.get(type(part))
        if row is None:
            found[name] = "the part is not rung's own, so that nobody has looked at it. Use a part of rung.parts"
        elif target in row.refused and not _absent(part):
            found[name] = row.refused[target]
    for rule in RULES:
        if target in rule.refused and rule.broken(recipe):
            found.setdefault(rule.field, rule.refused[target])
    return found


def _absent(part: Any) -> bool:
    """A KL of coefficient 0 acts nowhere."""
    return isinstance(part, p.ReferenceKL) and not part.coef


def refuse(recipe: Recipe, target: str) -> None:
    """InputError with every reason why the target cannot express the recipe."""
    found = refusals(recipe, target)
    if found:
        lines = "".join(f"\n  {name}={_value(recipe, name)}: {why}." for name, why in found.items())
        raise InputError(
            f"recipe {recipe.name!r} cannot run in {TITLES[target]} {TARGETS[target]}, and nothing is approximated.{lines}\n"
            "Change these with --recipe.FIELD VALUE, or train it here: rung train."
        )


def _value(recipe: Recipe, name: str) -> str:
    first, _, inner = name.partition(".")
    part = getattr(recipe, first)
    return brief(getattr(part, inner) if inner else part)
