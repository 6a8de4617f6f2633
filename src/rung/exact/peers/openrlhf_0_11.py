"""OpenRLHF 0.11: its `PolicyLoss`, under the counts that it makes of a step, and its experience maker's advantages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = ("flash_attn", "deepspeed", "ray", "vllm", "aiohttp", "torchdata", "torchmetrics", "pylatexenc", "optimum")
NO_KL = (p.NoKL(), "its KL is in the rewards, or is added in its Ray actor (not audited)")
TOKENS = (p.TokenMean(), "token_level_loss is True by default")


def project(version: str) -> Project:
    absent = stand_in_for(*ABSENT)
    plain: dict[str, tuple[Any, str]] = {"kl": NO_KL, "aggregate": TOKENS}
    dual = {**plain, "surrogate": (p.Clip(dual=3.0), "dual_clip=3")}
    gspo = {"surrogate": (p.Clip(), "clip .2 for ratios of answers, where the paper has 3e-4")}
    clipped = {**plain, "correction": (p.TokenTIS(cap=5.0), "cut at 5 from above")}
    floor = 'is_correction_mode="clip" raises ratios below .5 to .5 as well'
    return Project(
        name="openrlhf",
        package="openrlhf",
        version=version,
        peers=(
            _loss("ppo_token", "grpo", plain),
            _loss("ppo_sequence", "grpo", {"kl": NO_KL}, token_level_loss=False),
            _loss("dual_clip", "grpo", dual, dual_clip=3.0),
            _loss("gspo", "gspo", gspo, policy_loss_type="gspo"),
            _loss("correction", "grpo", clipped, is_correction_level="token", is_correction_mode="clip", rest=floor),
            *_estimators(),
        ),
        stood_in=f"{', '.join(absent)}; of the experience maker: self, but for its arguments",
        accumulation="counts of the step are divided by the accumulation steps, which DeepSpeed's own division cancels",
        not_audited=(
            ("the KL in the loss (`use_loss`)", "added inside its Ray actor"),
            ("the critic's loss", "needs a critic"),
        ),
    )


def _loss(name: str, recipe: str, differs: dict[str, tuple[Any, str]], rest: str = "", **settings: Any) -> Peer:
    from openrlhf.models.loss import PolicyLoss
    from openrlhf.utils.loss_utils import _optimizer_step_loss_norm

    policy_loss, corrected = PolicyLoss(**settings), "is_correction_level" in settings

    def loss(**x: Any) -> Tensor:
        info = _optimizer_step_loss_norm([x["step"].mask], None, 1, x["micro_batches"])
        mask_BT = x["mask"].to(x["logp"].dtype)
        found: Tensor = policy_loss(
            x["logp"], x["old_logp"], x["advantages"], mask_BT, rollout_log_probs=x.get("behavior_logp"), **info
        )[0]
        divided: Tensor = found / x["micro_batches"]  # by DeepSpeed
        return divided

    asks = ["logp", "old_logp", "advantages", "mask", "step", "micro_batches", *["behavior_logp"] * corrected]
    return Peer(name, recipe, asking(loss, name, *asks), None, differs, rest)


def _estimators() -> list[Peer]:
    none = {"kl": (p.NoKL(), "init_coef=0")}
    tiny = {"credit": (p.GroupMean(eps=1e-9), "eps is 1e-9")}
    biased = {"normalize": (p.Whiten(bessel=False), "the variance is divided by the tokens, not by one less")}
    jumps = "values at an observation are 0, and lambda counts its tokens"
    noise = "where all answers of a batch earn the same it whitens the critic's error, which ours sets to 0"
    later = "its KL stays out of the baseline, and a token is charged for what follows it alone"
    lam = (p.Value(p.GAE(lam=1.0)), "lambd is 1 by default, .95 here")
    return [
        _estimator("gae", "ppo", {**none, **biased, "credit": lam}, rest=noise),
        _estimator("gae_lambda", "ppo", {**none, **biased}, lambd=0.95, rest=noise, paper=jumps, issue="openrlhf-gae"),
        _estimator("reinforce", "reinforce_pp", {**none, **biased}),
        _estimator("reinforce_baseline", "reinforce_pp_baseline", biased),
        _estimator("group_norm", "grpo", tiny),
        _estimator("dr_grpo", "dr_grpo", {}),
        _estimator("rloo", "rloo", none),
        _estimator("rloo_kl", "rloo", {"kl": (p.K1(0.05), "init_coef=.05")}, kl=0.05, rest=later),
    ]


def _estimator(
    name: str, recipe: str, differs: dict[str, tuple[Any, str]], kl: float = 0.0, lambd: float = 1.0, **said: Any
) -> Peer:
    from openrlhf.models.utils import compute_approx_kl
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

    kind = name.removesuffix("_lambda").removesuffix("_kl")

    def advantages(**x: Any) -> Tensor:
        me: Any = RemoteExperienceMaker.__new__(RemoteExperienceMaker)
        how = SimpleNamespace(estimator=kind, gamma=1.0, lambd=lambd, no_std_norm=False)
        args = SimpleNamespace(
            algo=SimpleNamespace(advantage=how), reward=SimpleNamespace(clip_range=None),
            rollout=SimpleNamespace(n_samples_per_prompt=x["group_size"]),
        )  # fmt: skip
        me.strategy, me.advantage_estimator = SimpleNamespace(args=args), kind
        me.kl_ctl = SimpleNamespace(value=kl)
        mask_BT = x["mask"].to(torch.float64)
        apart = compute_approx_kl(x["old_logp"], x["ref_logp"]) if kl else torch.zeros_like(mask_BT)
        batch = Experience(
            action_mask=mask_BT,
            values=x.get("values"),
            kl=apart.double(),
            rewards=x["rewards"],
            index=[*range(len(mask_BT))],
        )
        out: Tensor = me.compute_advantages_and_returns([batch])[0].advantages
        return out

    asks = ["rewards", "mask", "group_size", *["values"] * (kind == "gae"), *["old_logp", "ref_logp"] * bool(kl)]
    said.setdefault("reward", "binary" if kind in ("gae", "reinforce") else "dense")  # rewards lie at the end
    return Peer(name, recipe, None, asking(advantages, name, *asks), differs, **said)
