"""Gradient noise at a frozen policy: many batches, one gradient each per recipe, and how much those differ.

    g_k = grad J(batch k),   trace = E|g - E g|^2,   snr = |E g|^2 / trace,   cosine = cos(g_k, mean of the other batches)

Everything follows from the inner products g_k . g_l, so that only a sketch of each gradient is kept: all of it for a
small model, else a count sketch (Charikar et al. 2002), which keeps inner products on average whatever the model's size.
Every recipe sees the same batches. The gradients are those of the functions that train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rung.maths.assess import Assessed, next_state
from rung.network.model import Model
from rung.recipes import LADDER, Recipe
from rung.rollout.collect import Collected
from rung.statistics import ALPHA, Interval, over_batches
from rung.training.learner import Hyper, LocalLearner
from rung.training.work import Work

EXACT = 1 << 20  # gradients of up to this many numbers are kept whole
WIDTH = 1 << 16  # else a sketch of this width: inner products are then known to about 1/256 of |g||h|
CHUNK = 1 << 22  # coordinates sketched at a time


# -- gradients -----------------------------------------------------------------------------------------------------
def sketch(tensors: Sequence[Tensor | None], sizes: Sequence[int], seed: int = 0) -> Tensor:
    """s_j = sum over the coordinates i that fall into cell j of sign_i g_i: float64, as E[s . t] = g . h needs.

    Cells and signs are drawn from the seed alone, so that all gradients of one model fall the same way.
    tensors: one gradient per parameter, None where it is zero; sizes: the number of elements of each.
    """
    if sum(sizes) <= EXACT:
        flat = [
            torch.zeros(n) if t is None else t.detach().reshape(-1).cpu() for t, n in zip(tensors, sizes, strict=True)
        ]
        return torch.cat(flat).double()
    out = torch.zeros(WIDTH, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for tensor, n in zip(tensors, sizes, strict=True):
        flat_n = None if tensor is None else tensor.detach().reshape(-1).cpu()
        for start in range(0, n, CHUNK):
            size = min(CHUNK, n - start)
            draw = torch.randint(2 * WIDTH, (size,), generator=generator, dtype=torch.int32)
            if flat_n is not None:
                signed = flat_n[start : start + size].double() * (draw & 1).mul(2).sub(1)
                out.index_add_(0, (draw >> 1).long(), signed)
    return out


def one_gradient(work: Work, stale: bool = False) -> Tensor:
    """The sketch of grad J over the whole batch, at the policy that sampled it. Leaves no gradient behind.

    stale: an older policy sampled it, so that ratios are not 1.
    """
    work.begun = stale
    for minibatch in work.cut():
        work.gradient(minibatch)
    out = sketch([None if p.grad is None else -p.grad for p in work.parameters], [p.numel() for p in work.parameters])
    work.forget()
    return out


def gradients(
    recipe: Recipe, model: Model, hyper: Hyper, warmup: Sequence[Collected], batches: Sequence[Collected],
    stale: bool = False,
) -> Tensor:  # fmt: skip
    """One gradient per batch, float64[K, sketch]. Critic and moving average first learn from the warm-up batches.

    The reference policy, where the recipe has one, is the frozen policy itself. The recipe's `data` part is left out.
    """
    learner = LocalLearner(recipe, model, hyper)
    for collected in warmup:
        assessed = learner.assess(collected)
        learner.state = next_state(recipe, assessed.batch)
        learner.learn_values(assessed.batch)
        learner.work(assessed).forget()  # a critic on the policy's trunk leaves a gradient

    def one(collected: Collected) -> Tensor:
        work = learner.work(learner.assess(collected))
        with learner.at_work():
            return one_gradient(work, stale)

    return torch.stack([one(collected) for collected in batches])


def baseline_gradients(model: Model, hyper: Hyper, batches: Sequence[Collected]) -> tuple[Tensor, Tensor]:
    """(u_k, v_k): the gradient without a baseline, and that of a reward of 1 on every token, so that u - b v has baseline b."""
    learner, u, v = LocalLearner(LADDER["reward_to_go"], model, hyper), [], []
    for collected in batches:
        assessed = learner.assess(collected)
        in_loss_BT = assessed.batch.loss_mask_BT
        u.append(one_gradient(learner.work(assessed)))
        ones = replace(assessed.batch, adv_BT=in_loss_BT.to(assessed.batch.behavior_logp_BT.dtype))
        v.append(one_gradient(learner.work(Assessed(ones, in_loss_BT.any(1).nonzero()[:, 0]))))
    return torch.stack(u), torch.stack(v)


# -- what they show ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Quality:
    """How good one batch's gradient is. direction: cosine of E[g] to that of an unbiased estimator, NaN where unknown."""

    trace: Interval
    snr: Interval
    cosine: Interval
    direction: float = math.nan


