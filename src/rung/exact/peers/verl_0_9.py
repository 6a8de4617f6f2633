"""verl 0.9: every registered estimator through its `compute_advantage`, every policy loss through its `ppo_loss`.

The two are what its trainer and its engines call. Rows are dense tensors from the start, so that nothing has to be padded.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = (
    "ray", "fastapi", "cachetools", "torchdata", "vllm", "transfer_queue", "flash_attn", "aiohttp", "openai",
    "uvicorn", "starlette", "zmq", "prometheus_client", "requests_toolbelt", "pybase64",
)  # fmt: skip
EPS = "eps is 1e-6, 1e-4 here"
NO_KL = (p.NoKL(), "none by default (use_kl_in_reward, use_kl_loss)")
TOKENS = (p.TokenMean(), 'loss_agg_mode is "token-mean" by default')
DUAL = (p.Clip(dual=3.0), "clip_ratio_c=3, a dual clip, always")
PPO: dict[str, tuple[Any, str]] = {"kl": NO_KL, "surrogate": DUAL}
PLAIN: dict[str, tuple[Any, str]] = {"kl": NO_KL, "aggregate": TOKENS}


class Rows(dict[str, Any]):
    """A batch, as a TensorDict is used here."""

    @property
    def batch_size(self) -> tuple[int, ...]:
        return (len(self["response_mask"]),)

    def select(self, *_: str) -> Rows:
        return self

    def to_padded_tensor(self) -> Rows:
        return self


def project(version: str) -> Project:
    absent = stand_in_for(*ABSENT)
    import verl.workers.utils.losses as losses

    losses.no_padding_2_padding = lambda values, data: values
    return Project(
        name="verl",
        package="verl",
        version=version,
        peers=(*_estimators(), *_aggregations(), *_policy_losses(), *_kls()),
        stood_in=f"{', '.join(absent)}; nested tensors (`no_padding_2_padding`), TensorDict",
        accumulation="gradients are summed; `ppo_loss` is given the tokens (`batch_num_tokens`) and answers "
        "(`global_batch_size`) of the step, as its engines do",
        not_audited=(
            ("the critic's loss", "needs a critic that is trained"),
            ("multi-turn trajectories", "need its engines"),
        ),
    )


# -- estimators -------------------------------------------------------------------------------------------------------------
def _estimators() -> list[Peer]:
    group6 = (p.GroupMean(eps=1e-6), EPS)
    ignored = {
        "credit": (p.GroupMean(eps=1e-6), "norm_adv_by_std_in_grpo=False does not reach it: still divided by the std")
    }
    whitened = {"credit": group6, "normalize": (p.Whiten(), "GDPO whitens the sum over its rewards, here one")}
    lam = {"credit": (p.Value(p.GAE(lam=1.0)), "lam is 1 by default, .95 here"), "kl": NO_KL}
    variance = "a baseline for each position, weighed by how large the scores so far are; no credit of ours has one"
    return [
        _estimator("gae", "ppo", lam),
        _estimator("grpo", "grpo", {"credit": group6}),
        _estimator("grpo_unscaled", "dr_grpo", {}, norm_adv_by_std_in_grpo=False),
        _estimator("grpo_vectorized", "grpo", {"credit": group6}),  # in float32, as its rewards are
        _estimator(
            "grpo_vectorized_unscaled", "dr_grpo", ignored, issue="verl-unscaled", norm_adv_by_std_in_grpo=False
        ),
        _estimator("gdpo", "grpo", whitened, gdpo_reward_keys=["r"]),
        _estimator("reinforce_plus_plus", "reinforce_pp", {"kl": NO_KL}),
        _estimator("reinforce_plus_plus_baseline", "reinforce_pp_baseline", {}),
        _estimator("remax", "remax", {"kl": NO_KL}),
        _estimator("rloo", "rloo", {"kl": NO_KL}),
        _estimator("rloo_vectorized", "rloo", {"kl": NO_KL}),
        _estimator(
            "rloo_kl_in_reward", "rloo", {"kl": (p.K1(0.001), "kl_coef is .001 by default")}, use_kl_in_reward=True
        ),
        _estimator("opo", "opo", {}),
        _estimator("gpg", "dr_grpo", {}, rest="times answers / answers whose reward is not 0", reward="binary"),
        _estimator(
            "grpo_passk", "dr_grpo", {}, rest="only the best answer to a prompt, by how much it beats the second"
        ),
        _estimator("optimal_token_baseline", "rloo", {"kl": NO_KL}, rest=variance),
        _estimator("tir_optimal_token_baseline", "rloo", {"kl": NO_KL}, rest=variance),
    ]


def _estimator(name: str, recipe: str, differs: dict[str, tuple[Any, str]], **more: Any) -> Peer:
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.core_algos import FixedKLController
    from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage

    said = {k: more.pop(k) for k in ("rest", "issue", "paper", "reward") if k in more}
    plain = name.removesuffix("_unscaled").removesuffix("_kl_in_reward")
    config = AlgoConfig(adv_estimator=plain, **more)
    in_reward = bool(config.use_kl_in_reward)

    def advantages(**x: Any) -> Tensor:
        mask_BT = x["mask"].to(torch.int64)
        reward_BT = x["reward_BT"].float() if "vectorized" in plain else x["reward_BT"]
        batch = Rows(response_mask=mask_BT, token_level_scores=reward_BT, token_level_rewards=reward_BT)
        for theirs, ours in (
            ("values", "values"),
            ("reward_baselines", "greedy_rewards"),
            ("ref_log_prob", "ref_logp"),
        ):
            if ours in x:
                batch[theirs] = x[ours]
        if "old_logp" in x:
            pi_BT = x["old_logp"].exp()
            batch.update(old_log_probs=x["old_logp"], sum_pi_squared=pi_BT**2 + (1 - pi_BT) ** 2)  # a vocabulary of 2
        batch.update(prompts=mask_BT[:, :1], attention_mask=torch.cat([mask_BT[:, :1] | 1, mask_BT], 1))
        data = SimpleNamespace(batch=batch, non_tensor_batch={"uid": x["index"], "r": x["reward_BT"].sum(1).numpy()})
        if in_reward:
            data, _ = apply_kl_penalty(data, FixedKLController(config.kl_ctrl.kl_coef), config.kl_penalty)
        out: Tensor = compute_advantage(
            data, plain, config.gamma, config.lam, 1, config.norm_adv_by_std_in_grpo, config
        ).batch["advantages"]
        return out

    asks = ["reward_BT", "mask", "index", *["values"] * (plain == "gae"), *["greedy_rewards"] * (plain == "remax")]
    asks += ["old_logp"] * (in_reward or "optimal" in plain) + ["ref_logp"] * in_reward
    return Peer(name, recipe, None, asking(advantages, plain, *asks), differs, **said)


# -- policy losses -----------------------------------------------------------------------------------------------------------
def _aggregations() -> list[Peer]:
    answers = {**PPO, "aggregate": (p.SequenceSum(), "sums over tokens")}
    budget = {**PPO, "aggregate": (p.FixedBudget(), "divides by max_new_tokens")}
    width = "without loss_scale_factor it divides by the padded width of the micro-batch"
    return [
        _loss("ppo_token_mean", "grpo", {**PPO, "aggregate": TOKENS}, loss_agg_mode="token-mean"),
        _loss("ppo_token_sum", "grpo", answers, loss_agg_mode="token-sum"),
        _loss("ppo_seq_mean_token_mean", "grpo", PPO, loss_agg_mode="seq-mean-token-mean"),
        _loss("ppo_seq_mean_token_sum", "grpo", answers, loss_agg_mode="seq-mean-token-sum"),
        _loss(
            "ppo_seq_mean_token_sum_norm", "grpo", budget, loss_agg_mode="seq-mean-token-sum-norm", loss_scale_factor=-1
        ),
        _loss(
            "dr_grpo_default", "grpo", budget, loss_agg_mode="seq-mean-token-sum-norm", paper=width, issue="verl-width"
        ),
    ]


def _policy_losses() -> list[Peer]:
    """The other surrogates."""
    clip = {"surrogate": (p.Clip(), "clip_ratio .2 for ratios of answers, where the paper has 3e-4")}
    score = {**PLAIN, "ratio, surrogate": ((p.NoRatio(), p.ScoreFunction()), "no ratio and no clip")}
    width = {"surrogate": (p.GMPO(width=0.2), "clip_ratio .2, .4 in the paper")}
    cispo = {"surrogate": (p.CISPO(low=0.8, high=1.2), "two-sided, 1 - .2 and 1 + .2; the paper has no lower one")}
    held = "off-policy, a squared log-ratio of each token holds it back"
    grows = "grows with the number of micro-batches"
    return [
        _loss("gspo", "gspo", {**clip, "aggregate": TOKENS}, mode="gspo", paper="the paper averages each answer first"),
        _loss("gspo_seq_mean", "gspo", clip, mode="gspo", loss_agg_mode="seq-mean-token-mean"),
        _loss("sapo", "sapo", {}, mode="sapo", paper=""),
        _loss("gpg_loss", "grpo", score, mode="gpg"),
        _loss("geo_mean", "gmpo", width, mode="geo_mean", issue="verl-geo-mean", paper=grows),
        _loss("cispo", "cispo", cispo, mode="cispo"),
        _loss("dro", "grpo", PLAIN, mode="dro", dro_beta=0.1, rest=held),
        *_some_tokens(),
        *_corrected(),
    ]


def _some_tokens() -> list[Peer]:
    """Those that treat some tokens of a micro-batch otherwise than the rest."""
    trust = "off-policy, tokens are masked by a divergence of their probability and weighed by a capped ratio"
    covs = "the covariances are those of a micro-batch, of which one token at least is taken"
    drawn, held = "leaves a token out, drawn at random", "no clip; the tokens of largest covariance get |log ratio|"
    return [
        _loss("dppo_tv", "grpo", PLAIN, mode="dppo_tv", rest=trust),
        _loss("dppo_kl", "grpo", PLAIN, mode="dppo_kl", rest=trust),
        _loss("clip_cov", "grpo", PLAIN, mode="clip_cov", clip_cov_lb=-1e9, paper=covs, rest=drawn),
        _loss("kl_cov", "grpo", PLAIN, mode="kl_cov", paper=covs, rest=held),
    ]


def _corrected() -> list[Peer]:
    """Those whose old policy is the sampler's."""
    cut = (p.TokenRatio(), p.CISPO(high=2.0)), "REINFORCE, with the ratio to the sampler as a weight, cut at 2"
    reinforce = {"loss_type": "reinforce", "rollout_is": "token"}
    return [
        _loss("bypass_ppo", "grpo", {**PPO, "aggregate": TOKENS}, mode="bypass_mode", correction={}),
        _loss("bypass_reinforce", "grpo", {**PLAIN, "ratio, surrogate": cut}, mode="bypass_mode", correction=reinforce),
    ]


