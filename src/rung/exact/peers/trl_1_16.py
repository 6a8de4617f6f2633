"""TRL 1.16: GRPOTrainer and RLOOTrainer, their own methods on a bare self.

What runs is `_compute_loss` and `_generate_and_score_completions`. `self` is an instance made without `__init__`, with the
attributes that `__init__` copies from the real configuration object; the model's forward pass, generation and reward functions
are replaced by the rows of the world.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking

COPIED = (  # attributes of self that __init__ takes from the configuration under the same name
    "num_generations", "max_completion_length", "temperature", "pad_to_multiple_of", "use_vllm", "loss_type", "scale_rewards",
    "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min", "multi_objective_aggregation", "importance_sampling_level", "num_iterations",
    "off_policy_mask_threshold", "mask_truncated_completions", "top_entropy_quantile", "entropy_coef", "beta",
    "use_adaptive_entropy", "normalize_advantages", "reward_clip_range",
)  # fmt: skip
ABSOLUTE = "epsilon_high is the cap itself, not a distance from 1: with the default 0.2 every weight is 0.2"
CONSTANT = "with its defaults it is REINFORCE, 0.2 times; its help recommends epsilon_high=5"
LOCAL = "the mean is over the tokens of a micro-batch, so that it depends on how the step is split (documented)"
HALF = "loss_type alone is half of Dr. GRPO: advantages are still divided by the std"
GDPO = "the sum over its rewards, here one, is whitened over answers"
SAMPLER = {
    "use_vllm": True,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 2.0,
}
PHI = "off-policy it weighs tokens by phi of the whole answer's ratio, which none of our parts does"


def project(version: str) -> Project:
    return Project(
        name="trl",
        package="trl",
        version=version,
        peers=tuple(_grpo_peers() + _rloo_peers()),
        stood_in="of self: accelerator (one process), model, tokenizer, generation, rewards, the forward pass",
        accumulation="gradients are summed; a loss that does not say `loss_is_scaled_for_ga` is divided by the accumulation "
        "steps, as transformers' Trainer does; steps_per_generation equals them. Micro-batches have equal numbers of rows",
        not_audited=(
            ("the fused forward pass (`fused_lm_head=True`)", "replaces the model; needs its kernels"),
            ("use_liger_kernel", "exchanges layers of the model; the loss is no longer Liger's"),
            ("online DPO, async GRPO", "loss and rollout in one loop, with a vLLM server"),
        ),
    )


def _grpo_peers() -> list[Peer]:
    seq = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
    no_kl = {"kl": (p.NoKL(), "beta is 0 by default")}
    unscaled = {"credit": (p.GroupMean(scale="none"), 'scale_rewards="none"')}
    clip = {"surrogate": (p.Clip(), "epsilon_high is epsilon by default")}
    luspo = {"aggregate": (p.SequenceSum(), "sums over the answer's tokens what GRPO averages")}
    corrected = {"kl": (p.RatioK3(0.04), "use_bias_correction_kl is True by default")}
    two_sided = {**no_kl, "surrogate": (p.Clip(two_sided=1.5), "delta=1.5")}
    sampled = {"correction": (p.TokenTIS(cap=2.0), 'vllm_importance_sampling_mode="token_truncate"')}
    scaled = {"credit": (p.GroupMean(), 'scale_rewards is "group" by default')}
    return [
        _peer("grpo", "grpo", {"loss_type": "grpo"}, no_kl),
        _peer("grpo_kl", "grpo", {"loss_type": "grpo", "beta": 0.04}, corrected),
        _peer("dapo", "dapo", {}, clip, paper="without resampling, the length penalty and clip-higher"),
        _peer("bnpo", "dapo", {"loss_type": "bnpo"}, clip, paper=LOCAL),
        _peer("dr_grpo", "dr_grpo", {"loss_type": "dr_grpo", "scale_rewards": "none"}),
        _peer("dr_grpo_scaled", "dr_grpo", {"loss_type": "dr_grpo"}, scaled, paper=HALF),
        _peer("lite_ppo", "lite_ppo", {"scale_rewards": "batch"}),
        _peer("dapo_unscaled", "dapo", {"scale_rewards": "none"}, {**clip, **unscaled}),
        _peer("gspo", "gspo", {"loss_type": "grpo", **seq}),
        _peer("luspo", "gspo", {"loss_type": "luspo", **seq}, luspo),
        _peer(
            "luspo_token",
            "grpo",
            {"loss_type": "luspo"},
            {**luspo, **no_kl},
            paper="the default ratio is each token's own",
        ),
        _peer("cispo", "cispo", {"loss_type": "cispo", "epsilon_high": 5.0}),
        _peer("cispo_default", "cispo", {"loss_type": "cispo"}, rest=ABSOLUTE, paper=CONSTANT),
        _peer("sapo", "sapo", {"loss_type": "sapo"}),
        _peer("vespo", "cispo", {"loss_type": "vespo"}, rest=PHI),
        _peer("two_sided", "grpo", {"loss_type": "grpo", "delta": 1.5}, two_sided),
        _peer("sampler", "grpo", {"loss_type": "grpo", **SAMPLER}, {**no_kl, **sampled}),
        _peer(
            "gdpo", "grpo", {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum"}, no_kl, rest=GDPO
        ),
        _peer("gmpo", "gmpo", {}, kind="GMPO"),
    ]


def _rloo_peers() -> list[Peer]:
    parts = (p.SequenceProduct(), p.Clip())
    product = {"ratio, surrogate": (parts, "the whole answer's ratio, which PPO's clip of 0.2 cuts")}
    kl = {"kl": (p.K1(0.05), "beta is 0.05 by default")}
    return [_peer("rloo", "rloo", {}, {**product, **kl}, "RLOO", paper="the paper has no ratio and no clip")]


def _said(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The numbers of the tokens that the policy said, padded anew."""
    return torch.nn.utils.rnn.pad_sequence([v[m.bool()] for v, m in zip(values_BT, mask_BT, strict=True)], True)


