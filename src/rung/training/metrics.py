"""What a step reports. Names follow TRL where the quantity is the same; docs/metrics.md defines each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rung.kernels.device import fetch
from rung.maths.kl import difference, k1, k3
from rung.maths.ratio import LIMIT, log_difference
from rung.maths.returns import group_sum, has_signal, returns, sizes
from rung.recipes import Recipe
from rung.records import Batch, Episode, Rollout, Scored, Scores
from rung.rollout.collect import Collected, differs
from rung.training.ranks import ALONE, Ranks, totals


@dataclass
class Drift:
    """Running statistics of the policy against pi_old and the reference, over the micro-batches of an update.

    Each micro-batch leaves its numbers where they were computed; they are read when somebody asks.
    """

    ranks: Ranks = ALONE
    seen: list[Tensor] = field(default_factory=list)  # the numbers of `NAMES`, for each micro-batch
    gaps: list[tuple[Tensor, ...]] = field(default_factory=list)  # log rho [B, T], its mask, its sums [B]

    NAMES = ("tokens", "old_kl", "clip_low", "clip_high", "clip_dual", "gap", "cut", "kl", "largest_gap")

    def add(self, recipe: Recipe, batch: Batch, scores: Scores) -> None:
        mask_BT, adv_BT = batch.mask_BT, batch.adv_BT
        assert adv_BT is not None
        logp_BT = scores.logp_BT.detach()
        d_BT = log_difference(logp_BT, batch.old_logp_BT, mask_BT)
        log_ratio_BT = recipe.ratio(logp_BT, batch.old_logp_BT, mask_BT).detach()
        low_BT, high_BT = recipe.surrogate.clipped(log_ratio_BT, adv_BT)
        signed_gap_BT = log_difference(logp_BT, batch.behavior_logp_BT, mask_BT)
        numbers = (
            mask_BT.sum(),
            (k3(-d_BT) * mask_BT).sum(),  # KL(old||new) from samples of old: rho - 1 - log rho
            (low_BT & mask_BT).sum(),
            (high_BT & mask_BT).sum(),
            (recipe.surrogate.bounded(log_ratio_BT, adv_BT) & mask_BT).sum(),
            signed_gap_BT.abs().sum(),
            (d_BT.abs() >= LIMIT).sum(),
            (k3(-signed_gap_BT) * mask_BT).sum(),  # KL(mu||pi) from samples of mu
            signed_gap_BT.abs().amax() if signed_gap_BT.numel() else signed_gap_BT.sum(),
        )
        self.seen.append(torch.stack([x.to(d_BT.dtype) for x in numbers]))
        self.gaps.append((d_BT, mask_BT, d_BT.sum(1)))

    def forget(self, since: int) -> None:
        """The micro-batches from the one numbered `since` on, which are computed again."""
        del self.seen[since:], self.gaps[since:]

    def rows(self, since: int = 0) -> list[dict[str, float]]:
        """The numbers of each micro-batch, from the one numbered `since` on."""
        return self._named(fetch(*self.seen[since:]))

    def _named(self, numbers: Sequence[Tensor]) -> list[dict[str, float]]:
        return [dict(zip(self.NAMES, x.tolist(), strict=True)) for x in numbers]

    def old_kl(self, since: int = 0) -> float:
        """Mean KL(old || new) per token, over the micro-batches from the one numbered `since` on."""
        rows = self.rows(since)
        kl, tokens = totals(self.ranks, _total(rows, "old_kl"), _total(rows, "tokens"))
        return kl / max(tokens, 1)

    def metrics(self) -> dict[str, float]:
        every = fetch(*self.seen, *(x for gap in self.gaps for x in gap))
        rows, flat = self._named(every[: len(self.seen)]), every[len(self.seen) :]
        sums = dict(zip(self.NAMES, totals(self.ranks, *(_total(rows, name) for name in self.NAMES)), strict=True))
        tokens = sums["tokens"]
        if not tokens:
            return {}
        # scored before any step: the sampler's gap, nothing else
        at = min(self.ranks.every([i for i, row in enumerate(rows) if row["tokens"]][:1]))
        first = self.ranks.every(rows[at : at + 1])
        masks = flat[1::3]
        rho = self._all([d_BT[mask_BT] for d_BT, mask_BT in zip(flat[::3], masks, strict=True)]).exp()
        sums_B = self._all([d_B[mask_BT.any(1)] for d_B, mask_BT in zip(flat[2::3], masks, strict=True)])
        s = sums_B.clamp(-LIMIT, LIMIT).exp()
        q = torch.tensor([0.01, 0.5, 0.99])
        token_q, sequence_q = (_quantiles(x, q) for x in (rho, s))
        return {
            "old_kl": sums["old_kl"] / tokens,
            "clip_ratio/low_mean": sums["clip_low"] / tokens,
            "clip_ratio/high_mean": sums["clip_high"] / tokens,
            "clip_ratio/dual_mean": sums["clip_dual"] / tokens,
            "ratio/ess": float(rho.sum().square() / (len(rho) * rho.square().sum())),
            "ratio/token_p01": token_q[0],
            "ratio/token_p50": token_q[1],
            "ratio/token_p99": token_q[2],
            "ratio/sequence_p01": sequence_q[0],
            "ratio/sequence_p99": sequence_q[2],
            "ratio/cut": sums["cut"],
            "sampling/logp_gap_mean": _total(first, "gap") / _total(first, "tokens"),
            "sampling/logp_gap_max": max(row["largest_gap"] for row in first),
            "sampling/kl": _total(first, "kl") / _total(first, "tokens"),
        }

    def _all(self, parts: list[Tensor]) -> Tensor:
        """The numbers of all processes' micro-batches."""
        return torch.cat(self.ranks.every([torch.cat(parts)]))


