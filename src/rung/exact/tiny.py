"""Tiny policies over a tree of tokens: a flat float64 vector of parameters in, the logits of every state out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]  # theta[D] -> logits[P, S, V]
Kind = Literal["tabular", "mlp", "transformer"]


def build(kind: Kind, prompts: int, prefixes: Sequence[tuple[int, ...]], vocabulary: int) -> tuple[int, Logits]:
    """(number of parameters D, theta -> logits of each prompt and prefix)."""
    horizon = max(map(len, prefixes)) + 1
    if kind == "tabular":
        return tabular(prompts, len(prefixes), vocabulary)
    if kind == "mlp":
        return mlp(prompts, prefixes, vocabulary, horizon)
    return transformer(prompts, prefixes, vocabulary, horizon)


def tabular(P: int, S: int, V: int) -> tuple[int, Logits]:
    """logits_psv = theta_psv: every state has its own parameters."""
    return P * S * V, lambda theta: theta.view(P, S, V)


def mlp(P: int, prefixes: Sequence[tuple[int, ...]], V: int, H: int, width: int = 4) -> tuple[int, Logits]:
    """logits = W2 tanh(W1 x + b1) + b2, x = (prompt, one token per position): states share their parameters."""
    x = torch.zeros(P, len(prefixes), P + H * V, dtype=torch.float64)
    for p in range(P):
        for s, prefix in enumerate(prefixes):
            x[p, s, p] = 1.0
            for t, token in enumerate(prefix):
                x[p, s, P + t * V + token] = 1.0
    sizes = (x.shape[-1] * width, width, width * V, V)

    def logits(theta: Tensor) -> Tensor:
        cut: Sequence[Tensor] = theta.split(sizes)
        W1, b1, W2, b2 = cut
        return torch.tanh(x @ W1.view(-1, width) + b1) @ W2.view(width, V) + b2

    return sum(sizes), logits


def transformer(P: int, prefixes: Sequence[tuple[int, ...]], V: int, H: int, width: int = 4) -> tuple[int, Logits]:
    """One attention head over prompt and prefix, read at the last position; embeddings, positions, residual, head."""
    S = len(prefixes)
    ids = torch.zeros(P, S, H, dtype=torch.long)
    seen = torch.zeros(S, H, dtype=torch.bool)
    for s, prefix in enumerate(prefixes):
        seen[s, : len(prefix) + 1] = True
        for p in range(P):
            ids[p, s, : len(prefix) + 1] = torch.tensor((V + p, *prefix))
    last = seen.sum(1) - 1
    sizes = ((V + P) * width, H * width, *(width * width,) * 4, width * V)

    def logits(theta: Tensor) -> Tensor:
        cut: Sequence[Tensor] = theta.split(sizes)
        E, pos, Wq, Wk, Wv, Wo, head = cut
        x = E.view(V + P, width)[ids] + pos.view(H, width)
        now = x[:, torch.arange(S), last]
        q, k, v = now @ Wq.view(width, width), x @ Wk.view(width, width), x @ Wv.view(width, width)
        score = torch.einsum("psd,pshd->psh", q, k) / math.sqrt(width)
        weight = score.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed = torch.einsum("psh,pshd->psd", weight, v) @ Wo.view(width, width)
        return torch.tanh(now + mixed) @ head.view(width, V)

    return sum(sizes), logits
