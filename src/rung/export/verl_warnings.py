"""Where the names of verl's configuration and its mathematics part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.export.verl_names import ACTOR, ROLLOUT


def warnings(c: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """A sentence for each. c: all values that are read.  given: those of the file."""
    return [*_of_advantages(c, given), *_of_loss(c, given), *_of_average(c), *_of_kl(c)]


def _of_advantages(c: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    name = c["algorithm.adv_estimator"]
    found = []
    if name == "gae":
        found.append(
            "adv_estimator='gae' (verl's default) is PPO: a critic is learned, by verl in another way than by rung"
        )
    if name == "grpo" and c[f"{ACTOR}.loss_agg_mode"] != "seq-mean-token-mean":
        found.append(
            f"adv_estimator='grpo' with loss_agg_mode={c[f'{ACTOR}.loss_agg_mode']!r} (verl's default is 'token-mean'): GRPO's "
            "paper averages over each answer first, 'seq-mean-token-mean'"
        )
    if (
        name == "grpo"
        and not c["algorithm.norm_adv_by_std_in_grpo"]
        and c[f"{ACTOR}.loss_agg_mode"] != "seq-mean-token-sum-norm"
    ):
        found.append(
            "norm_adv_by_std_in_grpo=False drops the std alone; Dr. GRPO has loss_agg_mode='seq-mean-token-sum-norm', too"
        )
    if name in ("grpo", "rloo", "opo", "reinforce_plus_plus_baseline") and f"{ROLLOUT}.n" not in given:
        found.append(
            f"adv_estimator={name!r} without rollout.n: verl's own is 1, a group of one, which has no baseline there: A is the "
            "reward itself. Read as groups; how many answers a prompt has is left to rung (--samples-per-prompt)"
        )
    if name == "grpo" and c["algorithm.norm_adv_by_std_in_grpo"]:
        found.append(
            "the std of a group has 1e-6 beside it, so that float residue of equal rewards counts for up to .06"
        )
    return found


def _of_loss(c: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    name, found = c[f"{ACTOR}.policy_loss.loss_mode"], []
    if name == "vanilla":
        found.append(
            f"loss_mode='vanilla' is PPO's clip with a second bound for bad tokens, the dual clip at {c[f'{ACTOR}.clip_ratio_c']}"
        )
    both = [c[f"{ACTOR}.clip_ratio_{end}"] for end in ("low", "high")]
    if f"{ACTOR}.clip_ratio" in given and any(end is not None and end != c[f"{ACTOR}.clip_ratio"] for end in both):
        found.append(
            f"clip_ratio={c[f'{ACTOR}.clip_ratio']} is not read: clip_ratio_low and clip_ratio_high are {both[0]} and {both[1]}, "
            "and it stands only for one that is null"
        )
    if name == "geo_mean":
        found.append(
            "loss_mode='geo_mean' takes the mean of each micro-batch and no account of how many there are: its gradient grows "
            "with their number, unlike that of the KL and entropy beside it"
        )
    if name in ("sapo", "geo_mean") and c[f"{ACTOR}.loss_agg_mode"] != "seq-mean-token-mean":
        found.append(f"loss_mode={name!r} averages over each answer first, whatever loss_agg_mode says")
    if name == "gspo" and c[f"{ACTOR}.loss_agg_mode"] != "seq-mean-token-mean":
        found.append(
            "loss_mode='gspo' with a mean over tokens: an answer weighs as it is long; GSPO has 'seq-mean-token-mean'"
        )
    if name == "cispo":
        found.append(
            f"loss_mode='cispo' caps the ratio at 1 + clip_ratio_high = {1 + float(both[1] or c[f'{ACTOR}.clip_ratio']):g}"
        )
    if int(c["data.train_batch_size"]) == int(c[f"{ACTOR}.ppo_mini_batch_size"]) and int(c[f"{ACTOR}.ppo_epochs"]) == 1:
        found.append("one update on each batch: every ratio is 1, so that no clip ever acts")
    return found


def _of_average(c: Mapping[str, Any]) -> list[str]:
    if c[f"{ACTOR}.loss_agg_mode"] == "seq-mean-token-sum-norm" and c[f"{ACTOR}.loss_scale_factor"] is None:
        return [
            "loss_agg_mode='seq-mean-token-sum-norm' without loss_scale_factor divides by the width that a micro-batch is "
            "padded to, which is no constant; read as data.max_response_length"
        ]
    return []


def _of_kl(c: Mapping[str, Any]) -> list[str]:
    kind, found = str(c[f"{ACTOR}.kl_loss_type"]), []
    if c[f"{ACTOR}.use_kl_loss"] and kind in ("low_var_kl", "k3"):
        found.append(
            "kl_loss_type='low_var_kl' is k3, cut at 10 a token: its gradient is the forward KL's, and 0 beyond the cut"
        )
    if c[f"{ACTOR}.use_kl_loss"] and kind in ("kl+", "k1+"):
        found.append(
            f"kl_loss_type={kind!r} has the gradient of k2, as which it is read; the value that is logged is k1's"
        )
    if c["algorithm.use_kl_in_reward"] and c["algorithm.adv_estimator"] == "opo":
        found.append("use_kl_in_reward with opo: the KL is in the rewards whose length-weighted mean is the baseline")
    return found
