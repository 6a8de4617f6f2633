"""Liger-Kernel 0.8: its chunked GRPO loss, which is plain PyTorch, on a CPU.

Of DAPO the whole `LigerFusedLinearGRPOLoss` runs, from hidden states to the gradient that it makes beforehand, in float32; of the
other kinds `ppo_loss_fn`, which that calls chunk by chunk, in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking

NO_KL = {"kl": (p.NoKL(), "beta=0")}
CLIP = {"surrogate": (p.Clip(), "epsilon_high is .2 by default")}
BNPO = "the mean is over the tokens of a micro-batch, so that it depends on how the step is split (as in TRL)"
UNMASKED = "padding is summed as well, and the sum is divided by the padded width"
ANSWER = {"aggregate": (p.SequenceSum(), "times each answer's length")}
COUNTED = ("dapo", "cispo", "vespo")  # divided by the tokens of the step
SEQUENCE: dict[str, Any] = {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}


def project(version: str) -> Project:
    corrected = {"kl": (p.RatioK3(0.04), "use_bias_correction_kl=True")}
    two_sided = {**NO_KL, "surrogate": (p.Clip(two_sided=1.5), "delta=1.5")}
    phi = "off-policy it weighs tokens by phi of the whole answer's ratio, which none of our parts does"
    corrects = {**NO_KL, "correction": (p.TokenTIS(cap=2.0), "vllm_is_ratio, cut at 2 by who calls it")}
    return Project(
        name="liger",
        package="liger_kernel",
        version=version,
        peers=(
            _peer("grpo", "grpo", NO_KL, loss_type="grpo"),
            _peer("grpo_kl", "grpo", loss_type="grpo", beta=0.04),
            _peer("grpo_kl_corrected", "grpo", corrected, loss_type="grpo", beta=0.04, use_bias_correction_kl=True),
            _peer("two_sided", "grpo", two_sided, loss_type="grpo", delta=1.5),
            _peer("sampler", "grpo", corrects, loss_type="grpo", sampled=True),
            _fused(),
            _peer("dapo", "dapo", CLIP),
            _peer("bnpo", "dapo", CLIP, paper=BNPO, loss_type="bnpo"),
            _peer("dr_grpo", "dr_grpo", loss_type="dr_grpo"),
            _peer("gspo", "gspo", loss_type="grpo", **SEQUENCE),
            _peer("luspo", "gspo", ANSWER, loss_type="luspo", **SEQUENCE),
            _peer("luspo_token", "grpo", {**ANSWER, **NO_KL}, rest=UNMASKED, issue="liger-luspo", loss_type="luspo"),
            _peer("cispo", "cispo", loss_type="cispo", epsilon_high=5.0),
            _peer("sapo", "sapo", loss_type="sapo"),
            _peer("vespo", "cispo", rest=phi, loss_type="vespo"),
        ),
        stood_in="nothing; torch.compile is off (`compiled=False`)",
        accumulation="of dapo, cispo and vespo gradients are summed (`num_items_in_batch`); of the others losses are averaged, as "
        "its callers do, in micro-batches of equal numbers of answers",
        not_audited=(
            ("the Triton kernels (`LigerFusedLinear...`'s other backends, `grpo_loss_triton`)", "need a GPU"),
        ),
    )


def _peer(name: str, recipe: str, differs: dict[str, tuple[Any, str]] | None = None, **more: Any) -> Peer:
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

    said = {k: more.pop(k) for k in ("rest", "paper", "issue") if k in more}
    vllm = more.pop("sampled", False)
    settings = {"loss_type": "dapo", "beta": 0.0, **more}
    counted = settings["loss_type"] in COUNTED

    def loss(**x: Any) -> Tensor:
        mask_BT = x["mask"].to(x["logp"].dtype)
        ratio = (x["old_logp"] - x["behavior_logp"]).exp().clamp(max=2.0) if vllm else None
        out: Tensor = LigerFusedLinearGRPOFunction.ppo_loss_fn(
            x["logp"], mask_BT, x["advantages_B"], full_attention_mask=mask_BT, ref_per_token_logps=x.get("ref_logp"),
            old_per_token_logps=x["old_logp"], max_completion_length=x["max_tokens"], vllm_is_ratio=ratio,
            num_items_in_batch=x["total_tokens"], **settings,
        )[0]  # fmt: skip
        return out if counted else out / x["micro_batches"]

    asks = ["logp", "mask", "advantages_B", "old_logp", "max_tokens", "total_tokens", "micro_batches"]
    asks += ["ref_logp"] * bool(settings["beta"]) + ["behavior_logp"] * vllm
    return Peer(name, recipe, asking(loss, name, *asks), None, differs or {}, equal_rows=not counted, **said)


def _fused() -> Peer:
    """The module itself, which asks for hidden states: here the logits, under an identity for its last layer."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    def loss(**x: Any) -> Tensor:
        made = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, temperature=x["temperature"])
        logits_BTV = x["logits"].float()
        out: Tensor = made(
            logits_BTV, torch.eye(logits_BTV.shape[-1]), x["tokens"], x["mask"].float(), x["advantages_B"].float(),
            old_per_token_logps=x["old_logp"], num_items_in_batch=x["total_tokens"],
        )[0]  # fmt: skip
        return out

    asks = ["logits", "tokens", "mask", "advantages_B", "old_logp", "temperature", "total_tokens"]
    return Peer("dapo_fused", "dapo", asking(loss, "dapo_fused", *asks), None, CLIP)
