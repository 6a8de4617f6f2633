"""What an update rule works with: one batch in micro-batches, and their gradients.

Denominators are counted over each optimizer step before any backward. Nothing here knows which rule or recipe it serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rung.kernels.device import fetch, send
from rung.maths.logprob import full_kl
from rung.maths.natural import Product, Trial
from rung.maths.objective import count, objective
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals
from rung.training.metrics import Drift
from rung.training.micro import Micro
from rung.training.needs import frozen
from rung.training.optimizer import MasterAdamW
from rung.training.policy import Minibatch, Part, Policy, microbatches, minibatches, put_back
from rung.training.ranks import ALONE, Ranks, blank, totals

T = TypeVar("T")


@dataclass
class Work:
    """One batch as an update rule sees it (rung.maths.update.Work says what each method is for).

    active: the rows that can change the policy; the others never enter the model again.
    reference: the frozen policy whose full distribution a KL part compares with, or None.
    """

    recipe: Recipe
    policy: Policy
    batch: Batch
    active: Tensor
    max_tokens: int
    micro: Micro
    reference: Policy | None = None
    optimizer: MasterAdamW | None = None
    learning_rate: float = 0.0
    scale: float = 1.0  # share of the learning rate in this training step
    clip_norm: float = 0.0
    seed: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE
    drift: Drift = field(init=False)
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)  # by a micro-batch's first row
    plan: list[Minibatch] = field(default_factory=list)
    begun: bool = False  # whether a step was made, so that the policy is pi_old no more

    def __post_init__(self) -> None:
        self.drift = Drift(self.ranks)
        self.parameters = [p for p in self.policy.model.hf.parameters() if p.requires_grad]
        self._again, self._since, self._gains = False, 0, list[Tensor]()
        self._given: tuple[Minibatch, list[Part]] | None = None  # the latest minibatch, as it came from the sampler
        self._start: list[Tensor] | None = None

    @property
    def rate(self) -> float:
        return self.scale * self.learning_rate

    # -- the batch in parts -----------------------------------------------------------------------------------------
    def cut(self, minibatches_: int = 1, *, again: bool = False) -> list[Minibatch]:
        self._again = again
        for rows in minibatches(self.batch.group_B, minibatches_, self.seed):
            total, active = self.count(rows), rows[torch.isin(rows, self.active)]
            if len(active):
                self.plan.append(Minibatch(total, self._tried(partial(self._frozen, active))))
        return self.plan

    def _frozen(self, rows: Tensor) -> list[Part]:
        return frozen(self, self.parts(rows))

    def _tried(self, attempt: Callable[[], T]) -> T:
        """attempt(), which reads `minibatch.parts`, and again on smaller micro-batches where memory runs out."""
        return self.micro.tried(attempt, self.batch.spoken, self._fit)

    def _fit(self) -> None:
        """No micro-batch is larger than `micro` says now."""
        for minibatch in self.plan:
            minibatch.parts = [piece for part in minibatch.parts for piece in part.cut(self.micro.tokens)]

    def count(self, rows: Tensor | None = None) -> Totals:
        """The denominators of an optimizer step on all rows, or on some, where the objective reads them."""
        whole = count(self.batch if rows is None else self.batch.rows(rows), self.max_tokens)
        return send(self.policy.model.device, whole)[0]  # type: ignore[no-any-return]

    def parts(self, rows: Tensor) -> list[Part]:
        """Micro-batches of some active rows: as many in every process, those of no rows being blank."""
        tokens, device = self.batch.spoken, self.policy.model.device
        split = microbatches(tokens, self.ranks.own(tokens, rows), self.micro.tokens)
        parts = [Part(send(device, self.batch.rows(index))[0], index) for index in split]
        return self.ranks.even(parts, lambda: Part(send(device, blank(self.batch))[0], rows[:0]))

    # -- gradients --------------------------------------------------------------------------------------------------
    def gradient(self, minibatch: Minibatch) -> None:
        self._since = len(self.drift.seen)
        before = [
            None if p.grad is None else p.grad.clone() for p in self.parameters
        ]  # of a critic on the policy's trunk

        def undo() -> None:
            self.drift.forget(self._since)
            for p, g in zip(self.parameters, before, strict=True):
                p.grad = None if g is None else g.clone()
            self._fit()

        self.micro.tried(partial(self._gradient, minibatch), self.batch.spoken, undo)

    def _gradient(self, minibatch: Minibatch) -> None:
        self._gains, own = [], list[Part]()
        for part in minibatch.parts:
            if self.begun:
                J, scores = self.J(part, minibatch.total)
            else:
                J, scores, part = self.J_at_old(part, minibatch.total)
            (-J).backward()  # the one minus sign
            self._gains.append(J.detach())
            self.drift.add(self.recipe, part.batch, scores)
            own.append(part)
            if self._again and len(part.rows):
                self.remember(part, scores)
        if not self.begun:
            self._given, minibatch.parts = (minibatch, minibatch.parts), own

    def old_kl(self) -> float:
        return self.drift.old_kl(self._since)

    def take(self) -> Tensor:
        g = flat([p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]).neg_()
        self.forget()
        return g

    def forget(self) -> None:
        for p in self.parameters:
            p.grad = None

    def J(self, part: Part, total: Totals, *, leash: bool = False) -> tuple[Tensor, Scores]:
        """J and what the policy says now; with KL(old || new) where the objective reads it, or with `leash`."""
        old = part.old if leash or "old_full" in self.recipe.objective_needs else None
        scores = self.policy.score(part.tokens, ref=part.ref, old=old)
        return objective(self.recipe, part.batch, scores, part.adv_BT, total), scores

    def J_at_old(self, part: Part, total: Totals) -> tuple[Tensor, Scores, Part]:
        """J before any step on the batch: pi_old is the policy as it is, so that what it says is log pi_old, free of cost.

        The sampler's numbers come from other kernels, other shapes and often a lower precision: ratios to them would be
        off 1 at pi_old itself, and narrow clips would silence answers before anything has moved.
        """
        old = part.old if "old_full" in self.recipe.objective_needs else None
        scores = self.policy.score(part.tokens, ref=part.ref, old=old)
        own = _with_old(part, scores.logp_BT)
        return objective(self.recipe, own.batch, scores, own.adv_BT, total), scores, own

    # -- steps ------------------------------------------------------------------------------------------------------
    def step(self) -> float:
        assert self.optimizer is not None, "a rule whose cost has no adamw steps by `move`"
        self._leave_old()
        return self.optimizer.step(self.clip_norm, self.scale)

    @torch.no_grad()
    def move(self, step: Tensor | None) -> None:
        self._leave_old()
        weights = self.moved_weights()
        if self._start is None:
            self._start = [x.detach().clone() for x in weights]
        assign(weights, self._start, step)
        if self.optimizer is not None:
            self.optimizer.follow()

    def moved_weights(self) -> list[Tensor]:
        """What a rule moves: float32 masters, where an optimizer holds some."""
        return self.parameters if self.optimizer is None else self.optimizer.masters

    def _leave_old(self) -> None:
        """The first step: what the policy said before it is pi_old to all that follows."""
        if not self.begun and self._again and self._given is not None:
            self._keep_old(*self._given)
        self.begun, self._given = True, None

    def _keep_old(self, now: Minibatch, given: list[Part]) -> None:
        """Remember pi_old before the first step: minibatch `now` has been scored; the others are, where it makes a difference.

        It does where the sampler's numbers are not the trainer's, and where the ratios of `now` to the numbers that it came
        with leave a tenth of the surrogate's room. One more pass without gradient, over the same micro-batches as the update's.
        """
        differ = not self.batch.same_numbers
        if not differ:
            gaps = (
                self.recipe.ratio(o.batch.old_logp_BT, g.batch.old_logp_BT, g.batch.mask_BT)
                for o, g in zip(now.parts, given, strict=True)
            )
            largest = [float(x) for x in fetch(*(gap_BT.abs().max() for gap_BT in gaps))]
            differ = max(self.ranks.every(largest)) > self.recipe.surrogate.room / 10
        for minibatch in self.plan if differ else ():
            if minibatch is not now:
                minibatch.parts = self._tried(partial(self._rescored, minibatch))

    @torch.no_grad()
    def _rescored(self, minibatch: Minibatch) -> list[Part]:
        return [_with_old(part, self.policy.score(part.tokens).logp_BT) for part in minibatch.parts]

    # -- what a step did --------------------------------------------------------------------------------------------
    def trial(self, minibatch: Minibatch) -> Trial:
        return self._tried(partial(self._trial, minibatch))

    @torch.no_grad()
    def _trial(self, minibatch: Minibatch) -> Trial:
        both: list[Tensor] = []
        for part in minibatch.parts:
            J, scores = self.J(part, minibatch.total, leash=True)
            assert scores.old_kl_BT is not None
            both += [J, scores.old_kl_BT.sum()]
        numbers = fetch(*both)
        tokens = sum(int(part.tokens.mask_BT.sum()) for part in minibatch.parts)
        now, before, kl, n = totals(
            self.ranks, total_of(numbers[::2]), total_of(self._gains), total_of(numbers[1::2]), tokens
        )
        return Trial(now - before, kl / max(n, 1))

    def moved(self) -> float | None:
        return self._tried(self._moved)

    @torch.no_grad()
    def _moved(self) -> float | None:
        parts = [part for minibatch in self.plan for part in minibatch.parts if part.old is not None]
        if not parts:
            return None
        scores = (self.policy.score(part.tokens, old=part.old) for part in parts)
        kl = total_of([s.old_kl_BT.sum() for s in scores if s.old_kl_BT is not None])
        kl, n = totals(self.ranks, kl, sum(int(part.tokens.mask_BT.sum()) for part in parts))
        return kl / max(n, 1)

    def remember(self, part: Part, scores: Scores) -> None:
        """Keep each token's ratio, and where the surrogate stops its gradient (1 low, 2 high, 3 dual), for the files."""
        r = self.recipe
        log_ratio_BT = r.ratio(scores.logp_BT.detach(), part.batch.old_logp_BT, part.batch.mask_BT).detach()
        low_BT, high_BT = r.surrogate.clipped(log_ratio_BT, part.adv_BT)
        code_BT = low_BT.to(torch.int8) + 2 * high_BT.to(torch.int8)
        code_BT = code_BT.masked_fill(r.surrogate.bounded(log_ratio_BT, part.adv_BT), 3)
        self.seen[int(part.rows[0])] = part.rows, log_ratio_BT.exp(), code_BT

    def remembered(self) -> tuple[Tensor | None, Tensor | None]:
        """What the last pass kept: ratios float[B, T], NaN where none was seen, and codes int8[B, T]."""
        mine = [rows for rows, *_ in self.seen.values()]
        pairs = fetch(*(x for _, *both in self.seen.values() for x in both))
        rows, found = self.ranks.every(mine), self.ranks.every(pairs)
        if not rows:
            return None, None
        assert self.batch.adv_BT is not None
        blank_BT = torch.full_like(self.batch.adv_BT, math.nan)
        clip_BT = put_back(torch.zeros_like(blank_BT, dtype=torch.int8), rows, found[1::2])
        return put_back(blank_BT, rows, found[::2]), clip_BT

    # -- curvature --------------------------------------------------------------------------------------------------
    @contextmanager
    def curvature(self, tokens: int | None) -> Iterator[Product]:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
            yield self._fisher_product(tokens)

    def _fisher_product(self, most: int | None) -> Product:
        """F v = grad (grad KL . v): two reverse passes through one graph, which is built once and kept for all products."""
        tokens = self.batch.spoken.rows(self.curved(most))
        log_p = self.policy.log_p(tokens)
        kl = full_kl(log_p.detach(), log_p).mean()
        slope = flat(torch.autograd.grad(kl, self.parameters, create_graph=True, materialize_grads=True))

        def product(v: Tensor) -> Tensor:
            found = torch.autograd.grad(slope @ v, self.parameters, retain_graph=True, materialize_grads=True)
            return flat(found).detach()

        return product

    def curved(self, most: int | None) -> Tensor:
        """The active rows that the curvature is averaged over: some at random, with `most` tokens or a little more."""
        rows, used, tokens = [], 0, self.batch.spoken
        for b in self.active[torch.randperm(len(self.active), generator=torch.Generator().manual_seed(0))].tolist():
            if most is not None and used >= most:
                break
            rows.append(b)
            used += int(tokens.length_B[b])
        return torch.tensor(sorted(rows))


def _with_old(part: Part, logp_BT: Tensor) -> Part:
    return replace(part, batch=replace(part.batch, old_logp_BT=logp_BT.detach()))


def total_of(numbers: Sequence[Tensor]) -> float:
    """Their sum, read from the device at once."""
    return sum((float(x) for x in fetch(*numbers)), 0.0)


def flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors]).float()


@torch.no_grad()
def assign(parameters: list[Tensor], base: list[Tensor], step: Tensor | None) -> None:
    """parameters <- base + step; without a step exactly `base`, bit for bit."""
    at = 0
    for p, b in zip(parameters, base, strict=True):
        p.copy_(b if step is None else b + step[at : at + p.numel()].view_as(p))
        at += p.numel()