def _kls() -> list[Peer]:
    def kl(name: str, kind: str, part: Any, rest: str = "", paper: str = "", issue: str = "") -> Peer:
        differs = {"surrogate": DUAL, "kl": (part, f"kl_loss_type={kind!r}")} if part else {"surrogate": DUAL}
        settings: dict[str, Any] = {
            "use_kl_loss": True,
            "kl_loss_type": kind,
            "kl_loss_coef": 0.04,
            "loss_agg_mode": "seq-mean-token-mean",
        }
        return _loss(name, "grpo", differs, rest=rest, paper=paper, issue=issue, **settings)

    return [
        kl("kl_low_var", "low_var_kl", None, paper="its value is cut at 10: no gradient beyond log ref/pi = 2.6"),
        kl("kl_k2", "k2", p.K2(0.04)),
        kl("kl_k3_plus", "k3+", p.K2(0.04)),
        kl("kl_k1", "k1", None, "k1 in the loss pulls every token alike", "on average it does nothing"),
        kl("kl_abs", "abs", None, "|log pi/ref| pulls by its sign", "which is no KL"),
    ]


def _loss(name: str, recipe: str, differs: dict[str, tuple[Any, str]], mode: str = "vanilla", **more: Any) -> Peer:
    from verl.workers.config import FSDPActorConfig, PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss

    said = {k: more.pop(k) for k in ("rest", "issue", "paper") if k in more}
    inner: dict[str, Any] = {k: more.pop(k) for k in ("dro_beta", "clip_cov_lb") if k in more}
    if "correction" in more:
        inner["rollout_correction"] = more.pop("correction")
    own_budget = more.get("loss_scale_factor") == -1
    policy_loss = PolicyLossConfig(loss_mode=mode, **inner)
    config = FSDPActorConfig(
        strategy="fsdp", rollout_n=2, ppo_micro_batch_size_per_gpu=1, policy_loss=policy_loss, **more
    )

    def loss(**x: Any) -> Tensor:
        torch.manual_seed(0)  # clip_cov draws
        now = replace(config, loss_scale_factor=x["max_tokens"]) if own_budget else config
        now.global_batch_info.clear()
        data = Rows(response_mask=x["mask"], old_log_probs=x["old_logp"], advantages=x["advantages"], dp_size=1)
        data.update(
            batch_num_tokens=x["total_tokens"], global_batch_size=x["total_sequences"], ref_log_prob=x.get("ref_logp")
        )
        out: Tensor = ppo_loss(now, {"log_probs": x["logp"]}, data)[0]
        return out

    asks = ["logp", "advantages", "mask", "total_tokens", "total_sequences", "max_tokens"]
    asks += ["old_logp", *["ref_logp"] * config.use_kl_loss]
    return Peer(name, recipe, asking(loss, name, *asks), None, differs, **said)
