"""AReaL 1.0: `PPOActor._compute_advantages`, and `grpo_loss_fn` as its `_ppo_update` and its engines call it.

The actor is a real one with its configuration object and no engine. Rows stand after a prompt of one token, as it wants them.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = (
    "aiohttp", "tenacity", "flask", "torchdata", "werkzeug", "lark", "uvloop", "ray", "etcd3", "numba", "einops",
    "aiofiles", "openai", "torch_memory_saver", "swanlab", "trackio", "wandb", "tensorboardX", "pybase64",
)  # fmt: skip
GROUP = {"mean_level": "group", "std_level": "group"}
BATCH = {"mean_level": "batch", "std_level": "batch"}
EPS = "eps is 1e-5, 1e-4 here"
NO_KL = (p.NoKL(), "kl_ctl=0")
TOKENS = (p.TokenMean(), "a mean over tokens, the only one that there is")
PLAIN: dict[str, tuple[Any, str]] = {"kl": NO_KL, "aggregate": TOKENS}


def project(version: str) -> Project:
    absent = stand_in_for(*ABSENT)
    from areal.trainer.ppo import actor

    # what it keeps of a step refuses float64
    actor.stats_tracker = SimpleNamespace(denominator=_nothing, stat=_nothing, scalar=_nothing, scope=nullcontext)
    return Project(
        name="areal",
        package="areal",
        version=version,
        peers=(*_estimators(), *_losses(), *_decoupled()),
        stood_in=f"{', '.join(absent)}; the engine; its statistics (`stats_tracker`)",
        accumulation="losses of micro-batches are weighed by their tokens over those of the step (`loss_weight_fn`)",
        not_audited=(
            ("the critic's loss", "needs a critic that is trained"),
            ("distillation (`teacher_logp`)", "needs a teacher"),
            ("KL of kl_estimator k2, k3 in the reward", "no recipe of ours has one"),
        ),
    )


def _nothing(**_: Any) -> None:
    pass


# -- advantages -----------------------------------------------------------------------------------------------------------------
def _estimators() -> list[Peer]:
    mean = {"mean_level": "group", "std_level": None}
    loo = {**mean, "mean_leave1out": True}
    eps = {"credit": (p.GroupMean(eps=1e-5), EPS)}
    whiten = {**eps, "normalize": (p.Whiten(eps=1e-5), "adv_norm over the batch's tokens")}
    bare = {"normalize": (p.AsIs(), "no adv_norm by default")}
    lam = {"kl": NO_KL, **bare}
    whitened = {"kl": NO_KL, "normalize": (p.Whiten(eps=1e-5), "eps is 1e-5")}
    row = "the documentation's row for GRPO: no groups are compared"
    tokens = "the documentation's row for Dr. GRPO: the mean is over the group's tokens, which is OPO's baseline"
    by_tokens = "adv_norm in groups counts tokens: longer answers weigh more in the mean and in the std"
    tokens_out = "leaves the token out, not the answer: its other tokens stay in their own baseline"
    longest = "the longest answer of a batch counts as cut, whether it ended or not"
    surprise = (
        "without a reference model its log-probabilities are 0: the penalty becomes a bonus of kl_ctl for entropy"
    )
    return [
        _advantages("grpo", "grpo", eps, reward_norm=GROUP),
        _advantages("grpo_adv_norm", "grpo", whiten, reward_norm=GROUP, adv_norm=BATCH),
        _advantages("grpo_group_adv_norm", "grpo", adv_norm=GROUP, rest=by_tokens),
        _advantages("grpo_documented", "reinforce_pp", whitened, adv_norm=BATCH, paper=row, reward="binary"),
        _advantages("dr_grpo_documented", "opo", adv_norm=mean, paper=tokens),
        _advantages("dr_grpo", "dr_grpo", reward_norm=mean),
        _advantages("rloo", "rloo", {"kl": NO_KL}, reward_norm=loo),
        _advantages("rloo_documented", "rloo", adv_norm=loo, rest=tokens_out, issue="areal-leave-one-out"),
        _advantages("kl", "reinforce_pp", {**bare, "kl": (p.K1(0.05), "kl_ctl=.05")}, kl_ctl=0.05, ref=True),
        _advantages(
            "no_reference", "reinforce_pp", {**bare, "kl": NO_KL}, kl_ctl=0.1, rest=surprise, issue="areal-no-reference"
        ),
        _advantages("gae", "ppo", {**lam, "credit": (p.Value(p.GAE(lam=1.0)), "gae_lambda is 1 by default, .95 here")}),
        _advantages("gae_lambda", "ppo", lam, gae_lambda=0.95),
        _advantages("mask_no_eos", "reinforce", mask_no_eos_with_zero=True, rest=longest, issue="areal-longest"),
    ]


def _advantages(
    name: str, recipe: str, differs: dict[str, tuple[Any, str]] | None = None, ref: bool = False, **more: Any
) -> Peer:
    from areal.api.cli_args import NormConfig, PPOActorConfig
    from areal.trainer.ppo.actor import PPOActor

    said: dict[str, Any] = {k: more.pop(k) for k in ("rest", "issue", "paper", "reward") if k in more}
    norms = {k: more.pop(k) for k in ("reward_norm", "adv_norm") if k in more}
    settings = {"kl_ctl": 0.0, **more}

    @cache
    def actor(group_size: int) -> Any:
        made = {k: NormConfig(**{**v, "group_size": group_size}) for k, v in norms.items()}
        return PPOActor(PPOActorConfig(**settings, **made), None)

    def advantages(**x: Any) -> Tensor:
        out_BT: Tensor = actor(x.get("group_size", 1))._compute_advantages(_data(x))["advantages"][:, :-1]
        return torch.nn.functional.pad(out_BT, (0, x["mask"].shape[1] - out_BT.shape[1]))

    critic = "gae" in name
    asks = ["rewards", "mask", "tokens", *["group_size"] * any(v["mean_level"] == "group" for v in norms.values())]
    asks += [*["values"] * critic, *["old_logp"] * bool(settings["kl_ctl"]), *["ref_logp"] * ref]
    if critic or settings["kl_ctl"]:  # its reward of an answer lies at the end, those of our dense worlds at each token
        said["reward"] = "binary"
    return Peer(name, recipe, None, asking(advantages, name, *asks), differs or {}, **said)


def _data(x: dict[str, Any]) -> dict[str, Any]:
    """A batch of AReaL's, as wide as its longest answer: a token of prompt first, values of the state after each token."""
    mask_BT = x["mask"].bool()
    last_B1 = (mask_BT * torch.arange(1, mask_BT.shape[1] + 1)).amax(1, keepdim=True)
    there_BT, width = torch.arange(mask_BT.shape[1]) < last_B1, int(last_B1.max())

    def after(v_BT: Tensor, prompt: float) -> Tensor:
        return torch.nn.functional.pad(v_BT[:, :width], (1, 0), value=prompt)

    def before(v_BT: Tensor) -> Tensor:  # of the next token
        return torch.nn.functional.pad(v_BT[:, :width], (0, 1))

    data = {
        "input_ids": after(x["tokens"], 1), "attention_mask": after(there_BT.long(), 1), "loss_mask": after(mask_BT.long(), 0),
        "logprobs": after(x.get("old_logp", torch.zeros_like(mask_BT, dtype=torch.float64)), 0.0), "rewards": x["rewards"],
    }  # fmt: skip
    return data | {name: before(x[name]) for name in ("ref_logp", "values") if name in x}