def pairs_mean(gram_KK: np.ndarray, index: np.ndarray) -> float:
    """Mean of g_k . g_l over pairs of different batches: without bias |E g|^2. Equal entries of `index` are one batch."""
    apart = index[:, None] != index[None, :]
    return float(gram_KK[np.ix_(index, index)][apart].mean()) if apart.any() else math.nan


def trace_of(gram_KK: np.ndarray, index: np.ndarray) -> float:
    """Mean over pairs of |g_k - g_l|^2 / 2 = mean |g_k|^2 - mean g_k . g_l: without bias the trace of the covariance."""
    square_K = np.diag(gram_KK)
    half_KK = (square_K[:, None] + square_K[None, :]) / 2 - gram_KK
    return pairs_mean(half_KK, index)


def snr_of(gram_KK: np.ndarray, index: np.ndarray) -> float:
    """|E g|^2 / trace, at least 0."""
    trace = trace_of(gram_KK, index)
    return max(pairs_mean(gram_KK, index), 0.0) / trace if trace > 0 else math.inf


def cosines(gram_KK: np.ndarray) -> np.ndarray:
    """cos(g_k, sum of the other g_l) for each k."""
    K = len(gram_KK)
    norm_K = np.sqrt(np.diag(gram_KK))
    with_rest_K = gram_KK.sum(1) - np.diag(gram_KK)
    rest_K = np.sqrt(np.maximum([np.delete(np.delete(gram_KK, k, 0), k, 1).sum() for k in range(K)], 0.0))
    scale_K = norm_K * rest_K
    return np.where(scale_K > 0, with_rest_K / np.where(scale_K > 0, scale_K, 1.0), 0.0)


def quality(G_KS: Tensor, unbiased_KS: Tensor | None = None, level: float = 1 - ALPHA) -> Quality:
    """Trace, signal to noise and cosine of K gradients, with bootstrap intervals over the batches."""
    gram_KK = (G_KS @ G_KS.T).numpy()
    cosine_K = cosines(gram_KK)
    direction = math.nan
    if unbiased_KS is not None:
        cross_KK, other_KK = (G_KS @ unbiased_KS.T).numpy(), (unbiased_KS @ unbiased_KS.T).numpy()
        every = np.arange(len(gram_KK))
        a, b, c = (pairs_mean(x, every) for x in (gram_KK, other_KK, (cross_KK + cross_KK.T) / 2))
        direction = min(max(c / math.sqrt(a * b), -1.0), 1.0) if a > 0 and b > 0 else math.nan
    return Quality(
        over_batches(lambda index: trace_of(gram_KK, index), len(gram_KK), level),
        over_batches(lambda index: snr_of(gram_KK, index), len(gram_KK), level),
        over_batches(lambda index: float(cosine_K[index].mean()), len(gram_KK), level),
        direction,
    )


def optimal_baseline(u_KS: Tensor, v_KS: Tensor) -> float:
    """b = tr Cov(u, v) / tr Cov(v), which minimizes tr Cov(u - b v)   (Greensmith et al. 2004): one constant for all answers."""
    du_KS, dv_KS = u_KS - u_KS.mean(0), v_KS - v_KS.mean(0)
    scale = float((dv_KS * dv_KS).sum())
    return float((du_KS * dv_KS).sum()) / scale if scale > 0 else 0.0
