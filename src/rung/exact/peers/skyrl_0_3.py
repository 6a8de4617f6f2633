"""SkyRL 0.3: the estimators and policy losses of its registries, scaled by its own loss reductions.

Its trainer scales advantages so that losses of micro-batches are summed (`apply_loss_reduction_to_advantages_minibatch`).
"""

from __future__ import annotations

import importlib
import itertools
import typing
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = (
    "ray",
    "vllm",
    "loguru",
    "jaxtyping",
    "fastapi",
    "skyrl_gym",
    "torchdata",
    "aiohttp",
    "flash_attn",
    "hydra",
    "openai",
)
NO_KL = (p.NoKL(), "its KL, 0.001 by default, is added in its worker (not audited)")
TOKENS = (p.TokenMean(), 'loss_reduction is "token_mean" by default')
COVARIANCE = "no clip; the tokens of largest covariance get |log ratio|"
PADDED = "the mean that is taken off counts padding, the variance around it does not"
SPLIT = (
    "advantages are scaled by 1/tokens before, the KL and the thresholds are not: both depend on the size of the batch"
)
LOWER = (
    p.CISPO(low=1.0, high=6.0),
    "cispo_eps_clip_low is 0: ratios below 1 are raised to 1; the paper has no lower bound",
)


def project(version: str) -> Project:
    import typing_extensions

    before, typing.TypedDict = typing.TypedDict, typing_extensions.TypedDict
    absent = stand_in_for(*ABSENT)
    try:
        importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils")
    finally:
        typing.TypedDict = before
    return Project(
        name="skyrl",
        package="skyrl",
        version=version,
        peers=(*_estimators(), *_reductions(), *_policy_losses()),
        stood_in=f"{', '.join(absent)}; typing.TypedDict is that of typing_extensions (its pydantic models need Python 3.12)",
        accumulation="advantages are scaled by counts of the mini-batch before it is split, losses of micro-batches are summed",
        not_audited=(
            ("KL and entropy", "inside its Ray worker; from reading: k3 averaged per answer, then over micro-batches"),
            ("token_mean_legacy", "depends on micro-batches by design"),
        ),
    )


def _estimators() -> list[Peer]:
    group6 = {"credit": (p.GroupMean(eps=1e-6), "eps is 1e-6, 1e-4 here")}
    lam = {"credit": (p.Value(p.GAE(lam=1.0)), "lambd is 1 by default, .95 here"), "kl": NO_KL}
    junk = "its recursion has no mask: values beyond an answer's end, and at observations, enter the advantages"
    resets = "its returns start anew at an observation"
    return [
        _estimator("grpo", "grpo", group6),
        _estimator("grpo_unscaled", "dr_grpo", {}, norm=False),
        _estimator("rloo", "rloo", {"kl": NO_KL}),
        _estimator("gae", "ppo", lam),
        _estimator("gae_lambda", "ppo", {"kl": NO_KL}, lambd=0.95, paper=junk, issue="skyrl-gae"),
        _estimator("reinforce++", "reinforce_pp", {"kl": NO_KL}, paper=resets, issue="skyrl-reinforce-observations"),
        _normalized(),
        _estimator("maxrl", "maxrl", {}, rest="divided by the mean + 1e-6, and by a mean below 0 as well"),
    ]


def _estimator(
    name: str, recipe: str, differs: dict[str, tuple[Any, str]], norm: bool = True, lambd: float = 1.0, **said: Any
) -> Peer:
    from skyrl.backends.skyrl_train.utils.ppo_utils import compute_advantages_and_returns
    from skyrl.train.config.config import AlgorithmConfig

    plain = name.removesuffix("_unscaled").removesuffix("_lambda")
    config = AlgorithmConfig(advantage_estimator=plain, grpo_norm_by_std=norm, lambd=lambd)

    def advantages(**x: Any) -> Tensor:
        out: Tensor = compute_advantages_and_returns(
            x["reward_BT"].clone(), x["mask"].to(x["reward_BT"].dtype), x["index"], plain, config, x.get("values"), norm,
            config.gamma, config.lambd,
        )[0]  # fmt: skip
        return out

    asks = ["reward_BT", "mask", "index", *["values"] * (plain == "gae")]
    return Peer(name, recipe, None, asking(advantages, plain, *asks), differs, **said)


def _normalized() -> Peer:
    """advantage_batch_normalize, by the trainer's own method; the loss reduction that follows in it is divided out again."""
    from skyrl.train.trainer import RayPPOTrainer

    def advantages(**x: Any) -> Tensor:
        me: Any = RayPPOTrainer.__new__(RayPPOTrainer)
        algorithm = SimpleNamespace(advantage_batch_normalize=True, loss_reduction="token_mean", max_seq_len=1)
        me.cfg = SimpleNamespace(trainer=SimpleNamespace(algorithm=algorithm, micro_train_batch_size_per_gpu=1))
        mask_BT = x["mask"].to(torch.float64)
        to_go_BT = (x["reward_BT"] * mask_BT).flip(1).cumsum(1).flip(1)
        rows = _Rows(advantages=to_go_BT * mask_BT, response_mask=mask_BT, loss_mask=mask_BT)
        out: Tensor = me._normalize_advantages(rows, [(0, len(mask_BT))])["advantages"] * mask_BT.sum()
        return out

    asks = ["reward_BT", "mask"]
    return Peer(
        "batch_normalized",
        "reinforce_pp",
        None,
        asking(advantages, "batch_normalized", *asks),
        rest=PADDED,
        issue="skyrl-normalize",
    )


