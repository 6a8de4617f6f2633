"""Update rules: how the gradient of J becomes new parameters. One function for each update part of a recipe.

Both see the same `Work`: the batch, its advantages, and a split into micro-batches with denominators counted over
each optimizer step. Neither knows which recipe it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rung.kernels.device import fetch, send
from rung.maths.logprob import distribution, full_kl
from rung.maths.natural import Trial, full_step, line_search
from rung.maths.objective import count, objective
from rung.network.forward import predicting_logits, predicting_states
from rung.parts import GradientSteps, NaturalStep
from rung.recipes import Recipe
from rung.records import Batch, Scores, Tokens, Totals
from rung.training.metrics import Drift
from rung.training.needs import FROZEN
from rung.training.optimizer import MasterAdamW
from rung.training.policy import Heads, Policy, microbatches, minibatches, put_back


@dataclass
class Work:
    """Everything an update rule needs for one batch.

    active: the rows that can change the policy; the others never enter the model again.
    reference: the frozen policy whose full distribution a KL part compares with, or None.
    dominated: share of the prompts with a signal in which eps, not the std, sets the advantages' size; None: no eps.
    """

    recipe: Recipe
    policy: Policy
    batch: Batch
    active: Tensor
    max_tokens: int
    micro_tokens: int
    reference: Policy | None = None
    dominated: float | None = None
    drift: Drift = field(default_factory=Drift)
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)  # by a micro-batch's first row

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
        if not self.seen:
            return None, None
        assert self.batch.adv_BT is not None
        blank_BT, rows = torch.full_like(self.batch.adv_BT, math.nan), [rows for rows, *_ in self.seen.values()]
        found = fetch(*(x for _, *both in self.seen.values() for x in both))
        clip_BT = put_back(torch.zeros_like(blank_BT, dtype=torch.int8), rows, found[1::2])
        return put_back(blank_BT, rows, found[::2]), clip_BT

    def count(self, rows: Tensor | None = None) -> Totals:
        """The denominators of an optimizer step on all rows, or on some, where the objective reads them."""
        whole = count(self.batch if rows is None else self.batch.rows(rows), self.max_tokens)
        return send(self.policy.model.device, whole)[0]  # type: ignore[no-any-return]

    def parts(self, rows: Tensor) -> Iterator[Part]:
        """Micro-batches of some active rows, each with the frozen distributions that a part of the recipe needs."""
        for index in microbatches(self.batch.spoken, rows, self.micro_tokens):
            yield Part(send(self.policy.model.device, self.batch.rows(index))[0], index)

    def freeze(self, parts: list[Part], needs: frozenset[str] = frozenset()) -> list[Part]:
        """Add what must be remembered from before the update, for the recipe and for `needs` of the rule's own."""
        for need, remember in FROZEN.items():
            if need in self.recipe.needs | needs:
                parts = [remember(self, p) for p in parts]
        return parts

    def J(self, part: Part, total: Totals) -> tuple[Tensor, Scores]:
        scores = self.policy.score(part.tokens, ref=part.ref, old=part.old)
        return objective(self.recipe, part.batch, scores, part.adv_BT, total), scores

    def J_at_old(self, part: Part, total: Totals) -> tuple[Tensor, Scores, Part]:
        """J before any step on the batch: pi_old is the policy as it is, so that what it says is log pi_old, free of cost.

        The sampler's numbers come from other kernels, other shapes and often a lower precision: ratios to them would be
        off 1 at pi_old itself, and narrow clips would silence answers before anything has moved.
        """
        scores = self.policy.score(part.tokens, ref=part.ref, old=part.old)
        own = _with_old(part, scores.logp_BT)
        return objective(self.recipe, own.batch, scores, own.adv_BT, total), scores, own

    def keep_old(self, plan: Plan, now: int, own: list[Part]) -> None:
        """Remember pi_old before the first step: minibatch `now` has been scored; the others are, where it makes a difference.

        It does in any precision but float32, and where the ratios of `now` to the numbers that it came with leave a tenth
        of the surrogate's room. One more pass without gradient, over the same micro-batches as the update's.
        """
        given, differ = plan[now][1], self.policy.model.hf.dtype != torch.float32
        if not differ:
            gaps = (
                self.recipe.ratio(o.batch.old_logp_BT, g.batch.old_logp_BT, g.batch.mask_BT)
                for o, g in zip(own, given, strict=True)
            )
            differ = (
                max(float(x) for x in fetch(*(gap_BT.abs().max() for gap_BT in gaps))) > self.recipe.surrogate.room / 10
            )
        for k, (total, parts) in enumerate(plan):
            plan[k] = (total, own if k == now else [self._rescored(p) for p in parts] if differ else parts)

    @torch.no_grad()
    def _rescored(self, part: Part) -> Part:
        return _with_old(part, self.policy.score(part.tokens).logp_BT)


