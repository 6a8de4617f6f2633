"""ms-swift 4.6: GRPOTrainer's own `_compute_advantages` and `_compute_loss_and_metrics` on a bare self.

`self` is an instance made without `__init__`, with the attributes that its own `_prepare_algorithm_params` takes from its
configuration's defaults. The Trainer of transformers divides its losses by the accumulation steps.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = ("vllm", "cryptography", "trl.experimental.ppo", "json_repair", "aiohttp", "einops", "msgspec")
NO_KL = {"kl": (p.NoKL(), "beta=0; .04 by default")}
CUT = "the KL's value is cut at 10: no gradient beyond log ref/pi = 2.6"
SEQUENCE: dict[str, Any] = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}


def project(version: str) -> Project:
    absent = stand_in_for(*ABSENT)
    return Project(
        name="swift",
        package="ms-swift",
        version=version,
        peers=(*_losses(), *_estimators()),
        stood_in=f"{', '.join(absent)}; of self: accelerator (one process), model, the forward pass. It asks for TRL below 1.0 and "
        "runs here beside 1.16, of which it uses a base class and two helpers for metrics",
        accumulation="losses are divided by the accumulation steps, those of dapo, cispo and fipo multiplied by them before. "
        "Micro-batches have equal numbers of rows",
        not_audited=(
            ("its Megatron trainer", "needs Megatron and GPUs"),
            ("GKD, OPD-RL, RLSD, SDAR", "need a teacher"),
            ("CHORD", "mixes in supervised data"),
            ("multi-turn requests (`compute_advantages_dynamic`)", "their rows are no answers to one prompt each"),
        ),
    )


def _losses() -> list[Peer]:
    clip = {"surrogate": (p.Clip(), "epsilon_high is epsilon by default")}
    two_sided = {**NO_KL, "surrogate": (p.Clip(two_sided=1.5), "delta=1.5")}
    sampled = {**NO_KL, "correction": (p.TokenTIS(cap=2.0), 'rollout_importance_sampling_mode="token_truncate"')}
    stale = {**NO_KL, "correction": (p.StaleNegativeMask(0.1), "off_policy_sequence_mask_delta=.1")}
    local = "the mean is over the tokens of a micro-batch, so that it depends on how the step is split"
    real = "a cross-entropy of right against wrong answers by their mean log-ratio: rewards count by their sign alone"
    future = "tokens are weighed by the log-ratios of those that follow, off-policy"
    fused = "under use_liger_kernel the tokens are those of the micro-batch: num_items_in_batch is not handed on"
    return [
        _loss("grpo", "grpo", NO_KL, loss_type="grpo"),
        _loss("grpo_kl", "grpo", loss_type="grpo", beta=0.04, paper=CUT),
        _loss("dapo", "dapo", clip, loss_type="dapo"),
        _loss("dapo_liger", "dapo", clip, loss_type="dapo", paper=fused, issue="swift-liger"),
        _loss("bnpo", "dapo", clip, loss_type="bnpo", paper=local),
        _loss("dr_grpo", "dr_grpo", loss_type="dr_grpo"),
        _loss("gspo", "gspo", loss_type="grpo", **SEQUENCE),
        _loss("gspo_token", "gspo", loss_type="grpo", **{**SEQUENCE, "importance_sampling_level": "sequence_token"}),
        _loss("cispo", "cispo", loss_type="cispo", epsilon_high=5.0),
        _loss("sapo", "sapo", loss_type="sapo"),
        _loss("two_sided", "grpo", two_sided, loss_type="grpo", delta=1.5),
        _loss("sampler", "grpo", sampled, loss_type="grpo", rollout_importance_sampling_mode="token_truncate"),
        _loss("stale", "grpo", stale, loss_type="grpo", off_policy_sequence_mask_delta=0.1),
        _loss(
            "fipo", "grpo", {**NO_KL, "aggregate": (p.TokenMean(), "a mean over tokens")}, loss_type="fipo", rest=future
        ),
        _loss("real", "grpo", NO_KL, loss_type="real", rest=real),
    ]


def _estimators() -> list[Peer]:
    none = {"kl": (p.NoKL(), "beta=0")}
    whitened = {"credit": (p.GroupMean(eps=1e-8), "eps is 1e-8"), "normalize": (p.Whiten(), "GDPO whitens")}
    answers = "the std is over the answers' advantages and not over tokens, their mean is not taken off"
    return [
        _advantages("grpo_advantages", "grpo"),
        _advantages("grpo_batch_std", "lite_ppo", scale_rewards="batch"),
        _advantages("grpo_unscaled", "dr_grpo", scale_rewards="none"),
        _advantages("rloo", "rloo", none, advantage_estimator="rloo", scale_rewards="none"),
        _advantages("rloo_kl", "rloo", {"kl": (p.K1(0.04), "beta=.04")}, beta=0.04, kl_in_reward=True,
                    advantage_estimator="rloo", scale_rewards="none"),
        _advantages("reinforce_pp", "reinforce_pp_baseline", advantage_estimator="reinforce_plus_plus",
                    scale_rewards="batch", rest=answers),
        _advantages("gdpo", "grpo", whitened, scale_rewards="gdpo", rest="the whitening is over answers, not over tokens"),
    ]  # fmt: skip


# -- one of them ------------------------------------------------------------------------------------------------------------------
def _loss(name: str, recipe: str, differs: dict[str, tuple[Any, str]] | None = None, **more: Any) -> Peer:
    said = {k: more.pop(k) for k in ("rest", "paper", "issue") if k in more}
    sampler = bool({"rollout_importance_sampling_mode", "off_policy_sequence_mask_delta"} & {*more})
    liger = name.endswith("_liger")

    def loss(**x: Any) -> Tensor:
        me = _bare(x, **more)
        found = _fused(me, x) if liger else me._compute_loss_and_metrics(None, {}, _batch(x))[0]
        out: Tensor = found / x["micro_batches"]
        return out

    asks = ["logp", "old_logp", "advantages", "mask", "total_tokens", "max_tokens", "micro_batches", "group_size"]
    asks += (
        ["behavior_logp"] * sampler
        + ["ref_logp"] * bool(more.get("beta"))
        + ["logits", "tokens", "temperature"] * liger
    )
    return Peer(name, recipe, asking(loss, name, *asks), None, differs or {}, equal_rows=True, **said)


def _advantages(
    name: str, recipe: str, differs: dict[str, tuple[Any, str]] | None = None, rest: str = "", **more: Any
) -> Peer:
    kl = bool(more.get("beta"))
    settings = {"scale_rewards": "group", **more}

    def advantages(**x: Any) -> Tensor:
        me = _bare({**x, "micro_batches": 1}, **settings)
        rows = [{"grpo_batch": _batch(x)}] if kl else []
        found: Tensor = me._compute_advantages([], x["rewards"][:, None], rows)
        return found

    asks = ["rewards", "mask", "group_size", *["old_logp", "ref_logp"] * kl]
    return Peer(name, recipe, None, asking(advantages, name, *asks), differs or {}, rest)


def _bare(x: dict[str, Any], **settings: Any) -> Any:
    """An instance without __init__."""
    from swift.rlhf_trainers.arguments import GRPOConfig
    from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

    plain = {f.name: f.default for f in dataclasses.fields(GRPOConfig) if f.default is not dataclasses.MISSING}
    args = SimpleNamespace(**{**plain, "dataset_shuffle": False, "beta": 0.0, **settings})
    me: Any = GRPOTrainer.__new__(GRPOTrainer)
    me.args, me.beta, me.kl_in_reward = args, args.beta, False
    me._prepare_algorithm_params()
    me.kl_in_reward = bool(args.kl_in_reward)
    me.compute_entropy = me.disable_rollout_importance_sampling = me._has_teacher = me.dynamic_num_samples = False
    me.model, me.chord_sft_iterator, me.compute_loss_func = SimpleNamespace(training=True), None, None
    me.model_accepts_loss_kwargs, me.current_gradient_accumulation_steps = False, x["micro_batches"]
    me.num_generations, me.max_completion_length = x["group_size"], x.get("max_tokens")
    me.accelerator = SimpleNamespace(num_processes=1, gather_for_metrics=lambda t: t)
    me._metrics, me._logs = {"train": defaultdict(list)}, {"rewards": defaultdict(list)}
    me.reward_weights, me.reward_func_names = torch.ones(1), ["r"]
    me._get_per_token_logps_and_entropies = lambda *_, **__: (x["logp"], None)
    return me


def _batch(x: dict[str, Any]) -> Any:
    from swift.rl_core.data import GRPOBatch

    mask_BT = x["mask"].bool()
    return GRPOBatch(
        mask_BT, torch.zeros(len(mask_BT), dtype=torch.bool), mask_BT.sum(1),
        x.get("old_logp"), x.get("ref_logp"), x.get("behavior_logp"),
        advantages=x.get("advantages"), num_items_in_batch=torch.tensor(x.get("total_tokens", 0)), logits_to_keep=mask_BT.shape[1],
    )  # fmt: skip


def _fused(me: Any, x: dict[str, Any]) -> Tensor:
    """Its `compute_liger_loss`: the hidden states are the logits, the last layer is an identity."""
    me.args.use_liger_kernel, me.temperature, me.template = True, x["temperature"], SimpleNamespace(padding_free=False)
    me._prepare_liger_loss()
    me.control, me._get_last_hidden_state = SimpleNamespace(should_evaluate=False), lambda *_: x["logits"].float()
    head = SimpleNamespace(weight=torch.eye(x["logits"].shape[-1]), bias=None)
    out: Tensor = me.compute_liger_loss(SimpleNamespace(lm_head=head), {"input_ids": x["tokens"]}, _batch(x))
    return out