class _Rows(dict[str, Any]):
    """A batch, which is sliced by rows."""

    def __getitem__(self, key: Any) -> Any:
        return _Rows({k: v[key] for k, v in self.items()}) if isinstance(key, slice) else super().__getitem__(key)


def _reductions() -> list[Peer]:
    plain = {"kl": NO_KL}
    return [
        _loss("ppo_token_mean", "grpo", {**plain, "aggregate": TOKENS}),
        _loss("ppo_sequence_mean", "grpo", plain, reduction="sequence_mean"),
        _loss("ppo_token_sum_norm", "grpo", {**plain, "aggregate": (p.FixedBudget(), "divides by max_seq_len")},
              reduction="seq_mean_token_sum_norm"),
        _loss("ppo_prompt_mean", "grpo", {**plain, "aggregate": (p.PromptMean(), "averages over each prompt's tokens")},
              reduction="prompt_mean"),
    ]  # fmt: skip


def _policy_losses() -> list[Peer]:
    plain = {"kl": NO_KL, "aggregate": TOKENS}
    gspo = {"surrogate": (p.Clip(), "eps_clip .2, for ratios of answers, where the paper has 3e-4")}
    dual = {**plain, "surrogate": (p.Clip(dual=3.0), "clip_ratio_c=3")}
    out = "a token whose ratio to the sampler leaves .8 to 1.2 is dropped"
    dppo = "off-policy, tokens are masked where their probability has moved by more than .2"
    return [
        _loss("dual_clip", "grpo", dual, "dual_clip"),
        _loss("sapo", "sapo", {}, "sapo", "sequence_mean"),
        _loss("gspo", "gspo", gspo, "gspo", "sequence_mean"),
        _loss("cispo", "cispo", {"surrogate": LOWER}, "cispo", issue="skyrl-cispo"),
        _loss("rollout_is", "cispo", {}, "rollout_is", rest=out),
        _loss("dppo", "grpo", plain, "dppo", rest=dppo),
        _loss("clip_cov", "grpo", plain, "clip_cov", paper=SPLIT, issue="skyrl-cov"),
        _loss("kl_cov", "grpo", plain, "kl_cov", paper=SPLIT, issue="skyrl-cov", rest=COVARIANCE),
        _loss("importance_sampling", "grpo", {**plain, "surrogate": (p.Importance(), "no clip")}, "importance_sampling"),
    ]  # fmt: skip


def _loss(
    name: str,
    recipe: str,
    differs: dict[str, tuple[Any, str]],
    kind: str = "regular",
    reduction: str = "token_mean",
    **said: Any,
) -> Peer:
    from skyrl.backends.skyrl_train.utils.ppo_utils import PolicyLossRegistry
    from skyrl.train.config.config import AlgorithmConfig

    config = AlgorithmConfig(policy_loss_type=kind, loss_reduction=reduction)
    sampler = kind in ("rollout_is", "dppo")

    def loss(**x: Any) -> Tensor:
        torch.manual_seed(0)  # clip_cov draws
        scaled_BT = x["advantages"] * _scales(x, reduction)
        out: Tensor = PolicyLossRegistry.get(kind)(
            x["logp"], x.get("old_logp", x.get("behavior_logp")), scaled_BT, config=config,
            loss_mask=x["mask"].to(x["logp"].dtype), rollout_logprobs=x.get("behavior_logp"),
        )[0]  # fmt: skip
        return out

    asks = ["logp", "advantages", "mask", "groups", "step", "max_tokens", "behavior_logp" if sampler else "old_logp"]
    return Peer(name, recipe, asking(loss, name, *asks), None, differs, **said)


def _scales(x: dict[str, Any], reduction: str) -> Tensor:
    """What the trainer multiplies the advantages of these rows by, from the whole mini-batch: [B, 1]."""
    from skyrl.backends.skyrl_train.utils.ppo_utils import apply_loss_reduction_to_advantages_minibatch

    step: SimpleNamespace = x["step"]
    order_B = step.groups.argsort(stable=True)
    starts = [0, *torch.bincount(step.groups).cumsum(0).tolist()]
    scale_BT = apply_loss_reduction_to_advantages_minibatch(
        torch.ones_like(step.advantages), step.mask[order_B].to(step.advantages.dtype), reduction, 1, x["max_tokens"],
        [(a, b) for a, b in itertools.pairwise(starts) if b > a],
    )  # fmt: skip
    length_B, group_B = step.mask[order_B].sum(1), step.groups[order_B]
    same_Bb = (x["mask"].sum(1)[:, None] == length_B) & (x["groups"][:, None] == group_B)  # rows alike are scaled alike
    out: Tensor = scale_BT[same_Bb.int().argmax(1), :1]
    return out
