"""The exact expected gradient of an opaque function: every batch of a small world is handed to it, one by one.

E[-grad loss] = sum_batches p(batch) sum_bt (- d loss / d logits_bt) d logits_bt / d theta
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rung.exact.estimate import Estimate
from rung.exact.oracle import Batches, groups
from rung.exact.world import F64, Condition, World, scene
from rung.exact.yours.steps import Pair, Rows, Stage, stage
from rung.maths.kl import K1
from rung.recipes import REINFORCE

STRAIGHT = 1e-5  # sin of the angle below which two gradients are proportional: float32 inside a function stays below it


@dataclass(frozen=True)
class Measured:
    """pull_NBTV: - d loss / d logits of each batch.  advantages_NBT: what its advantages were.  bad: those of NaN or inf."""

    stage: Stage
    batches: Batches
    pull_NBTV: Tensor
    advantages_NBT: Tensor
    loss_N: Tensor

    @property
    def bad(self) -> Tensor:
        return ~(self.pull_NBTV.flatten(1).isfinite().all(1) & self.loss_N.isfinite())

    def rows(self, n: int) -> Rows:
        return self.stage.step(self.batches.cells_NB[n], self.batches.group_B)

    def of_rows(self, pull_NBTV: Tensor | None = None) -> Tensor:
        """The gradient that each row brings to each batch: [N, B, D]."""
        pull_NBTV = self.pull_NBTV if pull_NBTV is None else pull_NBTV
        J_SVD, state_CT = self.stage.jacobian, self.stage.state_CT
        mask_CT = self.stage.cells.x["mask"]
        by_cell = (J_SVD[state_CT] * mask_CT[..., None, None]).flatten(1, 2)  # [C, T V, D]
        return torch.stack(
            [
                torch.einsum("nq,nqd->nd", pull_NBTV[:, b].flatten(1), by_cell[cells])
                for b, cells in enumerate(self.batches.cells_NB.T)
            ],
            1,
        )

    @cached_property
    def rows_NBD(self) -> Tensor:
        return self.of_rows()

    def estimate(self, target: Tensor) -> Estimate:
        grad_ND, weight_N = self.rows_NBD.sum(1), self.batches.weight_N
        mean = weight_N @ grad_ND
        centered_ND = grad_ND - mean
        return Estimate(mean, target, centered_ND.T @ (weight_N[:, None] * centered_ND), len(weight_N))


def every_batch(here: Stage, ordered: bool) -> Batches:
    """All groups of every prompt, weighed by their probability; `ordered` for functions that read the order of rows."""
    w = here.scene.world
    group_MG, times_M = groups(w.answers, w.samples, ordered)
    grid = torch.cartesian_prod(*(torch.arange(len(group_MG)),) * w.prompts).view(-1, w.prompts)
    cells_NB = torch.cat([p * w.answers + group_MG[grid[:, p]] for p in range(w.prompts)], 1)
    weights = [(times_M * here.scene.prob_PA[p][group_MG].prod(1))[grid[:, p]] for p in range(w.prompts)]
    return Batches(cells_NB, torch.stack(weights).prod(0), torch.arange(w.prompts).repeat_interleave(w.samples))


def measure(pair: Pair, world: World, condition: Condition, *, ordered: bool = False, **swaps: bool) -> Measured:
    """Hand every batch to the function.

    ordered: as ordered groups.  swaps: untruncated=True says that no answer was cut; no_ref=True makes the reference the policy;
    exact=True puts leave-one-out advantages in the place of the function's.
    """
    here = stage(world, condition)
    batches = every_batch(here, ordered)
    pulls, advantages, losses = [], [], []
    used = replace(pair, advantages=None) if swaps.get("exact") else pair
    for cells_B in batches.cells_NB:
        rows = here.step(cells_B, batches.group_B)
        if swaps.get("untruncated"):
            rows = rows.put(truncated=torch.zeros_like(rows.x["truncated"]))
        if swaps.get("no_ref"):
            rows = rows.put(ref_logp=rows.x["old_logp"])
        rows = used.assess(rows)
        loss, grad = used(rows)
        pulls.append(-grad)
        advantages.append(rows.x["advantages"])
        losses.append(loss)
    return Measured(here, batches, torch.stack(pulls), torch.stack(advantages), torch.tensor(losses, dtype=F64))


@dataclass(frozen=True)
class Truth:
    """grad E[R], and - grad KL(pi || pi_ref) between whole answers: [D] each."""

    reward: Tensor
    kl: Tensor

    def with_kl(self, beta: float) -> Tensor:
        return self.reward + beta * self.kl


def truth(world: World, condition: Condition) -> Truth:
    here = scene(world, condition)
    plain = here.true_gradient(REINFORCE)
    return Truth(plain, here.true_gradient(replace(REINFORCE, kl=K1(1.0))) - plain)
