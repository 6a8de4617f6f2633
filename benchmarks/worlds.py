"""The numbers that the pages of docs/ladder quote from enumerated worlds, as Markdown: median over worlds, and their range.

    python benchmarks/worlds.py --worlds 20

Every answer to a prompt (3 tokens, answers of at most 3) is enumerated, so nothing is sampled; the seed of a world draws its
policy, its rewards and what else the setting needs (a random critic, an older policy).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import median

import torch

import rung.parts as p
from rung.exact.estimate import cosine
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World
from rung.recipes import Recipe

Row = Mapping[str, float]
OLD_KL = 0.05  # off-policy: nats an answer between the batch's policy and the one that learns
GROUP = {"credit": p.GroupMean(), "aggregate": p.SequenceMean()}


def scene(seed: int, reward: str, **condition: object) -> Scene:
    samples = 2 if reward == "binary" else 1
    return Scene(World(samples=samples, reward=reward, seed=seed), Condition(**condition))  # type: ignore[arg-type]


def critic(seed: int) -> Row:
    """Relative error of the mean gradient of GAE with a random critic."""
    s = scene(seed, "dense", critic="wrong")
    return {
        f"lambda {lam:g}": expected_gradient(Recipe(name="gae", credit=p.Value(p.GAE(lam=lam))), s).relative_error
        for lam in (1.0, 0.95, 0.9, 0.5, 0.0)
    }


def baselines(seed: int) -> Row:
    """E |(R - b) score - mean|^2 for constant baselines b, as a multiple of that of b = 0."""
    s = scene(seed, "real")
    prob_A, R_A = s.prob_PA[0], s.reward_PAT[0].sum(1)
    length_A = s.tree.length_A.double()
    score_AD = s.jacobian[0].view(s.world.answers, s.world.horizon, -1).sum(1)
    norm_A = score_AD.square().sum(1)

    def variance(b: torch.Tensor | float) -> float:
        g_AD = (R_A - b)[:, None] * score_AD
        return float(prob_A @ (g_AD - prob_A @ g_AD).square().sum(1))

    kinds = {
        "mean reward": prob_A @ R_A,
        "length-weighted mean": (prob_A * length_A) @ R_A / (prob_A @ length_A),
        "best constant": (prob_A * norm_A) @ R_A / (prob_A @ norm_A),
    }
    return {name: variance(b) / variance(0.0) for name, b in kinds.items()}


def ratios(seed: int) -> Row:
    """Relative error of E_old[sum_t rho_t R grad log pi_t] on grad E_pi[R], for four ways to weigh an older policy's answers."""
    s = scene(seed, "real", old_kl=OLD_KL)
    score_ATD = s.jacobian[0].view(s.world.answers, s.world.horizon, -1)
    weight_A, mask_AT = s.prob_PA[0] * s.reward_PAT[0].sum(1), s.tree.mask_AT
    log_AT = s.logp(s.law(s.theta))[0] - s.logp(s.law(s.old))[0]
    whole_A = log_AT.sum(1)
    kinds = {
        "no ratio": torch.ones_like(log_AT),
        "token": log_AT.exp(),
        "sequence, geometric mean": (whole_A / s.tree.length_A).exp()[:, None] * mask_AT,
        "sequence, product": whole_A.exp()[:, None] * mask_AT,
    }
    true_D = s.true_gradient(Recipe(name="reinforce"))

    def error(rho_AT: torch.Tensor) -> float:
        g_D = torch.einsum("a,at,atd->d", weight_A, rho_AT, score_ATD)
        return float((g_D - true_D).norm() / true_D.norm())

    return {name: error(rho_AT) for name, rho_AT in kinds.items()}


def surrogates(seed: int) -> Row:
    """Cosine of the mean gradient to that of GRPO's clip (without its KL), off-policy, for the same group advantages."""
    s = scene(seed, "binary", old_kl=OLD_KL)
    token = {**GROUP, "ratio": p.TokenRatio()}
    want = expected_gradient(Recipe(name="clip", surrogate=p.Clip(), **token), s).gradient  # type: ignore[arg-type]
    kinds = {
        "GMPO": Recipe(name="gmpo", surrogate=p.GMPO(), **token),  # type: ignore[arg-type]
        "CISPO": Recipe(name="cispo", surrogate=p.CISPO(), **token),  # type: ignore[arg-type]
        "SAPO": Recipe(name="sapo", surrogate=p.SAPO(), **token),  # type: ignore[arg-type]
        "GSPO": Recipe(name="gspo", surrogate=p.Clip(3e-4, 4e-4), ratio=p.SequenceRatio(), **GROUP),  # type: ignore[arg-type]
    }
    return {name: cosine(expected_gradient(r, s).gradient, want) for name, r in kinds.items()}


def table(title: str, measure: Callable[[int], Row], worlds: int) -> None:
    rows = [measure(seed) for seed in range(worlds)]
    print(f"\n{title} ({measure.__doc__})\n\n| | median | range over {worlds} worlds |\n|---|---|---|")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"| {name} | {median(values):.3f} | {min(values):.3f} to {max(values):.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20)
    worlds = parser.parse_args().worlds
    table("a2c", critic, worlds)
    table("opo", baselines, worlds)
    table("gspo", ratios, worlds)
    table("gmpo", surrogates, worlds)


if __name__ == "__main__":
    main()