# -- one algorithm ------------------------------------------------------------------------------------------------------------
def _peer(
    name: str,
    recipe: str,
    settings: dict[str, Any],
    differs: Any = None,
    kind: str = "GRPO",
    rest: str = "",
    paper: str = "",
) -> Peer:
    import trl
    import trl.experimental.gmpo

    home: Any = trl.experimental.gmpo if kind == "GMPO" else trl
    config = getattr(home, f"{kind}Config")(
        output_dir="unused", report_to="none", bf16=False, use_cpu=True, num_generations=2, **settings
    )
    trainer = getattr(home, f"{kind}Trainer")
    beta, sampler = config.beta, bool(settings.get("use_vllm"))

    def loss(**x: Any) -> Tensor:
        me, rows = _bare(trainer, config, x), _inputs(x)
        if sampler:
            rows["importance_sampling_ratio"] = _ratio(scored(**{k: v for k, v in x.items() if k != "logp"}), x["mask"])
        out: Tensor = me._compute_loss(me.model, rows)
        return out if trainer.loss_is_scaled_for_ga else out / x["micro_batches"]

    def advantages(**x: Any) -> Tensor:
        found: Tensor = scored(**x)["advantages"]
        return found

    def scored(**x: Any) -> dict[str, Any]:
        said = {k: _said(v, x["mask"]) for k, v in x.items() if k.endswith("_logp")}
        me = _bare(trainer, config, {**x, **said, "micro_batches": 1})
        me.num_generations = x["group_size"]
        rows = [ids[m.bool()].tolist() for ids, m in zip(x["tokens"], x["mask"], strict=True)]
        prompts = [[1]] * len(rows)
        drawn = [v[m.bool()].tolist() for v, m in zip(x["behavior_logp"], x["mask"], strict=True)] if sampler else None
        out: Any = (prompts, rows, None, rows, drawn, {}, None, None) if kind != "RLOO" else (prompts, rows, rows)
        me._generate = lambda _: out
        me._calculate_rewards = lambda *_: x["rewards"][:, None]
        found: dict[str, Any] = me._generate_and_score_completions([{"prompt": "p"} for _ in rows])
        return found

    asks = ["logp", "old_logp", "advantages_B", "mask", "tokens", "total_tokens", "max_tokens", "micro_batches"]
    asks += ["ref_logp"] * (kind == "GRPO" and beta != 0) + ["behavior_logp", "rewards", "group_size"] * sampler
    adv_asks = ["rewards", "mask", "tokens", "group_size", *["old_logp", "ref_logp"] * (kind == "RLOO" and beta != 0)]
    adv_asks += ["old_logp", "behavior_logp"] * sampler
    made = asking(loss, name, *asks), asking(advantages, f"{kind} advantages", *adv_asks)
    return Peer(name, recipe, *made, differs or {}, rest, paper, equal_rows=True)


