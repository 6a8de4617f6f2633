"""Which parts do not fit together, and why. Each rule is a condition on a recipe and the sentence that explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import rung.parts as p
from rung.errors import InputError, Refusals, setting, unknown
from rung.settings.ranges import refuse_name

if TYPE_CHECKING:
    from rung.recipes import Recipe

Rule = tuple[Callable[["Recipe"], bool], str]


NEEDS: Mapping[str, str] = {  # what a part may ask for; training/needs.py says what prepares each
    "groups": "several answers to each prompt (group_B)",
    "greedy": "the reward of the greedy answer to each prompt (greedy_B)",
    "steps": "rewards of reasoning steps, where the task has them (step_end_BT)",
    "old_logp": "the trainer's own log-probabilities at rollout time (old_logp_BT)",
    "ref_logp": "the reference policy's log-probabilities (ref_logp_BT)",
    "values": "V before each token, from a learned critic (value_BT)",
    "bootstrap": "V after the last token of truncated answers (bootstrap_B)",
    "ref_full": "KL(pi || pi_ref) over the full vocabulary (ref_kl_BT)",
    "old_full": "KL(pi_old || pi) over the full vocabulary (old_kl_BT)",
}


def needs_of(part: Any) -> frozenset[str]:
    """What a part asks for; most ask for nothing."""
    return frozenset(getattr(part, "needs", ()))


def _group_scaled(r: Recipe) -> bool:
    return isinstance(r.credit, p.StepMean) or (
        isinstance(r.credit, p.GroupMean) and r.credit.scale in ("group", "mean")
    )


def _neutral(c: p.Correction) -> bool:
    """Whether the weight is 1 where the sampler's numbers are the trainer's, and the policy has not moved."""
    return (
        getattr(c, "cap", 1.0) >= 1
        and getattr(c, "low", 1.0) <= 1 <= getattr(c, "high", 1.0)
        and getattr(c, "delta", 0.0) >= 0
    )


RULES: tuple[Rule, ...] = (
    (
        lambda r: (
            isinstance(r.ratio, p.NoRatio) and r.update.reuses_batch and not isinstance(r.surrogate, p.MirrorDescent)
        ),
        "NoRatio with several updates on one batch: after the first update the batch belongs to another policy, and "
        "nothing corrects for that. Use ratio=TokenRatio() with surrogate=Clip() or Importance(), or one update.",
    ),
    (
        lambda r: isinstance(r.ratio, p.NoRatio) and not isinstance(r.surrogate, p.ScoreFunction | p.MirrorDescent),
        "this surrogate weighs tokens by an importance ratio, but ratio=NoRatio(). Use ratio=TokenRatio().",
    ),
    (
        lambda r: isinstance(r.surrogate, p.ScoreFunction) and not isinstance(r.ratio, p.NoRatio),
        "ScoreFunction does not read a ratio, so this ratio would be ignored. Use ratio=NoRatio(), or surrogate=Importance().",
    ),
    (
        lambda r: isinstance(r.surrogate, p.MirrorDescent) and not isinstance(r.ratio, p.NoRatio),
        "MirrorDescent takes the squared log-ratio instead of an importance ratio. Use ratio=NoRatio().",
    ),
    (
        lambda r: r.kl.where == "reward" and r.kl.coef != 0 and _group_scaled(r),
        "a KL in the reward together with division by the group's std or mean: its weight becomes beta/std, another one "
        "for each prompt. Put the KL into the loss (kl=K3()), or use GroupMean(scale='none') or LeaveOneOut().",
    ),
    (
        lambda r: isinstance(r.kl, p.K1) and r.kl.where == "loss" and r.kl.coef != 0,
        "K1 in the loss: its expected gradient is zero, so it adds noise and no leash. Use K1(where='reward'), or K2 or K3.",
    ),
    (
        lambda r: isinstance(r.kl, p.RatioK3 | p.FullKL | p.SequenceK2 | p.StraightThrough) and r.kl.where == "reward",
        "this KL acts through its gradient, which a reward does not carry. Use where='loss', or K1 in the reward.",
    ),
    (
        lambda r: isinstance(r.kl, p.NoKL) and r.kl.coef != 0,
        "a KL coefficient without a KL part: there is no reference policy to hold on to. Use kl=K1(), K2() or K3().",
    ),
    (
        lambda r: (
            isinstance(r.normalize, p.Whiten)
            and r.normalize.shift
            and "groups" in r.credit.needs
            and r.data.resample > 0
        ),
        "whitening after a group baseline gives zero-variance groups a non-zero advantage, while dynamic sampling "
        "throws those prompts out. Use Whiten(shift=False), or data without resampling.",
    ),
    (
        lambda r: isinstance(r.surrogate, p.CISPO) and r.surrogate.high < 1,
        "CISPO(high) is an absolute cap on the ratio, which is 1 on policy: below 1 it scales every token down. Use high >= 1.",
    ),
    (
        lambda r: not _neutral(r.correction),
        "this correction has another weight than 1 where sampler and trainer agree: it would scale down or drop every token "
        "(a negative delta: every bad one). Use cap >= 1, low <= 1 <= high, delta >= 0.",
    ),
    (
        lambda r: isinstance(r.update, p.NaturalStep) and not isinstance(r.surrogate, p.Importance),
        "NaturalStep searches along the surrogate rho A under a KL bound; a clip or a score function is not that surrogate. "
        "Use surrogate=Importance() with ratio=TokenRatio().",
    ),
    (
        lambda r: isinstance(r.update, p.NaturalStep) and not isinstance(r.ratio, p.TokenRatio),
        "NaturalStep searches along the value of the surrogate, and only with token ratios is its gradient that of its "
        "value. Use ratio=TokenRatio().",
    ),
    (
        lambda r: isinstance(r.update, p.NaturalStep) and (r.trust.coef != 0 or r.imitation != 0),
        "NaturalStep bounds the KL to the old policy itself and takes no other term. Use trust=NoTrust() and imitation=0.",
    ),
    (
        lambda r: isinstance(r.update, p.NaturalStep) and isinstance(r.credit, p.Value) and r.credit.critic.shared,
        "NaturalStep moves the policy along its own gradient only, so the value loss of a critic on a shared trunk would "
        "never reach it. Use Critic(shared=False).",
    ),
    (
        lambda r: bool(r.needs & {"values", "bootstrap"}) and r.credit.learns() is None,
        "a part needs a learned value, but the critic that learns it belongs to credit=Value(...). Derive the part from Value.",
    ),
    (
        lambda r: (
            isinstance(r.credit, p.Value)
            and r.credit.target is not None
            and r.credit.target.gamma != r.credit.estimator.gamma
        ),
        "the critic would learn the return at another discount than the advantages are taken at: its error would be a bias "
        "that no training removes. Give credit.estimator and credit.target the same gamma.",
    ),
    (
        lambda r: isinstance(r.credit, p.Value) and r.data.resample > 0,
        "dynamic sampling throws out the prompts whose answers all earn the same, but the critic has to learn from them. "
        "Use data without resampling.",
    ),
)


def refuse_contradictions(recipe: Recipe) -> None:
    """Refuse a recipe whose parts contradict each other. InputError with the reason and what to use instead."""
    refuse_name(recipe.name, "Recipe.name")
    for part in (getattr(recipe, f.name) for f in fields(recipe)):
        for need in sorted(needs_of(part) - NEEDS.keys()):
            raise unknown(f"need of the part {type(part).__name__}:", need, NEEDS, more=" Nothing prepares another.")
    for broken, reason in RULES:
        if broken(recipe):
            raise InputError(f"recipe {recipe.name!r}: {reason}")


def refuse_sampling(
    recipe: Recipe, *, samples_per_prompt: int, rows: int, temperature: float, is_full: bool, max_new_tokens: int
) -> None:
    """Refuse a recipe that the way of sampling contradicts, in all that it does: the rules that need more than the recipe."""
    found = _contradictions(recipe, samples_per_prompt, rows, temperature, is_full, max_new_tokens)
    Refusals(found).refuse(f"recipe {recipe.name!r}")


def _contradictions(
    recipe: Recipe, samples_per_prompt: int, rows: int, temperature: float, is_full: bool, max_new_tokens: int
) -> Iterator[str]:
    name = f"recipe {recipe.name!r}"
    if "groups" in recipe.needs and samples_per_prompt < 2:
        yield (
            f"{name} compares the answers to one prompt, but with {setting('samples_per_prompt', samples_per_prompt)} a group of "
            f"one has nothing to compare with. Use {setting('samples_per_prompt', 2)} or more, or a recipe without groups "
            "(reward_to_go)."
        )
    if temperature <= 0:
        yield (
            f"{setting('temperature', temperature)}: greedy answers are all the same, and no gradient comes from them. Use "
            f"{setting('temperature', 1)}."
        )
    if not is_full:
        yield (
            "top-p or top-k cut the distribution that is sampled, but the training log-probabilities are of the full "
            f"vocabulary: the gradient would be biased. Use {setting('top_p', 1)} and {setting('top_k', 0)} (evaluation "
            "may use both)."
        )
    if isinstance(recipe.aggregate, p.FixedBudget) and (recipe.aggregate.budget or max_new_tokens) < max_new_tokens:
        yield (
            f"{name}: FixedBudget(budget={recipe.aggregate.budget}) is smaller than {setting('max_new_tokens', max_new_tokens)}, "
            "so an answer could weigh more than the budget allows. Use a budget of at least as many tokens, or None."
        )
    prompts, minibatches = rows // samples_per_prompt, recipe.update.cost().minibatches
    if prompts < minibatches:
        yield (
            f"{name} makes {minibatches} minibatches of whole prompts, but a step has {prompts}. Use "
            f"{setting('prompts_per_step', minibatches)} or more, or "
            f"{setting('recipe.update.minibatches', prompts)} or fewer."
        )
    critic = recipe.credit.learns()
    if critic is not None and not critic.shared and rows < critic.minibatches:
        yield (
            f"{name}: the critic learns in {critic.minibatches} minibatches, but a step has {rows} answers. Use more answers, or "
            f"{setting('recipe.credit.critic.minibatches', rows)} or fewer."
        )
    if isinstance(recipe.normalize, p.Whiten) and rows < 2:
        yield f"{name} whitens advantages over the batch, but the batch has one answer. Use more samples."
