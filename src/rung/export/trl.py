"""A recipe for TRL 1.16: settings where its own code computes it, else a subclass of its GRPOTrainer.

TRL's own code stands in trl/trainer/grpo_trainer.py (advantages: `_generate_and_score_completions`; loss: `_compute_loss`) and
rloo_trainer.py. With one update on a batch every ratio is 1, so that any surrogate there has the gradient of the score function.
"""

from __future__ import annotations

from typing import Any

import rung.parts as p
from rung.export.made import Export, header, literal
from rung.export.targets import refuse
from rung.recipes import Recipe

EPS = 1e-4  # beside the std, which TRL takes over n - 1
OWN = {"TokenRatio": "token", "NoRatio": "token", "SequenceRatio": "sequence"}
LOSSES = {"SequenceMean": "grpo", "TokenMean": "dapo", "FixedBudget": "dr_grpo", "SequenceSum": "luspo"}


def to_trl(recipe: Recipe) -> Export:
    """The recipe for TRL. InputError with every reason why it cannot run there."""
    refuse(recipe, "trl")
    for trainer, own in (("RLOOTrainer", _rloo(recipe)), ("GRPOTrainer", _grpo(recipe))):
        if own is not None:
            return Export(recipe, "trl", trainer, {**own, **_updates(recipe)}, notes=_notes(recipe, own))
    settings: dict[str, Any] = {"beta": recipe.kl.coef, **_updates(recipe)}
    return Export(recipe, "trl", "RecipeTrainer", settings, _module(recipe, settings), _notes(recipe, None))


def _updates(r: Recipe) -> dict[str, Any]:
    assert isinstance(r.update, p.GradientSteps), "refuse() lets no other rule pass"
    return {
        "num_iterations": r.update.epochs,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": r.update.minibatches,
        "disable_dropout": True,  # a ratio must not depend on a draw
    }


# -- TRL's own code ---------------------------------------------------------------------------------------------------
def _plain(r: Recipe) -> bool:
    """Nothing that TRL's own code has not."""
    return (
        isinstance(r.normalize, p.AsIs) and not r.entropy and not r.imitation and r.data.overlong is None
    )  # fmt: skip


def _rloo(r: Recipe) -> dict[str, Any] | None:
    """L = -(1/B) sum_b min(rho_b A_b, clip(rho_b) A_b), rho_b of the whole answer, A_b = R_b - beta KL_b - mean of the others'."""
    fits = (
        _plain(r)
        and isinstance(r.credit, p.LeaveOneOut)
        and isinstance(r.correction, p.NoCorrection)
        and isinstance(r.aggregate, p.SequenceSum)
        and (not r.kl.coef or (isinstance(r.kl, p.K1) and not r.data.drop_truncated))  # a masked answer has no KL there
    )
    clip = _clip(r, p.SequenceProduct)
    if not fits or clip is None or "delta" in clip:
        return None
    return {
        "beta": r.kl.coef, "normalize_advantages": False, **clip, "mask_truncated_completions": r.data.drop_truncated,
    }  # fmt: skip


def _grpo(r: Recipe) -> dict[str, Any] | None:
    credit, kl, loss = _scale(r), _kl(r), _loss(r)
    if not _plain(r) or credit is None or kl is None or loss is None:
        return None
    if r.data.drop_truncated and isinstance(r.aggregate, p.TokenMean):  # TRL's number of tokens would be without theirs
        return None
    stale = r.correction.delta if isinstance(r.correction, p.StaleNegativeMask) else None
    if stale is None and not isinstance(r.correction, p.NoCorrection):
        return None
    return {
        **loss, **credit, **kl, "mask_truncated_completions": r.data.drop_truncated,
        **({} if stale is None else {"off_policy_mask_threshold": stale}),
    }  # fmt: skip


def _scale(r: Recipe) -> dict[str, Any] | None:
    c = r.credit
    if not isinstance(c, p.GroupMean) or c.scale == "mean":
        return None
    return {"scale_rewards": c.scale} if c.scale == "none" or (c.bessel and c.eps == EPS) else None


def _kl(r: Recipe) -> dict[str, Any] | None:
    """TRL's KL is k3, or k3 times the ratio that the policy's own term has."""
    if not r.kl.coef:
        return {"beta": 0.0, "use_bias_correction_kl": False}
    tokens = not isinstance(r.ratio, p.SequenceRatio)
    if r.kl.where == "reward" or not (isinstance(r.kl, p.K3) or (isinstance(r.kl, p.RatioK3) and tokens)):
        return None
    return {"beta": r.kl.coef, "use_bias_correction_kl": isinstance(r.kl, p.RatioK3)}