def _bare(trainer: Any, config: Any, x: dict[str, Any]) -> Any:
    """An instance without __init__."""
    me: Any = trainer.__new__(trainer)
    here = {name: getattr(config, name) for name in COPIED if hasattr(config, name)}
    vars(me).update(here, args=config, epsilon_low=config.epsilon, epsilon_high=config.epsilon_high or config.epsilon)
    config.steps_per_generation = config.gradient_accumulation_steps = x["micro_batches"]
    me.current_gradient_accumulation_steps = x["micro_batches"]
    me.max_completion_length = x.get("max_tokens", config.max_completion_length)
    me._entropy_bonus_enabled = me.aux_loss_enabled = False
    me.tools, me.environments, me.environment_factories = [], None, None
    me._is_vlm, me.pad_to_multiple_of = False, None
    me._metrics, me._logs = {"train": defaultdict(list)}, defaultdict(list, rewards=defaultdict(list), extra={})
    me._pending_extra_logs, me._pending_metrics = defaultdict(list), defaultdict(list)
    me.reward_funcs, me.reward_func_names, me.reward_weights = [None], ["r"], torch.ones(1)
    me._tokenizer, me.eos_token_ids = SimpleNamespace(pad_token_id=0), [0]
    me.model = SimpleNamespace(training=True, is_gradient_checkpointing=False)
    me.ref_model = SimpleNamespace(reference=True)
    me.accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, process_index=0, sync_gradients=True, gather=lambda t: t,
        reduce=lambda t, reduction: t, autocast=nullcontext,
    )  # fmt: skip

    def forward(model: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        which = "ref_logp" if model is me.ref_model else "logp" if "logp" in x else "old_logp"
        values: Tensor = x[which] if which in x else x["mask"]
        return values, torch.zeros_like(values, dtype=torch.float64), None

    me._get_per_token_logps_and_entropies = forward
    return me


def _ratio(scored: dict[str, Any], mask_BT: Tensor) -> Tensor:
    """Its importance sampling ratio, which was made of the tokens that the policy said, at their places."""
    out = torch.ones(mask_BT.shape, dtype=torch.float64)
    lengths_B = mask_BT.sum(1).tolist()
    said = [r[:n] for r, n in zip(scored["importance_sampling_ratio"], lengths_B, strict=True)]
    out[mask_BT.bool()] = torch.cat(said).double()
    return out


def _inputs(x: dict[str, Any]) -> dict[str, Any]:
    """What `_generate_and_score_completions` hands to the loss."""
    mask_BT = x["mask"].long()
    old_BT = x["old_logp"]
    prompt_B1 = torch.ones(len(mask_BT), 1, dtype=torch.long)
    out = {
        "prompt_ids": prompt_B1, "prompt_mask": prompt_B1, "completion_ids": x["tokens"], "completion_mask": mask_BT,
        "advantages": x["advantages_B"], "num_items_in_batch": torch.tensor(x["total_tokens"]),
        "old_per_token_logps": old_BT, "old_logps": (old_BT * mask_BT).sum(1),
    }  # fmt: skip
    return {**out, "ref_per_token_logps": x["ref_logp"]} if "ref_logp" in x else out
