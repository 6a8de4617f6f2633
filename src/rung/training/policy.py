"""The policy: what the model says about a batch's tokens, with gradient.

Tokens come from main memory; what is said of them is given back on the model's device. The head sees answer positions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rung.kernels.attention import scatter
from rung.kernels.device import fetch
from rung.maths.logprob import CHUNK_ELEMENTS, distribution, entropy_of, full_kl, token_logprob
from rung.network.adapter import adapter_off
from rung.network.checkpointing import is_on
from rung.network.forward import predicting_logits, predicting_states
from rung.network.model import Model
from rung.records import Batch, Scores, Tokens, Totals
from rung.training.ranks import ALONE, Ranks, unspoken


@dataclass(frozen=True)
class Heads:
    """A distribution per scored token that can be recomputed: hidden states [n, D], head weight and bias, frozen."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def rows(self, tokens: Tokens, index: Tensor) -> Heads:
        """Those at some rows of the tokens that they were made of."""
        of_row = self.hidden.split(tokens.mask_BT.sum(1).tolist())
        return replace(self, hidden=torch.cat([of_row[b] for b in index.tolist()]))


def slots(tokens: Tokens) -> Tensor:
    """Where the scored tokens stand in [B, T], counted row by row: int[n]."""
    return tokens.mask_BT.flatten().nonzero()[:, 0]


