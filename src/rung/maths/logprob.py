"""Log-probabilities and entropy of given tokens, in bounded memory.

The head is applied to a few hundred tokens at a time. Of few tokens the forward keeps log p over the vocabulary, and the
head costs three products; of many only two numbers a token survive it (log-normalizer and entropy), and the backward
computes each chunk's logits again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rung.maths.products import large_products

CHUNK_ELEMENTS = 1 << 24  # logits alive at once: 64 MiB in float32
KEPT_ELEMENTS = 1 << 26  # log p that may wait for the backward: 256 MiB; of more, nothing is kept
NEVER = -1e4  # stands for log 0 before a product with p: exp(-1e4) is 0, and 0 * -1e4 is too, where 0 * -inf is not


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """z = head(h) / temperature in float32: [n, V], a new tensor."""
    with large_products(weight):
        logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits / temperature


def _log_p(z: Tensor, norm: Tensor) -> Tensor:
    """log p = z - log sum exp z in place of z, with NEVER for log 0."""
    return z.sub_(norm[:, None]).clamp_(min=NEVER)


class _TokenLogProb(torch.autograd.Function):
    """(log p(y|h), H(p(.|h))) for each row; d log p = onehot - p,  d H = -p (log p + H), 0 log 0 = 0."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float, keep: bool
    ) -> tuple[Tensor, Tensor]:
        n, V = len(target), weight.shape[0]
        kept: list[Tensor] = []
        logp, entropy, norm = (torch.empty(n, dtype=torch.float32, device=hidden.device) for _ in range(3))
        for rows in torch.arange(n, device=hidden.device).split(max(1, CHUNK_ELEMENTS // V)):
            z = _logits(hidden[rows], weight, bias, temperature)
            norm[rows] = z.logsumexp(-1)
            logp[rows] = z.gather(-1, target[rows, None])[:, 0] - norm[rows]
            log_p = _log_p(z, norm[rows])
            entropy[rows] = -torch.linalg.vecdot(log_p.exp(), log_p)
            if keep:
                kept.append(log_p)
        ctx.save_for_backward(hidden, weight, bias, target, norm, entropy)
        ctx.kept = kept
        ctx.set_materialize_grads(False)  # what nobody differentiates has no gradient, instead of zeros to be looked at
        ctx.temperature = temperature
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, norm, entropy = ctx.saved_tensors
        grad_logp = torch.zeros_like(norm) if grad_logp is None else grad_logp
        n, V = len(target), weight.shape[0]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=weight.device)
        for i, rows in enumerate(torch.arange(n, device=hidden.device).split(max(1, CHUNK_ELEMENTS // V))):
            again = not ctx.kept
            log_p = _log_p(_logits(hidden[rows], weight, bias, ctx.temperature), norm[rows]) if again else ctx.kept[i]
            slope = -grad_logp[rows, None] / ctx.temperature
            if grad_entropy is not None:
                tilt = grad_entropy[rows, None] / ctx.temperature
                slope = slope - tilt * (log_p + entropy[rows, None])
            g = log_p.exp().mul_(slope)
            g[torch.arange(len(rows), device=g.device), target[rows]] += grad_logp[rows] / ctx.temperature
            g = g.to(weight.dtype)
            with large_products(weight):
                grad_hidden[rows] = (g @ weight).to(hidden.dtype)
                if ctx.needs_input_grad[1]:
                    grad_weight += g.T @ hidden[rows]
            if grad_bias is not None:
                grad_bias += g.sum(0)
        wanted = grad_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None
        return grad_hidden, wanted, None if grad_bias is None else grad_bias.to(weight.dtype), None, None, None


def token_logprob(
    hidden: Tensor, weight: Tensor, target: Tensor, *, bias: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log p(y|h) and H(p(.|h)) with p = softmax(W h / temperature): two float32[n] with gradient.

    Args:
        hidden: [n, D], the state that predicts each token.  weight: [V, D], the head.  target: int[n].
        temperature: of the SamplingLaw that drew the tokens; scoring at another one is not the sampled law.
    """
    keep = torch.is_grad_enabled() and keeps(len(target), weight.shape[0])
    out: tuple[Tensor, Tensor] = _TokenLogProb.apply(hidden, weight, bias, target, temperature, keep)  # type: ignore[no-untyped-call]
    return out


def keeps(n: int, V: int) -> bool:
    """Whether log p over V words waits for the backward of n tokens, or is computed again in it."""
    return n * V <= KEPT_ELEMENTS


def distribution(hidden: Tensor, weight: Tensor, *, bias: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """log softmax(W h / temperature) in float32, [n, V]: plain autograd, differentiable twice, all of it in memory."""
    return _logits(hidden, weight, bias, temperature).log_softmax(-1)


def full_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_v p (log p - log q) per row, [n]; a word that p cannot produce adds 0."""
    p = log_p.exp()
    gap = (log_p - log_q).masked_fill(p == 0, 0.0)  # before the product: after it, the gradient is 0 * inf
    return (p * gap).sum(-1)


def entropy_of(log_p: Tensor) -> Tensor:
    """H(p) = -sum_v p log p in nats per row, [n]; 0 log 0 = 0."""
    return -(log_p.exp() * log_p.clamp(min=NEVER)).sum(-1)