# -- losses -----------------------------------------------------------------------------------------------------------------------
def _losses() -> list[Peer]:
    gspo = {"surrogate": (p.Clip(), "eps_clip .2 for ratios of answers, where the paper has 3e-4"), "aggregate": TOKENS}
    return [
        _loss("ppo", "grpo", PLAIN),
        _loss(
            "clip_higher",
            "grpo",
            {**PLAIN, "surrogate": (p.Clip(high=0.28), "eps_clip_higher=.28")},
            eps_clip_higher=0.28,
        ),
        _loss("dual_clip", "grpo", {**PLAIN, "surrogate": (p.Clip(dual=3.0), "c_clip=3")}, c_clip=3.0),
        _loss("gspo", "gspo", gspo, importance_sampling_level="sequence"),
        _loss("sapo", "sapo", {"aggregate": TOKENS}, use_sapo_loss=True),
    ]


def _decoupled() -> list[Peer]:
    """The ratio to the policy of the step's start, times (where it is asked for) that one's to the sampler."""
    none = "without rejection_sampling, the default, nothing weighs what the sampler's lag is worth"
    cut = {**PLAIN, "correction": (p.TokenTIS(cap=2.0), 'action="clamp", upper=2')}
    answer = "the ratio of whole answers to the sampler's is their geometric mean"
    dropped = "a token whose ratio to the sampler's is above 5 is dropped"
    m2 = "tokens that the sampler's lag moved most are dropped, until the mean square of the rest is small"
    m2_paper = "the threshold is that of a micro-batch, and so is the divisor: what is left weighs more"
    token = {"level": "token", "metric": "ratio"}
    return [
        _loss("decoupled", "grpo", PLAIN, decoupled=True, paper=none),
        _loss("decoupled_clamp", "grpo", cut, decoupled=True, rejection={**token, "action": "clamp", "upper": 2.0}),
        _loss("decoupled_mask", "grpo", PLAIN, decoupled=True, rejection={**token, "action": "mask", "upper": 5.0}, rest=dropped),
        _loss(
            "decoupled_answer", "grpo", PLAIN, decoupled=True, rest=answer,
            rejection={"level": "sequence", "metric": "ratio", "action": "clamp", "upper": 2.0},
        ),
        _loss("m2po", "grpo", PLAIN, decoupled=True, m2_threshold=0.04, rest=m2, paper=m2_paper, issue="areal-m2po"),
    ]  # fmt: skip


