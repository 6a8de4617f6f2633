"""OpenRLHF 0.11: its `PolicyLoss`, under the counts that it makes of an optimizer step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = ("flash_attn", "deepspeed", "ray", "torchmetrics", "pylatexenc", "optimum")
NO_KL = (p.NoKL(), "its KL is added in its Ray actor (not audited)")
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
        ),
        stood_in=", ".join(absent),
        accumulation="counts of the step are divided by the accumulation steps, which DeepSpeed's own division cancels",
        not_audited=(
            ("advantages, KL", "inside its experience maker and Ray actor"),
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
