"""A recipe for verl 0.9.1: settings where its own code computes it, else a module that registers estimator and loss.

verl's own code stands in verl/trainer/ppo/core_algos.py; its KL and entropy terms, and what a mini-batch is divided by, in
verl/workers/utils/losses.py.
"""

from __future__ import annotations

from typing import Any

import rung.parts as p
from rung.export.made import Export, header, literal, times
from rung.export.targets import refuse
from rung.recipes import Recipe

ACTOR, ALGORITHM = "actor_rollout_ref.actor", "algorithm"
MODES = {
    "TokenMean": "token-mean", "SequenceMean": "seq-mean-token-mean", "SequenceSum": "seq-mean-token-sum",
    "FixedBudget": "seq-mean-token-sum-norm",
}  # fmt: skip
KINDS = {"K1": "k1", "K2": "k2", "K3": "k3", "StraightThrough": "k3+"}
EPS = 1e-6  # beside the std of a group
HEAD = """\
hydra:
  searchpath: [pkg://verl.trainer.config]
defaults:
  - ppo_trainer
  - _self_
"""
BATCH = 256  # prompts of a mini-batch where nothing else is set


def to_verl(recipe: Recipe) -> Export:
    """The recipe for verl. InputError with every reason why it cannot run there."""
    refuse(recipe, "verl")
    algorithm, actor = _algorithm(recipe), _actor(recipe)
    credit, loss = _own_credit(recipe), _own_loss(recipe)
    own = credit is not None and loss is not None
    name = f"rung_{recipe.name}"
    algorithm = {**(credit if own and credit else {"adv_estimator": name}), **algorithm}
    actor = {**(loss if own and loss else {"policy_loss.loss_mode": name}), **actor}
    settings = {f"{ALGORITHM}.{k}": v for k, v in algorithm.items()} | {f"{ACTOR}.{k}": v for k, v in actor.items()}
    module = "" if own else _module(recipe, name)
    notes = _notes(recipe, own, name)
    return Export(recipe, "verl", "verl.trainer.main_ppo", {**settings, **_beside(recipe)}, module, notes, HEAD)


def _algorithm(r: Recipe) -> dict[str, Any]:
    inside = bool(r.kl.coef) and r.kl.where == "reward"
    kl = (
        {"kl_penalty": KINDS[type(r.kl).__name__], "kl_ctrl.type": "fixed", "kl_ctrl.kl_coef": r.kl.coef}
        if inside
        else {}
    )
    return {"use_kl_in_reward": inside, **kl}


def _actor(r: Recipe) -> dict[str, Any]:
    outside = bool(r.kl.coef) and r.kl.where == "loss"
    kl = {"kl_loss_type": KINDS[type(r.kl).__name__], "kl_loss_coef": r.kl.coef} if outside else {}
    return {
        "loss_agg_mode": MODES[type(r.aggregate).__name__], "use_kl_loss": outside, **kl, "entropy_coeff": r.entropy,
        "ppo_epochs": r.update.cost().passes,
    }  # fmt: skip


def _beside(r: Recipe) -> dict[str, Any]:
    """What is checked by nobody: the size of a mini-batch, the constant of a fixed budget, the sampler's weights."""
    out: dict[str, Any] = {}
    if isinstance(r.aggregate, p.FixedBudget):
        out[f"{ACTOR}.loss_scale_factor"] = r.aggregate.budget or "${data.max_response_length}"
    out |= {"data.train_batch_size": BATCH * r.update.cost().minibatches, f"{ACTOR}.ppo_mini_batch_size": BATCH}
    c, sampler = r.correction, f"{ALGORITHM}.rollout_correction"
    if isinstance(c, p.TokenTIS | p.SequenceTIS):
        kind = "token" if isinstance(c, p.TokenTIS) else "sequence"
        out |= {f"{sampler}.rollout_is": kind, f"{sampler}.rollout_is_threshold": c.cap}
    if isinstance(c, p.TokenMask):
        out |= {f"{sampler}.rollout_is": "token", f"{sampler}.rollout_is_threshold": f"{c.low}_{c.high}"}
    if f"{sampler}.rollout_is" in out:
        out["actor_rollout_ref.rollout.calculate_log_probs"] = True
    return out


