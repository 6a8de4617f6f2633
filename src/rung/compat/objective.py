"""What the arguments of TRL's losses become as parts of a recipe, and where TRL computes something else by the same words."""

from __future__ import annotations

from typing import Any

LOSSES = {  # of loss_type: the aggregate; cispo and sapo bring a surrogate of their own
    "grpo": "SequenceMean", "bnpo": "TokenMean", "dapo": "TokenMean", "dr_grpo": "FixedBudget", "luspo": "SequenceSum",
    "cispo": "TokenMean", "sapo": "SequenceMean",
}  # fmt: skip
SCALES = {"group": "group", "batch": "batch", "none": "none", True: "group", False: "none"}
RATIOS = {"token": "TokenRatio", "sequence": "SequenceRatio"}
CHOICES = (("loss_type", LOSSES), ("scale_rewards", SCALES), ("importance_sampling_level", RATIOS))


def grpo(config: Any) -> dict[str, Any]:
    """Changes to the recipe grpo that make it the loss of a GRPOConfig."""
    stale = config.off_policy_mask_threshold
    return {
        "aggregate": LOSSES[config.loss_type],
        "credit.scale": SCALES[config.scale_rewards],
        "ratio": RATIOS[config.importance_sampling_level],
        "kl": ("RatioK3" if config.use_bias_correction_kl else "K3") if config.beta else "NoKL",
        **({"kl.coef": config.beta} if config.beta else {}),
        **({} if stale is None else {"correction": "StaleNegativeMask", "correction.delta": stale}),
        **_surrogate(config),
        **_updates(config),
    }


def rloo(config: Any) -> dict[str, Any]:
    """Changes to the recipe rloo that make it the loss of an RLOOConfig."""
    return {
        "ratio": "SequenceProduct",
        "surrogate": "Clip",
        "kl": "K1" if config.beta else "NoKL",
        **({"kl.coef": config.beta} if config.beta else {}),
        "surrogate.low": config.epsilon,
        "surrogate.high": _high(config),
        **_updates(config),
    }


def _surrogate(config: Any) -> dict[str, Any]:
    if config.loss_type == "cispo":
        return {"surrogate": "CISPO", "surrogate.high": _high(config)}
    if config.loss_type == "sapo":
        tau = {"positive": config.sapo_temperature_pos, "negative": config.sapo_temperature_neg}
        return {"surrogate": "SAPO", **{f"surrogate.{name}": value for name, value in tau.items()}}
    two_sided = {} if config.delta is None else {"surrogate.two_sided": config.delta}
    return {"surrogate.low": config.epsilon, "surrogate.high": _high(config), **two_sided}


def _high(config: Any) -> Any:
    return config.epsilon if config.epsilon_high is None else config.epsilon_high


def _updates(config: Any) -> dict[str, Any]:
    return {
        "update.epochs": config.num_iterations,
        "update.minibatches": config.minibatches,
        "data.drop_truncated": config.mask_truncated_completions,
    }


# -- where the words and the mathematics part ---------------------------------------------------------------------------
def misfits(config: Any) -> list[str]:
    """A sentence for each value of a GRPOConfig's loss that no parts stand for."""
    if "loss_type" in config.ABSENT:
        return []
    found = []
    if config.loss_type == "cispo" and isinstance(_high(config), int | float) and _high(config) < 1:
        found.append(
            f"loss_type='cispo' with epsilon_high={_high(config)!r}: there it is the cap on the ratio itself, which is 1 on "
            "policy, so that every token's gradient would be scaled down to it. Give epsilon_high=5.0, say."
        )
    if config.importance_sampling_level == "sequence" and config.beta and config.use_bias_correction_kl:
        found.append(
            "importance_sampling_level='sequence' with beta and use_bias_correction_kl=True: TRL multiplies each token's KL "
            "by the whole answer's ratio, rung by the token's own. Give use_bias_correction_kl=False."
        )
    return found


def differences(config: Any) -> list[str]:
    """A sentence for each place where TRL, as it is configured, divides by other numbers than the recipe."""
    if "loss_type" in config.ABSENT:
        return []
    found, loss = [], config.loss_type
    if loss == "bnpo" and config.gradient_accumulation_steps > 1:
        found.append(
            f"loss_type='bnpo': TRL averages over the tokens of each of the {config.gradient_accumulation_steps} micro-batches "
            "by itself, so that its gradient depends on how the batch is cut; rung averages over those of the step"
        )
    if LOSSES[loss] == "TokenMean" and loss != "bnpo" and config.minibatches > 1:
        found.append(
            f"loss_type={loss!r} with {config.minibatches} updates of a generation: TRL divides each by the mean number of "
            "tokens of an update, rung by its own"
        )
    if config.mask_truncated_completions and LOSSES[loss] == "TokenMean":
        found.append(
            f"mask_truncated_completions=True with loss_type={loss!r}: TRL does not count the tokens of the answers that it "
            "drops, so that the others weigh more; rung counts them"
        )
    if config.delta is not None and loss in ("cispo", "sapo"):
        found.append(f"delta={config.delta!r}: loss_type={loss!r} does not read it")
    return found
