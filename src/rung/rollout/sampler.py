"""What draws answers: the protocol that every sampler keeps, and the law of one token.

Tokens in, tokens out: nothing is decoded to text and encoded again. Each token comes with its log-probability under the
very law it was drawn from, and each answer with the reason why it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rung.maths.logprob import NEVER
from rung.records import Rollout, SamplingLaw
from rung.rollout.draws import Draws


class Sampler(Protocol):
    """Draws answers with the policy's weights, in this process or elsewhere.

    same_numbers: its log-probabilities are those that the trainer computes, but for float32's rounding: the same code and
        weights in float32. The trainer works out its own wherever they are not.
    """

    @property
    def same_numbers(self) -> bool: ...

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        """Answers under `law`, a row of `draws` each, prompt by prompt. A row's answer is its own, whatever is asked beside it."""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """The policy's weights of now, by the names of its state dict: called before the first answer and after each update."""


@runtime_checkable
class Keeps(Protocol):
    """A sampler that can keep what it has read and said, so that a row that goes on costs its new tokens only."""

    def keeping(self) -> AbstractContextManager[Sampler]:
        """One that draws the same answers, and keeps each row by its number (`Draws.rows`) from one call to the next.

        A row is reused as far as its tokens are those of before. One that a call leaves out is forgotten; at the end of the
        block, an error's too, all are.
        """


def keeping(sampler: Sampler) -> AbstractContextManager[Sampler]:
    """The sampler for all turns of some conversations: one that keeps them, if it can."""
    return sampler.keeping() if isinstance(sampler, Keeps) else nullcontext(sampler)


def draw(logits_BV: Tensor, law: SamplingLaw, chance_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds `chance` in [0, 1).

    Returns token int[B], its log-probability under the law, and the law's entropy in nats, float32[B] each.
    At temperature 0 the law is a point: the largest logit, log-probability and entropy 0.
    """
    if law.temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, torch.zeros_like(chance_B), torch.zeros_like(chance_B)
    z_BV = logits_BV.float() if law.temperature == 1 else logits_BV.float() / law.temperature
    z_BV = truncate(z_BV, law)
    z_BV = (z_BV - z_BV.amax(-1, keepdim=True)).clamp_(min=NEVER)
    e_BV = z_BV.exp()
    cumulative_BV = e_BV.cumsum(-1)
    total_B = cumulative_BV[:, -1]
    aim_B = (chance_B * total_B).minimum(total_B * (1 - 1e-7))
    token_B = torch.searchsorted(cumulative_BV, aim_B[:, None], right=True)[:, 0].clamp(max=z_BV.shape[-1] - 1)
    norm_B = e_BV.sum(-1)
    entropy_B = norm_B.log() - e_BV.mul_(z_BV).sum(-1) / norm_B
    return token_B, z_BV.gather(-1, token_B[:, None])[:, 0] - norm_B.log(), entropy_B


def truncate(logits_BV: Tensor, law: SamplingLaw) -> Tensor:
    """-inf outside the top-k and the smallest set of probability top-p; log_softmax of it renormalizes."""
    if law.top_k:
        least = logits_BV.topk(min(law.top_k, logits_BV.shape[-1]), -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least, -torch.inf)
    if law.top_p < 1:
        ordered, order = logits_BV.sort(-1, descending=True)
        p = ordered.softmax(-1)
        outside = p.cumsum(-1) - p >= law.top_p
        logits_BV = logits_BV.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
    return logits_BV