def _loss(r: Recipe) -> dict[str, Any] | None:
    """Loss type, clip and ratio; None: no loss of TRL's is this one."""
    level, aggregate = OWN.get(type(r.ratio).__name__), type(r.aggregate).__name__
    if level is None or aggregate not in LOSSES or getattr(r.aggregate, "budget", None):
        return None
    if isinstance(r.aggregate, p.TokenMean) and r.update.cost().minibatches > 1:
        return None  # TRL divides by the mean number of tokens of a generation's updates, not by each update's own
    both = {"importance_sampling_level": level}
    if isinstance(r.surrogate, p.CISPO):
        fits = isinstance(r.aggregate, p.TokenMean) and r.surrogate.low == 0
        return {"loss_type": "cispo", "epsilon_high": r.surrogate.high, **both} if fits else None
    if isinstance(r.surrogate, p.SAPO):
        tau = {"sapo_temperature_pos": r.surrogate.positive, "sapo_temperature_neg": r.surrogate.negative}
        return {"loss_type": "sapo", **tau, **both} if isinstance(r.aggregate, p.SequenceMean) else None
    clip = _clip(r, p.TokenRatio, p.SequenceRatio)
    return None if clip is None else {"loss_type": LOSSES[aggregate], **clip, **both}


def _clip(r: Recipe, *ratios: type) -> dict[str, Any] | None:
    """TRL's clip; around a score function, which has one update on a batch and so no ratio but 1, it never acts."""
    if isinstance(r.surrogate, p.ScoreFunction) and not r.update.reuses_batch:
        return {"epsilon": 0.2}
    s = r.surrogate
    if not isinstance(s, p.Clip) or not isinstance(r.ratio, ratios) or s.dual is not None:
        return None
    two_sided = {} if s.two_sided is None else {"delta": s.two_sided}
    return {"epsilon": s.low, "epsilon_high": s.high, **two_sided}


# -- the subclass -----------------------------------------------------------------------------------------------------
def _module(r: Recipe, settings: dict[str, Any]) -> str:
    given = "".join(f"    {name!r}: {value!r},\n" for name, value in settings.items())
    return (
        header(r, "trl", "a GRPOTrainer whose advantages and loss are this recipe's.")
        + f"""
from trl import GRPOConfig, GRPOTrainer

from rung.export.inside.trl import RecipeTrainer
from rung.recipe_io import from_dict

RECIPE = {literal(r)}
SETTINGS = {{
{given}}}


def config(**arguments):
    \"\"\"A GRPOConfig with what the recipe needs; loss_type, scale_rewards and epsilon are not read.\"\"\"
    return GRPOConfig(**{{**SETTINGS, **arguments}})


class Trainer(RecipeTrainer, GRPOTrainer):
    recipe = RECIPE
"""
    )


# -- what is said -----------------------------------------------------------------------------------------------------
def _notes(r: Recipe, own: dict[str, Any] | None) -> tuple[str, ...]:
    said = [
        "gradient_accumulation_steps may be larger; multiply steps_per_generation by it, too",
        "TRL cuts a generation into minibatches of answers, rung into whole prompts"
        if r.update.cost().minibatches > 1
        else "",
        "TRL's optimizer moves by its momentum in a step without any signal, where rung makes none",
    ]
    if own is not None:
        said += [
            "TRL takes rewards in float32: equal ones such as 0.1, which it cannot hold, leave advantages of up to 6e-4"
            if own.get("scale_rewards", "none") != "none" else "",
            "rung cuts log-ratios at +-20 before any exp, TRL does not",
            "an answer that no reward function could score keeps its KL" if r.kl.coef else "",
            "the gradient is the recipe's, the loss that is logged has another value: TRL's is a ratio's, an answer's or a token's"
            if isinstance(r.surrogate, p.ScoreFunction) or isinstance(r.ratio, p.SequenceProduct) else "",
        ]  # fmt: skip
    if isinstance(r.credit, p.RewardToGo | p.TotalReturn):
        said.append("a reward function gives one number for an answer there, which its last token is paid")
    return tuple(filter(None, said))
