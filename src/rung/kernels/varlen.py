"""Attention over packed tokens by one call of FlashAttention, on GPUs: no padding and no mask, whatever the texts share.

    text r    queries: its own tokens.  keys: what it goes on from, in order, then its own

With as many keys in front as there are, the queries' last sees all of them, the one before all but the last, and so on: the
kernel's own causal rule, with its end and not its beginning at the keys' end. Keys that several texts share are read
once for each. float32 has no such kernel (Tri Dao, FlashAttention-2, arXiv:2307.08691) and takes padded blocks, attention.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.varlen import varlen_attn

from rung.kernels.device import fused_allowed

# Since 2.12 it has to be asked for.
GQA: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


@dataclass
class Rows:
    """Which keys each text sees. ends of queries and keys: int32[R + 1], counted through; key_n: which token each key is."""

    query_end: Tensor
    key_end: Tensor
    key_n: Tensor
    queries: int
    keys: int

    @classmethod
    def of(cls, length_R: Tensor, parent_R: Tensor) -> Rows:
        """length: own tokens of each text, one behind the other.  parent: the text that it goes on from, before it; -1: none."""
        own, chains = length_R.tolist(), list[list[int]]()
        for r, parent in enumerate(parent_R.tolist()):
            chains.append([*(chains[parent] if parent >= 0 else []), r])
        fed = [r for r, n in enumerate(own) if n]
        part = torch.tensor([text for r in fed for text in chains[r]], dtype=torch.long)
        seen = [sum(own[text] for text in chains[r]) for r in fed]
        key_n = runs((length_R.cumsum(0) - length_R)[part], length_R[part])
        return cls(_ends([own[r] for r in fed]), _ends(seen), key_n, max(own), max(seen))

    def attend(self, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None) -> Tensor:
        """[H, N, D], [K, N, D] -> [N, H, D]."""
        k, v = (_Seen.apply(x.transpose(0, 1), self.key_n) for x in (k_KND, v_KND))  # type: ignore[no-untyped-call]
        left = -1 if window is None else window - 1
        out: Any = varlen_attn(
            q_HND.transpose(0, 1), k, v, self.query_end, self.key_end, self.queries, self.keys,
            scale=scale, window_size=(left, 0), **GQA,
        )  # fmt: skip
        return out  # type: ignore[no-any-return]


class _Seen(torch.autograd.Function):
    """x_NKD at key_n. What many texts see is moved by all of them: their gradients are summed in float32."""

    @staticmethod
    def forward(ctx: Any, x_NKD: Tensor, key_n: Tensor) -> Tensor:
        ctx.save_for_backward(key_n)
        ctx.size = len(x_NKD)
        return x_NKD.index_select(0, key_n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (key_n,) = ctx.saved_tensors
        out = torch.zeros(ctx.size, *grad.shape[1:], dtype=torch.float32, device=grad.device)
        return out.index_add_(0, key_n, grad.float()).to(grad.dtype), None


def _ends(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def runs(start_R: Tensor, length_R: Tensor) -> Tensor:
    """start, start + 1, ... of each run, one behind the other."""
    first_R = length_R.cumsum(0) - length_R
    return torch.arange(int(length_R.sum())) + (start_R - first_R).repeat_interleave(length_R)


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel runs on such tensors [heads, N, D] here."""
    alike = q.shape[-1] == k.shape[-1] == v.shape[-1]
    return alike and fused_allowed() and q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and _runs_here(
        q.device, q.dtype, len(q), len(k), q.shape[-1]
    )  # fmt: skip


@cache
def _runs_here(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    """Tried forward and backward on three tokens: kernels differ with the GPU, with how PyTorch was built, and with its version."""
    rows = Rows.of(torch.tensor([1, 2]), torch.tensor([-1, 0]))
    rows.query_end, rows.key_end, rows.key_n = (x.to(device) for x in (rows.query_end, rows.key_end, rows.key_n))
    q, k, v = (
        torch.ones(n, 3, width, dtype=dtype, device=device, requires_grad=True) for n in (heads, key_heads, key_heads)
    )
    try:
        with torch.enable_grad():
            grads: Any = torch.autograd.grad(rows.attend(q, k, v, 1.0, 2).sum(), [q, k, v])
        return all(bool(x.isfinite().all()) for x in grads)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, NotImplementedError):
        return False
