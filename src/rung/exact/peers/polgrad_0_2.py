"""polgrad 0.2: the ten algorithms of its registry, as its entries and their notes put the pieces together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

import rung.parts as p
from rung.exact.peers.peer import Peer, Project, asking

GAMMA = "its discount is the paper's, for games; an answer's reward lies at its end, where 0.99 is a length penalty"
WHITEN = "it does not whiten, which the paper does not mention and implementations for language models do"
KL = "no KL to the reference; practice of RLHF puts one of 0.01 into the reward"
CAP = "the paper hides its cap: 1.2 here, as in verl; ours is ScaleRL's 5"
ANSWERS = "averages answers first, as eq. 1 does; ours keeps PPO's mean over tokens"
DIFFERS: dict[str, tuple[str, dict[str, tuple[Any, str]]]] = {  # algorithm: (our recipe, field -> (their choice, why))
    "ppo": (
        "ppo",
        {
            "credit": (p.Value(p.GAE(gamma=0.99), critic=p.Critic(clip=0.2)), GAMMA),
            "normalize": (p.AsIs(), WHITEN),
            "kl": (p.NoKL(), KL),
        },
    ),
    "grpo": ("grpo", {}),
    "dr_grpo": ("dr_grpo", {}),
    "dapo": ("dapo", {}),
    "gspo": ("gspo", {}),
    "gspo_token": ("gspo", {}),
    "cispo": ("cispo", {"surrogate": (p.CISPO(high=1.2), CAP)}),
    "rloo": ("rloo", {}),
    "reinforce_pp": ("reinforce_pp", {"aggregate": (p.SequenceMean(), ANSWERS)}),
    "grpo_tis": ("grpo", {"correction": (p.TokenTIS(cap=10.0), "corrects for the sampler's own law, which ours can")}),
}


def project(version: str) -> Project:
    import polgrad as pg

    return Project(
        name="polgrad",
        package="polgrad",
        version=version,
        peers=tuple(_peer(pg, name) for name in pg.ALGORITHMS),
        stood_in="nothing",
        accumulation="it is a library of pure functions: losses of micro-batches are averaged (its `microbatch_token_weights`)",
    )


def _advantages(pg: Any, spec: Any) -> Callable[..., Tensor]:
    def advantages(**x: Any) -> Tensor:
        mask_BT, reward_BT = x["mask"], x["reward_BT"]
        if spec.kl_placement == "reward":
            kl = spec.kl_reward
            reward_BT = pg.kl_in_reward(
                reward_BT, x["old_logp"], x["ref_logp"], kl.kind, kl.coef, response_mask=mask_BT
            )
        if spec.advantage == "grpo":
            adv = pg.grpo_advantages(reward_BT.sum(1), x["groups"], spec.advantage_config)
        elif spec.advantage == "rloo":
            adv = pg.rloo_advantages(reward_BT.sum(1), x["groups"])
        elif spec.advantage == "gae":
            adv = pg.gae(reward_BT, x["values"], config=spec.advantage_config, response_mask=mask_BT)[0]
        else:  # reinforce_pp: "the paper-faithful composition"
            one = pg.GAEConfig(gamma=1.0, lam=1.0)
            adv = pg.whiten(pg.gae(reward_BT, 0 * reward_BT, config=one, response_mask=mask_BT)[0], mask_BT)
        out: Tensor = pg.broadcast_to_tokens(adv, mask_BT) if adv.dim() == 1 else adv
        return out

    return advantages


def _peer(pg: Any, name: str) -> Peer:
    spec, (recipe, differs) = pg.get_algorithm(name), DIFFERS[name]

    def loss(**x: Any) -> Tensor:
        config = replace(spec.loss, norm_len=x["max_tokens"]) if name == "dr_grpo" else spec.loss
        out: Tensor = pg.policy_loss(
            config,
            logprobs=x["logp"],
            old_logprobs=x.get("old_logp", x["logp"].detach()),
            advantages=x["advantages"],
            response_mask=x["mask"],
            ref_logprobs=x.get("ref_logp"),
            rollout_logprobs=x.get("behavior_logp"),
        ).loss
        return out

    moved = spec.loss.surrogate is not pg.SurrogateKind.REINFORCE
    asks = ["logp", "advantages", "mask", *["old_logp"] * moved, *["ref_logp"] * (spec.loss.kl is not None)]
    asks += ["behavior_logp"] * (spec.loss.is_correction is not None) + ["max_tokens"] * (name == "dr_grpo")
    adv_asks = [
        "reward_BT",
        "mask",
        "groups",
        *["values"] * (spec.advantage == "gae"),
        *["old_logp", "ref_logp"] * (spec.kl_placement == "reward"),
    ]
    return Peer(
        name,
        recipe,
        asking(loss, f"{name}", *asks),
        asking(_advantages(pg, spec), f"{spec.advantage} advantages", *adv_asks),
        differs,
    )