def _loss(
    name: str,
    recipe: str,
    differs: dict[str, tuple[Any, str]],
    decoupled: bool = False,
    rejection: dict[str, Any] | None = None,
    **more: Any,
) -> Peer:
    from areal.api.cli_args import PPOActorConfig, RejectionSamplingConfig
    from areal.trainer.ppo.actor import grpo_loss_fn

    said = {k: more.pop(k) for k in ("rest", "issue", "paper") if k in more}
    rules = None if rejection is None else RejectionSamplingConfig(**rejection)
    config = PPOActorConfig(kl_ctl=0.0, use_decoupled_loss=decoupled, rejection_sampling=rules, **more)
    taken = {k: getattr(config, k) for k in HANDED}

    def loss(**x: Any) -> Tensor:
        if not bool(x["mask"].any()):
            nothing: Tensor = 0.0 * x["logp"].sum()  # as its engines do
            return nothing
        data = {"logprobs": x["behavior_logp" if decoupled else "old_logp"], "prox_logp": x["old_logp"]}
        data.update(advantages=x["advantages"], loss_mask=x["mask"])
        share = x["mask"].sum() / x["total_tokens"]
        out: Tensor = grpo_loss_fn(x["logp"], torch.zeros_like(x["logp"]), data, **taken) * share
        return out

    asks = ["logp", "old_logp", "advantages", "mask", "total_tokens", *["behavior_logp"] * decoupled]
    return Peer(name, recipe, asking(loss, name, *asks), None, differs, **said)


HANDED = (  # what `_ppo_update` hands from the configuration to the loss
    "eps_clip", "eps_clip_higher", "c_clip", "rejection_sampling", "m2_threshold", "importance_sampling_level", "prox_logp_method",
    "use_sapo_loss", "sapo_tau_pos", "sapo_tau_neg", "use_decoupled_loss",
)  # fmt: skip
