"""The instrument tests itself before it says anything of others: for every check, a function that must fail it.

NaN is a failure, never zero; a planted fault that stays silent stops the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import rung.parts as p
from rung.exact.peers.compare import match, recipe_pair
from rung.exact.world import World
from rung.exact.yours.signature import Yours
from rung.exact.yours.steps import Pair
from rung.exact.yours.verdict import Findings, audit_pair, settled
from rung.recipe_io import find

SMALL = World(vocabulary=2, horizon=2, prompts=2, samples=2)


def plain(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    """Right: the sum over each answer, the mean over answers."""
    return -((logp - old_logp).exp() * advantages * mask).sum() / total_sequences


def _padding(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    return plain(logp, old_logp, advantages, mask, total_sequences) / mask.shape[1]


def _junk(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    return plain(logp, old_logp, advantages, torch.ones_like(mask), total_sequences)


def _resets(reward_BT: Tensor, mask: Tensor) -> Tensor:
    """Reward-to-go that starts anew at an observation."""
    to_go, out = torch.zeros_like(reward_BT[:, 0]), torch.zeros_like(reward_BT)
    for t in reversed(range(reward_BT.shape[1])):
        to_go = (to_go + reward_BT[:, t]) * mask[:, t]
        out[:, t] = to_go
    return out


def _place(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    weight_B1 = torch.linspace(0.5, 1.5, len(mask), dtype=advantages.dtype)[:, None]
    return plain(logp, old_logp, advantages * weight_B1, mask, total_sequences)


def _accumulation(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, micro_batches: int) -> Tensor:
    return plain(logp, old_logp, advantages, mask, len(mask))


def _tokens(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return plain(logp, old_logp, advantages, mask, int(mask.sum()))


def _hot(logits: Tensor, tokens: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    logp_BT = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return -(logp_BT * advantages * mask).sum() / total_sequences


def _empty(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    gain_BT = (logp - old_logp).exp() * advantages * mask
    return -(gain_BT.sum(1) / mask.sum(1)).sum() / total_sequences


def _tiny_eps(rewards: Tensor, groups: Tensor) -> Tensor:
    out = rewards.clone()
    for g in groups.unique():
        out[groups == g] = (rewards[groups == g] - rewards[groups == g].mean()) / (rewards[groups == g].std() + 1e-12)
    return out


def _k3(logp: Tensor, ref_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    kl_BT = (ref_logp - logp).exp() - 1 - (ref_logp - logp)
    return -((logp * advantages - 0.1 * kl_BT) * mask).sum() / total_sequences


def _k1(logp: Tensor, ref_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    return -((logp * advantages - 0.1 * (logp - ref_logp)) * mask).sum() / total_sequences


def _no_old(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, total_sequences: int) -> Tensor:
    return plain(logp, logp.detach(), advantages, mask, total_sequences)


def _pairs(rewards: Tensor, groups: Tensor) -> Tensor:
    """Leave-one-out for groups of 2; of larger ones only the first two are compared."""
    out = torch.zeros_like(rewards)
    for g in groups.unique():
        a, b, *_ = (groups == g).nonzero()[:, 0].tolist()
        out[a], out[b] = rewards[a] - rewards[b], rewards[b] - rewards[a]
    return out * (1.0 + (rewards > rewards.mean()) * (len(groups) != 4))


def _nan(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    loss = plain(logp, old_logp, advantages, mask, len(mask))
    return loss * torch.nan if bool(rewards[0] == rewards.max()) else loss


CONTROLS: dict[
    str, tuple[str, Callable[..., Any] | None, Callable[..., Any] | None]
] = {  # what: (check, loss, advantages)
    "divides by the padded width": ("padding", _padding, None),
    "does not mask": ("padding", _junk, None),
    "returns reset at an observation": ("observations", None, _resets),
    "rows are known by their place": ("order", _place, None),
    "grows with the accumulation": ("accumulation", _accumulation, None),
    "mean over the micro-batch's tokens": ("micro-batches", _tokens, None),
    "temperature is forgotten": ("temperature", _hot, None),
    "0/0 where a row is masked": ("truncated", _empty, None),
    "rounding divided by a tiny eps": ("no signal", None, _tiny_eps),
    "k3 without a clamp": ("far reference", _k3, None),
    "only two of a group": ("group size", None, _pairs),
    "old_logp is ignored": ("inputs", _no_old, None),
    "the ratio is always 1": ("ratio", _no_old, None),
    "k1 in the loss": ("KL", _k1, None),
}


def silent() -> list[str]:
    """The controls that did not fire; [] where the instrument works."""
    out = []
    for what, (check, loss, advantages) in CONTROLS.items():
        found = _audit(loss, advantages)
        if not any(c.name == check for c in found.failed):
            out.append(f"{what}: {check} holds")
    right, nan = _audit(plain, None), _audit(_nan, None)
    if not right.right or right.kind != "unbiased":
        out.append(f"what is right is blamed: {right}")
    if nan.kind != "not finite":
        out.append(f"NaN counts as {nan.kind}")
    return out + _silent_matches()


def _silent_matches() -> list[str]:
    """A recipe is itself, and no other; NaN is no match."""
    grpo, out = find("grpo"), []
    pair = recipe_pair(grpo)
    others = {
        "eps 1e-6": replace(grpo, credit=p.GroupMean(eps=1e-6)), "clip .28": replace(grpo, surrogate=p.Clip(high=0.28)),
        "token mean": replace(grpo, aggregate=p.TokenMean()), "k2": replace(grpo, kl=p.K2(0.04)),
    }  # fmt: skip
    out += [f"another recipe matches: {what}" for what, other in others.items() if match(pair, other, SMALL).same]
    if not match(pair, grpo, SMALL).same:
        out.append("a recipe does not match itself")
    if match(settled(Pair(Yours(_nan))), grpo, SMALL).same:
        out.append("NaN matches")
    return out


def _audit(loss: Callable[..., Any] | None, advantages: Callable[..., Any] | None) -> Findings:
    one = None if loss is None else Yours(loss)
    return audit_pair(settled(Pair(one, None if advantages is None else Yours(advantages, "advantages"))), SMALL)