@dataclass(frozen=True)
class Part:
    """A micro-batch: some rows of the step, narrowed to their longest answer.

    batch: on the model's device, for the objective, but for its tokens.  rows: their numbers in the step.
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


Plan = list[tuple[Totals, list[Part]]]  # the micro-batches of each optimizer step of a pass, and its denominators


def _with_old(part: Part, logp_BT: Tensor) -> Part:
    return replace(part, batch=replace(part.batch, old_logp_BT=logp_BT.detach()))


# -- gradient steps ------------------------------------------------------------------------------------------------
def gradient_steps(
    work: Work, rule: GradientSteps, optimizer: MasterAdamW, clip_norm: float, scale: float, seed: int
) -> dict[str, float]:
    """`epochs` passes over `minibatches` parts; one optimizer step each on grad J, summed over micro-batches."""
    plan: Plan = []
    for rows in minibatches(work.batch.group_B, rule.minibatches, seed):
        total = work.count(rows)
        active = rows[torch.isin(rows, work.active)]
        plan.append((total, work.freeze(list(work.parts(active)))))
    norms: list[float] = []
    several = rule.epochs * rule.minibatches > 1  # in a single update every ratio is pi_old's to itself
    for _ in range(rule.epochs):
        for k in range(len(plan)):
            total, parts = plan[k]
            begun, own = len(work.drift.seen), list[Part]()
            for part in parts:
                J, scores, seen = (*work.J(part, total), part) if norms else work.J_at_old(part, total)
                (-J).backward()  # the one minus sign
                own.append(seen)
                work.drift.add(work.recipe, seen.batch, scores)
                if several:
                    work.remember(seen, scores)
            if rule.target_kl is not None and work.drift.old_kl(begun) > 1.5 * rule.target_kl:
                optimizer.zero_grad()
                return _report(norms, stopped=True)
            if several and parts and not norms:
                work.keep_old(plan, k, own)
            if parts:
                norms.append(optimizer.step(clip_norm, scale))
    remembered = [p for _, parts in plan for p in parts if p.old is not None]
    return _report(norms, stopped=False) | ({"trust/kl": _moved(work, remembered)} if remembered else {})


def _report(norms: list[float], *, stopped: bool) -> dict[str, float]:
    mean = sum(norms) / len(norms) if norms else 0.0
    return {"grad_norm": mean, "update/steps": float(len(norms)), "update/stopped_early": float(stopped)}


@torch.no_grad()
def _moved(work: Work, parts: list[Part]) -> float:
    """Mean KL(old || new) per token after the update, full vocabulary, over all rows that entered the model."""
    scores = (work.policy.score(part.tokens, old=part.old) for part in parts)
    kl = total_of([s.old_kl_BT.sum() for s in scores if s.old_kl_BT is not None])
    return kl / max(sum(int(part.tokens.mask_BT.sum()) for part in parts), 1)


def total_of(numbers: Sequence[Tensor]) -> float:
    """Their sum, read from the device at once."""
    return sum((float(x) for x in fetch(*numbers)), 0.0)


# -- the natural step (TRPO) ---------------------------------------------------------------------------------------
def natural_step(work: Work, rule: NaturalStep, parameters: list[Tensor]) -> dict[str, float]:
    """theta + s x with (F + damping I) x = grad J and KL(old||new) <= max_kl per token; else theta, bit for bit."""
    total = work.count()
    parts = work.freeze(list(work.parts(work.active)), needs=frozenset({"old_full"}))
    before = [p.detach().clone() for p in parameters]
    tokens = sum(int(part.tokens.mask_BT.sum()) for part in parts)
    gains: list[Tensor] = []
    for k, part in enumerate(parts):
        J, scores, own = work.J_at_old(replace(part, old=None), total)
        (-J).backward()
        gains.append(J.detach())
        work.drift.add(work.recipe, own.batch, scores)
        parts[k] = replace(own, old=part.old)
    gain_old = total_of(gains)
    g = _flat([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]).neg_()
    for p in parameters:
        p.grad = None
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        product = _fisher_product(work, rule, parameters)
        step = full_step(product, g, rule.max_kl, rule.damping, rule.cg_iterations)
    del product
    if step is None:
        return {"grad_norm": float(g.norm()), "update/steps": 0, "trpo/fraction": 0.0, "trpo/kl": 0.0}

    @torch.no_grad()
    def evaluate(fraction: float) -> Trial:
        _assign(parameters, before, fraction * step)
        both: list[Tensor] = []
        for part in parts:
            J, scores = work.J(part, total)
            assert scores.old_kl_BT is not None
            both += [J, scores.old_kl_BT.sum()]
        numbers = fetch(*both)
        kl = total_of(numbers[1::2]) / max(tokens, 1)
        return Trial(total_of(numbers[::2]) - gain_old, kl)

    fraction, trial = line_search(evaluate, rule.max_kl, rule.shrink, rule.backtracks)
    if fraction == 0.0:
        _assign(parameters, before, None)
    return {
        "grad_norm": float(g.norm()),
        "update/steps": float(fraction > 0),
        "trpo/fraction": fraction,
        "trpo/kl": trial.kl if fraction else 0.0,
        "trpo/gain": trial.gain if fraction else 0.0,
    }


def _fisher_product(work: Work, rule: NaturalStep, parameters: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """v -> F v, F the Hessian at pi_old of the mean KL(old||new) per token over some of the batch's rows.

    F v = grad (grad KL . v): two reverse passes through one graph, which is built once and kept for all iterations.
    """
    rows, used, tokens = [], 0, work.batch.spoken
    for b in work.active[torch.randperm(len(work.active), generator=torch.Generator().manual_seed(0))].tolist():
        if rule.curvature_tokens is not None and used >= rule.curvature_tokens:
            break
        rows.append(b)
        used += int(tokens.length_B[b])
    tokens = tokens.rows(torch.tensor(sorted(rows)))
    model, T = work.policy.model, work.policy.temperature
    if model.packs:
        weight, bias = model.head
        log_p = distribution(predicting_states(model, tokens)[0], weight, bias=bias, temperature=T)
    else:
        log_p = (predicting_logits(model, tokens)[0].float() / T).log_softmax(-1)
    kl = full_kl(log_p.detach(), log_p).mean()
    slope = _flat(torch.autograd.grad(kl, parameters, create_graph=True, materialize_grads=True))

    def product(v: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(slope @ v, parameters, retain_graph=True, materialize_grads=True)).detach()

    return product


def _flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors]).float()


@torch.no_grad()
def _assign(parameters: list[Tensor], base: list[Tensor], step: Tensor | None) -> None:
    """parameters <- base + step; without a step exactly `base`, bit for bit."""
    at = 0
    for p, b in zip(parameters, base, strict=True):
        p.copy_(b if step is None else b + step[at : at + p.numel()].view_as(p))
        at += p.numel()
