"""An update rule's work where weights are dealt out: vectors in parts, and the curvature on whole weights.

FSDP differentiates once: what it brings together for a backward is gone behind it. Products with the curvature need two, so
that every process holds the whole weights, and the graph of its own rows, while the linear system is solved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rung.cluster.group import local, whole
from rung.cluster.vector import Layout, Spread, part
from rung.maths.logprob import full_kl
from rung.maths.natural import Product
from rung.network.model import Model
from rung.training.policy import Policy
from rung.training.work import Work, flat


def hollow(model: Model) -> Model:
    """A copy of a model without any weight, made before it is dealt out."""
    empty: dict[int, object] = {
        id(p): nn.Parameter(p.detach().new_empty(0), p.requires_grad) for p in model.hf.parameters()
    }
    return replace(model, hf=copy.deepcopy(model.hf, empty))


@contextmanager
def filled(shell: Model, model: Model) -> Iterator[None]:
    """The weights of a dealt out model in its hollow copy, inside this block."""
    both = list(zip(shell.hf.parameters(), model.hf.parameters(), strict=True))
    try:
        for p, dealt in both:
            p.data = whole(dealt.detach())
        yield
    finally:
        for p, _ in both:
            p.data = p.data.new_empty(0)


@dataclass
class DealtWork(Work):
    shell: Model | None = field(init=False, default=None)

    def take(self) -> Tensor:
        g = flat([torch.zeros_like(local(p)) if p.grad is None else local(p.grad) for p in self.parameters])
        self.forget()
        return g.neg_().as_subclass(Spread)

    def move(self, step: Tensor | None) -> None:
        super().move(part(step))

    def moved_weights(self) -> list[Tensor]:
        return [local(x) for x in super().moved_weights()]

    @contextmanager
    def curvature(self, tokens: int | None) -> Iterator[Product]:
        assert self.shell is not None, "only a rule whose cost has products asks for them"
        with sdpa_kernel(SDPBackend.MATH), filled(self.shell, self.policy.model):
            yield self._dealt_product(self.shell, self.curved(tokens))

    def _dealt_product(self, model: Model, rows: Tensor) -> Product:
        """F v, each process's own rows' part of it summed over all."""
        tokens = self.batch.spoken
        own, everything = self.ranks.own(tokens, rows), int(tokens.mask_BT[rows].sum())
        weights = [p for p in model.hf.parameters() if p.requires_grad]
        layout, slope = Layout(self.parameters, dist.get_world_size()), None
        if len(own):
            log_p = Policy(model, self.policy.temperature).log_p(tokens.rows(own))
            kl = full_kl(log_p.detach(), log_p).sum() / everything
            slope = flat(torch.autograd.grad(kl, weights, create_graph=True, materialize_grads=True))

        def product(v: Tensor) -> Tensor:
            direction = layout.whole(v)
            found = torch.zeros_like(direction)
            if slope is not None:
                parts = torch.autograd.grad(slope @ direction, weights, retain_graph=True, materialize_grads=True)
                found = flat(parts).detach()
            dist.all_reduce(found)
            return layout.mine(found, dist.get_rank())

        return product