def _total(rows: Sequence[dict[str, float]], name: str) -> float:
    return sum((row[name] for row in rows), 0.0)


def _quantiles(x: Tensor, q: Tensor) -> list[float]:
    few = x if len(x) <= 100_000 else x[torch.randint(len(x), (100_000,))]
    return [float(v) for v in torch.quantile(few.float(), q)]


def reward_metrics(collected: Collected, samples: int) -> dict[str, float]:
    """What the answers earned and how they ended; counts of everything that left statistics or loss."""
    rows, batch = collected.scored, collected.batch
    groups = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    scored = [r for r in rows if math.isfinite(r.reward)]
    lengths = [r.rollout.sampled for r in rows]
    best = max((r.task_reward for r in scored), default=0.0)
    right = [r.rollout.sampled for r in scored if r.task_reward == best and best > 0]
    wrong = [r.rollout.sampled for r in scored if r.task_reward != best]
    flat = [g for g in groups if not differs(g)]
    out = {
        "reward": _mean([r.reward for r in scored]),
        "reward_std": _mean([_group_std(g) for g in groups]),
        "frac_reward_zero_std": len(flat) / len(groups),
        "frac_all_right": sum(all(r.task_reward >= best > 0 for r in g) for g in flat) / len(groups),
        "rewards/unscored": float(len(rows) - len(scored)),
        "completions/mean_length": _mean(lengths),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": float(batch.truncated_B.float().mean()),
        "completions/mean_length_right": _mean(right),
        "completions/mean_length_wrong": _mean(wrong),
        "completions/empty": float((batch.mask_BT.sum(1) == 0).sum()),
        **entropy_metrics([r.rollout for r in rows]),
        **verdict_metrics(groups),
        **collected.counters,
        **turn_metrics([r.episode for r in rows if r.episode is not None], rows),
    }
    for name in sorted({name for r in rows for name in r.rewards}):
        values = [r.rewards[name] for r in rows if name in r.rewards and math.isfinite(r.rewards[name])]
        out[f"rewards/{name}/mean"], out[f"rewards/{name}/std"] = _mean(values), _std(values)
    return out