# -- verl's own code --------------------------------------------------------------------------------------------------
def _own_credit(r: Recipe) -> dict[str, Any] | None:
    """The estimator of verl's that computes credit and normalization, None if none does."""
    c, plain = r.credit, isinstance(r.normalize, p.AsIs)
    white = isinstance(r.normalize, p.Whiten) and r.normalize == p.Whiten()
    if isinstance(c, p.GroupMean) and plain and c.scale == "none":
        return {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": False}
    if isinstance(c, p.GroupMean) and plain and c.scale == "group" and c.bessel and c.eps == EPS:
        return {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": True}
    if isinstance(c, p.GroupMean) and white and c.scale == "none":
        return {"adv_estimator": "reinforce_plus_plus_baseline"}
    if isinstance(c, p.RewardToGo) and white and not c.discount_state_weight:
        return {"adv_estimator": "reinforce_plus_plus", "gamma": c.gamma}
    if isinstance(c, p.LeaveOneOut) and plain:
        return {"adv_estimator": "rloo"}
    return {"adv_estimator": "opo"} if isinstance(c, p.LengthWeighted) and plain else None


def _own_loss(r: Recipe) -> dict[str, Any] | None:
    """The policy loss of verl's with its settings, None if none computes the recipe's."""
    s, token = r.surrogate, isinstance(r.ratio, p.TokenRatio)
    if isinstance(r.correction, p.StaleNegativeMask) or r.imitation:
        return None
    if isinstance(s, p.ScoreFunction):
        return {"policy_loss.loss_mode": "gpg"}
    if isinstance(s, p.Clip) and s.two_sided is None:
        clip = {"clip_ratio_low": s.low, "clip_ratio_high": s.high}
        if token and s.dual is not None:
            return {"policy_loss.loss_mode": "vanilla", **clip, "clip_ratio_c": s.dual}
        if isinstance(r.ratio, p.SequenceRatio) and s.dual is None:
            return {"policy_loss.loss_mode": "gspo", **clip}
    if isinstance(s, p.CISPO) and token:
        return {"policy_loss.loss_mode": "cispo", "clip_ratio_low": 1 - s.low, "clip_ratio_high": s.high - 1}
    if isinstance(s, p.SAPO) and token and isinstance(r.aggregate, p.SequenceMean):
        return {"policy_loss.loss_mode": "sapo", "tau_pos": s.positive, "tau_neg": s.negative}
    return None


# -- the module -------------------------------------------------------------------------------------------------------
def _module(r: Recipe, name: str) -> str:
    return (
        header(r, "verl", "an advantage estimator and a policy loss of that name.")
        + f"""
from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss

from rung.export.inside.verl import advantage_estimator, policy_loss
from rung.recipe_io import from_dict

NAME = {name!r}
RECIPE = {literal(r)}
ALGORITHM = {_algorithm(r)!r}
ACTOR = {_actor(r)!r}

register_adv_est(NAME)(advantage_estimator(RECIPE, ALGORITHM))
register_policy_loss(NAME)(policy_loss(RECIPE, ACTOR))
"""
    )


def _notes(r: Recipe, own: bool, name: str) -> tuple[str, ...]:
    run = f"python -m verl.trainer.main_ppo --config-path $PWD --config-name {name} data.train_files=..."
    found = f"VERL_USE_EXTERNAL_MODULES={name} PYTHONPATH=$PWD {run}" if not own else run
    entry = f'or, of a package: [project.entry-points."verl.plugins"] {name} = "{name}"' if not own else ""
    inside = isinstance(r.kl, p.K3 | p.StraightThrough) and bool(r.kl.coef)
    return tuple(filter(None, (
        f"run it with: {found}",
        entry,
        f"data.train_batch_size is {times(r)} {ACTOR}.ppo_mini_batch_size; keep that if you change one",
        "verl cuts a token's k3 at 10 (where pi is 13 times less than pi_ref), rung the log-ratio at +-20" if inside else "",
        "where all answers of a batch earn the same, rung learns nothing, and verl whitens what the KL left in the rewards"
        if isinstance(r.normalize, p.Whiten) and r.kl.coef and r.kl.where == "reward" else "",
        "verl's std of equal rewards is what float32 leaves of it, a group of one keeps its reward: sample several answers"
        if own and "groups" in r.credit.needs else "",
        "a token of probability 0 under the old policy: verl cuts the ratio of an answer at exp(10)"
        if own and isinstance(r.ratio, p.SequenceRatio) else "",
    )))  # fmt: skip