@dataclass
class Policy:
    """`model` under the sampling temperature: every log-probability is that of the law that was sampled."""

    model: Model
    temperature: float = 1.0

    def score(self, tokens: Tokens, *, ref: Heads | None = None, old: Heads | None = None) -> Scores:
        """Log-probabilities and entropies of the tokens under `mask_BT`, zero elsewhere, with gradient.

        ref, old: frozen distributions at the same tokens; where given, KL(pi || ref) or KL(old || pi) over the full
        vocabulary comes too.
        """
        *columns, slot = self.model.whole(self._columns, tokens, ref, old)
        shape = tokens.mask_BT.shape
        return Scores(*(None if c is None else scatter(c, slot, shape) for c in columns))  # type: ignore[arg-type]

    def _columns(self, tokens: Tokens, ref: Heads | None, old: Heads | None) -> list[Any]:
        """The fields of Scores at the scored tokens, [n] each, and where those stand: int[n]."""
        target = tokens.tokens_BT[tokens.mask_BT]
        if not self.model.packs:
            logits, target, slot = predicting_logits(self.model, tokens, target, slots(tokens))
            log_p = (logits.float() / self.temperature).log_softmax(-1)
            columns: list[Tensor | None] = [log_p.gather(-1, target[:, None]).sum(1), entropy_of(log_p)]
            columns += [
                full_kl(log_p, self._log_p(ref)) if ref else None,
                full_kl(self._log_p(old), log_p) if old else None,
            ]
        else:
            hidden, target, slot = predicting_states(self.model, tokens, target, slots(tokens))
            weight, bias = self.model.head
            logp, entropy = token_logprob(hidden, weight, target, bias=bias, temperature=self.temperature)
            columns = [logp, entropy]
            columns += [self._full(hidden, ref, forward=True), self._full(hidden, old, forward=False)]
        return [*columns, slot]

    @torch.no_grad()
    def freeze(self, tokens: Tokens) -> Heads:
        """The distributions at the scored tokens, to be compared with later: hidden states and a copy of the head."""
        return self.model.whole(self._heads, tokens)

    def _heads(self, tokens: Tokens) -> Heads:
        if not self.model.packs:
            (logits,) = predicting_logits(self.model, tokens)
            return Heads(logits.float(), torch.empty(0), None)
        weight, bias = self.model.head
        (hidden,) = predicting_states(self.model, tokens)
        return Heads(hidden.clone(), weight.clone(), None if bias is None else bias.clone())

    def log_p(self, tokens: Tokens) -> Tensor:
        """log pi over the whole vocabulary at the scored tokens, [n, V], with gradient: for few tokens."""
        if not self.model.packs:
            return (predicting_logits(self.model, tokens)[0].float() / self.temperature).log_softmax(-1)
        weight, bias = self.model.head
        return distribution(predicting_states(self.model, tokens)[0], weight, bias=bias, temperature=self.temperature)

    def kept(self) -> dict[str, Tensor] | None:
        """The weights that a checkpoint must hold to have this policy again; None: those of the model that is trained."""
        return dict(self.model.hf.state_dict())

    def _log_p(self, heads: Heads) -> Tensor:
        if heads.weight.numel() == 0:  # the fallback keeps logits
            return (heads.hidden / self.temperature).log_softmax(-1)
        return distribution(heads.hidden, heads.weight, bias=heads.bias, temperature=self.temperature)

    def _full(self, hidden: Tensor, other: Heads | None, *, forward: bool) -> Tensor | None:
        """KL(pi || other) if `forward`, else KL(other || pi), per token, some tokens at a time."""
        if other is None:
            return None
        weight, bias = self.model.head

        def part(h: Tensor, o: Tensor) -> Tensor:
            log_p = distribution(h, weight, bias=bias, temperature=self.temperature)
            with torch.no_grad():
                log_q = self._log_p(Heads(o, other.weight, other.bias))
            return full_kl(log_p, log_q) if forward else full_kl(log_q, log_p)

        n = max(1, CHUNK_ELEMENTS // weight.shape[0])
        chunks = zip(hidden.split(n), other.hidden.split(n), strict=True)
        if len(hidden) <= n:
            return part(hidden, other.hidden)
        return torch.cat([checkpoint(part, h, o, use_reentrant=False) for h, o in chunks])


class BasePolicy(Policy):
    """pi_ref of a model with an adapter: the same weights with the adapter off. No second model, and never a gradient."""

    @torch.no_grad()
    def score(self, tokens: Tokens, *, ref: Heads | None = None, old: Heads | None = None) -> Scores:
        with adapter_off(self.model.hf):
            return super().score(tokens, ref=ref, old=old)

    @torch.no_grad()
    def freeze(self, tokens: Tokens) -> Heads:
        with adapter_off(self.model.hf):
            return super().freeze(tokens)

    def kept(self) -> None:
        return None


@dataclass(frozen=True)
class Part:
    """A micro-batch: some rows of the step, narrowed to their longest answer.

    batch: on the model's device, for the objective, but for its tokens.  rows: their numbers in the step.
    ref, old: the reference's and the old policy's distributions at its tokens, where a part of the recipe needs them.
    """

    batch: Batch
    rows: Tensor
    ref: Heads | None = None
    old: Heads | None = None

    @property
    def tokens(self) -> Tokens:
        return self.batch.spoken

    @property
    def adv_BT(self) -> Tensor:
        assert self.batch.adv_BT is not None
        return self.batch.adv_BT

    def cut(self, budget: int) -> list[Part]:
        """The same in parts that feed at most `budget` tokens each."""
        cut = list(microbatches(self.tokens, torch.arange(len(self.rows)), budget))
        return [self] if len(cut) == 1 else [self._some(index) for index in cut]

    def _some(self, index: Tensor) -> Part:
        ref, old = (None if x is None else x.rows(self.tokens, index) for x in (self.ref, self.old))
        return Part(self.batch.rows(index), self.rows[index], ref, old)


@dataclass
class Minibatch:
    """What one optimizer step sees: its denominators, and its micro-batches."""

    total: Totals
    parts: list[Part]


@torch.no_grad()
def in_parts(
    tokens: Tokens, budget: int, f: Callable[[Tokens], Tensor], rows: Tensor | None = None, ranks: Ranks = ALONE
) -> Tensor:
    """f of the rows (None: of all), some at a time, put together in main memory: float32[B, T], without gradient."""
    every = torch.arange(len(tokens.length_B)) if rows is None else rows
    split = list(microbatches(tokens, ranks.own(tokens, every), budget))
    parts = ranks.even([tokens.rows(index) for index in split], lambda: unspoken(tokens))
    found = fetch(*[f(part) for part in parts])[: len(split)]
    return ranks.total(put_back(torch.zeros(tokens.mask_BT.shape), split, found))


def put_back(out_BT: Tensor, rows: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Each part [b, t], as wide as the longest of its own rows, in their place in [B, T]."""
    for index, part_BT in zip(rows, parts, strict=True):
        out_BT[index, : part_BT.shape[1]] = part_BT
    return out_BT


def minibatches(group_B: Tensor, parts: int, seed: int) -> list[Tensor]:
    """Row numbers in exactly `parts` parts at random, an optimizer step each, as even as can be: [3, 3, 2, 2] of 10 prompts.

    The answers to a prompt stay together; only where there are fewer prompts than parts are they split by the row.
    """
    if parts == 1:
        return [torch.arange(len(group_B))]
    generator = torch.Generator().manual_seed(seed)
    prompts = int(group_B.max()) + 1
    if prompts >= parts:
        order = torch.randperm(prompts, generator=generator)
        return [torch.isin(group_B, chunk).nonzero()[:, 0] for chunk in order.tensor_split(parts)]
    return list(torch.randperm(len(group_B), generator=generator).tensor_split(parts))


def microbatches(tokens: Tokens, rows: Tensor, budget: int) -> Iterator[Tensor]:
    """Split row numbers into parts that feed at most `budget` tokens each, prompts included.

    The rows of a prompt stay together, so that it runs once, unless they alone exceed the budget: then they are cut
    into equal parts.
    """
    part: list[int] = []
    used = 0
    for group in tokens.group_B[rows].unique().tolist():
        members = rows[tokens.group_B[rows] == group]
        cost = len(tokens.prompts[group]) + int(tokens.length_B[members].sum())
        if part and used + cost > budget:
            yield torch.tensor(part)
            part, used = [], 0
        if cost > budget:
            room = max(budget - len(tokens.prompts[group]), 1)
            pieces = math.ceil(int(tokens.length_B[members].sum()) / room)
            yield from members.chunk(min(pieces, len(members)))
        else:
            part += members.tolist()
            used += cost
    if part:
        yield torch.tensor(part)


def typical(size: Any) -> int:
    """A size of a layer: their mean where a configuration names one for each of them."""
    return round(fmean(size)) if isinstance(size, list | tuple) else int(size)


def activation_bytes_per_token(model: Model, checkpoints: bool | None = None) -> int:
    """A rough size of what the backward keeps per token: about 16 D + 4 F + 3 H numbers a layer.

    checkpoints: whether layers are computed again; None: as the model is set.
    """
    c = model.hf.config.get_text_config()
    D, layers = c.hidden_size, c.num_hidden_layers
    F = typical(getattr(c, "intermediate_size", None) or 4 * D)
    width = 2 if model.hf.dtype in (torch.bfloat16, torch.float16) else 4
    if is_on(model) if checkpoints is None else checkpoints:  # every layer's input, and all of the one that is computed again
        return int((layers * D + 16 * D + 4 * F) * width)
    return int(layers * (16 * D + 4 * F) * width)