def entropy_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Nothing where the sampler gave none."""
    known = [(r, r.entropy) for r in rollouts if r.entropy is not None]
    return {"entropy": _mean([h for r, entropy in known for h in _own(r, entropy)])} if known else {}


def verdict_metrics(groups: Sequence[Sequence[Scored]]) -> dict[str, float]:
    """What rewards may follow instead of the answer: chance, and the answer's length. NaN where too few answers tell.

    noise: E (r - r')^2 over the pairs of identical answers to one problem, divided by the same over all its pairs.
    length_correlation: of rewards with lengths, both as differences from their group's mean.
    """
    paid = [[r for r in g if math.isfinite(r.task_reward)] for g in groups]
    same, identical = _differences([c for g in paid for c in _identical(g)])
    every, pairs = _differences(paid)
    return {
        "rewards/identical": float(identical),
        "rewards/noise": (same / identical) / (every / pairs) if identical and every > 0 else math.nan,
        "rewards/length_correlation": _length_correlation(paid),
    }


def _identical(group: Sequence[Scored]) -> list[list[Scored]]:
    """Answers to one problem that are the same, token for token. Conversations are left out: what they met may differ."""
    found: dict[tuple[int, ...], list[Scored]] = {}
    for row in group:
        if row.episode is None:
            found.setdefault(row.rollout.tokens, []).append(row)
    return list(found.values())


def _differences(groups: Sequence[Sequence[Scored]]) -> tuple[float, int]:
    """sum over pairs within groups of (r - r')^2 = n sum (r - mean)^2, and how many pairs there are."""
    total, pairs = 0.0, 0
    for rewards in ([r.task_reward for r in g] for g in groups if len(g) > 1):
        mean = _mean(rewards)
        total += len(rewards) * sum((x - mean) ** 2 for x in rewards)
        pairs += len(rewards) * (len(rewards) - 1) // 2
    return total, pairs


def _length_correlation(groups: Sequence[Sequence[Scored]]) -> float:
    xy = xx = yy = 0.0
    for g in groups:
        if not differs(g):
            continue
        mean, middle = _mean([r.task_reward for r in g]), _mean([r.rollout.sampled for r in g])
        away = [(r.task_reward - mean, r.rollout.sampled - middle) for r in g]
        xy, xx, yy = (
            xy + sum(a * b for a, b in away),
            xx + sum(a * a for a, _ in away),
            yy + sum(b * b for _, b in away),
        )
    return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan


def _own(rollout: Rollout, values: Sequence[float]) -> Sequence[float]:
    """The values at the model's own tokens."""
    if rollout.actions is None:
        return values
    return [x for x, own in zip(values, rollout.actions, strict=True) if own]


def turn_metrics(episodes: Sequence[Episode], rows: Sequence[Scored]) -> dict[str, float]:
    """How conversations went; nothing for single answers. Names of tools follow TRL."""
    if not episodes:
        return {}
    turns = [float(len(e.stops)) for e in episodes]
    calls, failures = (sum(e.counters.get(name, 0.0) for e in episodes) for name in ("calls", "failures"))
    read = [r.rollout.read for r in rows if r.rollout.read is not None]
    length = sum(len(r.rollout.prompt) + len(r.rollout.tokens) for r in rows)
    return {
        "turns/mean": _mean(turns),
        "turns/max": max(turns),
        "turns/out_of_turns": _mean([float(e.cut == "turns") for e in episodes]),
        "turns/out_of_tokens": _mean([float(e.cut == "tokens") for e in episodes]),
        "turns/observation_tokens": _mean([float(len(r.rollout.tokens) - r.rollout.sampled) for r in rows]),
        "tools/call_frequency": calls / len(episodes),
        "tools/failure_frequency": failures / calls if calls else 0.0,
        **({"turns/prefill_ratio": sum(read) / length} if len(read) == len(rows) else {}),
    }


def reference_metrics(batch: Batch) -> dict[str, float]:
    """KL to the reference per token at rollout time: k3 (never negative) as `kl`, k1 beside it."""
    if batch.ref_logp_BT is None:
        return {}
    u_BT = difference(batch.old_logp_BT, batch.ref_logp_BT, batch.mask_BT)
    n = max(int(batch.mask_BT.sum()), 1)
    return {"kl": float((k3(u_BT) * batch.mask_BT).sum() / n), "kl_k1": float(k1(u_BT).sum() / n)}


def correction_metrics(batch: Batch) -> dict[str, float]:
    """rho = pi_old / mu, token by token: its mean, and the effective sample size that it leaves, as a share."""
    d_BT = log_difference(batch.old_logp_BT, batch.behavior_logp_BT, batch.mask_BT)
    rho = d_BT[batch.loss_mask_BT].double().exp()
    if not len(rho):
        return {}
    ess = float(rho.sum().square() / (len(rho) * rho.square().sum()))
    return {"sampling/ratio_mean": float(rho.mean()), "sampling/ess": ess}


def advantage_metrics(batch: Batch, active: int) -> dict[str, float]:
    assert batch.adv_BT is not None
    inside = batch.adv_BT[batch.loss_mask_BT]
    return {
        "advantage/abs_mean": float(inside.abs().mean()) if len(inside) else 0.0,
        "advantage/mean": float(inside.mean()) if len(inside) else 0.0,
        "loss_tokens": float(batch.loss_mask_BT.sum()),
        "active_rows": float(active),
    }


def signal_metrics(batch: Batch, adv_BT: Tensor, dominated: float | None) -> dict[str, float]:
    """Whether the advantages tell what the rewards do. dominated: share of the groups whose std is below eps."""
    R_B, group_B = returns(batch), batch.group_B
    differs_B = has_signal(R_B, batch.valid_B, group_B, sizes(batch))
    if batch.zero_variance_B is not None:
        differs_B &= ~batch.zero_variance_B
    learned_P = group_sum((adv_BT != 0).any(1).double(), group_B) > 0
    lost_P = (group_sum(differs_B.double(), group_B) > 0) & ~learned_P
    out = {"advantage/lost": float(lost_P.double().mean())}
    return out if dominated is None else {**out, "advantage/eps_dominates": dominated}


def _group_std(group: Sequence[Scored]) -> float:
    """std of what the task paid the answers to one problem: exactly 0 where `differs` says that it is all the same."""
    return _std([r.task_reward for r in group if math.isfinite(r.task_reward)]) if differs(group) else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _std(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    m = _mean(values)
    return math.hypot(*(x - m for x in values)) / math.sqrt(len(values) - 1)  # squares of large rewards would overflow
