"""Attention in bfloat16 on a CPU with instructions for it, by plain products of all heads at once.

PyTorch's fused kernel multiplies small tiles there, which its backward does at half of float32's speed; whole products run
at the rate of the linear layers (docs/performance.md). As in the fused kernel no probability is kept: the backward works
them out again. Differentiable once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from rung.kernels.device import fused_allowed, multiplies_bfloat16

SCORES = (
    1 << 22
)  # at once, 16 MiB in float32; a row with more takes the fused kernel, which keeps none and is as fast there


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + mask) v: q [B, K, T, D], k and v [B, K, L, D], mask [B or 1, 1, T, L] of 0 and -inf."""
    if fused_allowed() and q.is_cpu and q.dtype == torch.bfloat16 and _at_once(q, k) and multiplies_bfloat16():
        out: Tensor = _Attention.apply(q, k, v, mask, scale)  # type: ignore[no-untyped-call]
        return out
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    """In float32: [B, K, T, L]."""
    return (q @ k.mT).float().mul_(scale).add_(mask).softmax(-1)


class _Attention(torch.autograd.Function):
    """P = softmax(S), O = P V;  dV = P^T dO,  dP = dO V^T,  dS = P (dP - sum_l dP P),  dQ = scale dS K,  dK = scale dS^T Q."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.scale = scale
        return torch.cat([_probabilities(q, k, m, scale).to(v.dtype) @ v for q, k, v, m in _blocks(mask, q, k, v)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        found = [_gradients(ctx.scale, *block) for block in _blocks(mask, q, k, v, grad)]
        return *(torch.cat(parts) for parts in zip(*found, strict=True)), None, None


def _gradients(
    scale: float, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    p = _probabilities(q, k, mask, scale)
    dp = (grad @ v.mT).float()
    ds = torch._softmax_backward_data(dp, p, -1, torch.float32).mul_(scale).to(q.dtype)
    return ds @ k, ds.mT @ q, p.to(v.dtype).mT @ grad


def _blocks(mask: Tensor, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Some rows of the tensors and of the mask at a time."""
    rows = _at_once(*tensors[:2])
    parts = (x.split(rows) for x in (*tensors, mask.expand(len(tensors[0]), -1, -1, -1)))
    return list(zip(*parts, strict=True))


def _at_once(q: Tensor, k: Tensor) -> int:
    """Rows whose scores are in memory at once; 0: not even one."""
    return SCORES // (k.shape[1] * q.shape[2] * k.shape[2])
