"""The exact expected gradient of a recipe: every batch of a small world, weighed by its probability.

    E[g] = sum_batches p(batch) grad J(batch),   compared with grad mean_x sum_y pi(y) (R(y) - beta log pi/pi_ref)

J(batch) comes from the functions that train: recipe.kl.shape_reward -> credit -> normalize -> objective, with count()
for the denominators. Two facts make it fast, and both are checked on batches of each recipe before they are used:
a credit or normalization that looks no further than a prompt's group can take many batches side by side (the others
are called batch by batch), and J is a sum over rows once the totals are given, so batches with equal totals go together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rung.errors import InputError
from rung.exact.estimate import Estimate
from rung.exact.needs import FULL
from rung.exact.world import F64, LONGEST, SECONDS_PER_BATCH, Scene, World
from rung.io.terminal import span
from rung.maths.logprob import full_kl
from rung.maths.objective import count, objective, right
from rung.maths.returns import has_signal, total_return, varies
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals

CHUNK = 50_000  # batches side by side
CHECKED = 4  # batches on which side by side is compared with one by one


# -- all batches ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Batches:
    """cells_NB: which cell each row of each batch is.  weight_N: its probability.  group_B: the slot of each row."""

    cells_NB: Tensor
    weight_N: Tensor
    group_B: Tensor


def groups(answers: int, samples: int, ordered: bool = False) -> tuple[Tensor, Tensor]:
    """All groups of answers [M, G], and how many ordered groups each stands for [M]."""
    if ordered:
        every = torch.tensor(list(itertools.product(range(answers), repeat=samples)))
        return every, torch.ones(len(every), dtype=F64)
    every = torch.tensor(list(itertools.combinations_with_replacement(range(answers), samples)))
    times = torch.full((len(every),), float(math.factorial(samples)), dtype=F64)
    run = torch.ones(len(every), dtype=F64)  # the multinomial coefficient: divide by the factorial of each multiplicity
    for g in range(1, samples):
        run = torch.where(every[:, g] == every[:, g - 1], run + 1, 1.0)
        times = times / run
    return every, times


def all_batches(recipe: Recipe, scene: Scene, ordered: bool = False) -> Batches:
    """Every batch with its probability. Dynamic sampling draws other prompts in the place of zero-variance groups."""
    w = scene.world
    group_MG, times_M = groups(w.answers, w.samples, ordered)
    prob_PM = torch.stack([times_M * prob_A[group_MG].prod(1) for prob_A in scene.prob_PA])
    slots = [(p * w.answers + group_MG, prob_PM[p]) for p in range(w.prompts)]
    if recipe.data.resample:
        slots = _resampled(recipe, scene, group_MG, prob_PM)
    grid = torch.cartesian_prod(*(torch.arange(len(weight)) for _, weight in slots)).view(-1, w.prompts)
    cells = torch.cat([cells_KG[grid[:, s]] for s, (cells_KG, _) in enumerate(slots)], 1)
    weight = torch.stack([weight_K[grid[:, s]] for s, (_, weight_K) in enumerate(slots)]).prod(0)
    group_B = torch.arange(w.prompts).repeat_interleave(w.samples)
    return Batches(cells[weight > 0], weight[weight > 0], group_B)


def _resampled(recipe: Recipe, scene: Scene, group_MG: Tensor, prob_PM: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Per slot: a group with a signal of the slot's prompt, else of a prompt drawn anew, `resample` times; then what was first."""
    w = scene.world
    cells_PMG = torch.stack([p * w.answers + group_MG for p in range(w.prompts)])
    signal = _differ(scene, cells_PMG.flatten(0, 1)).view(w.prompts, -1)
    good_PM = prob_PM * signal
    zero_variance_P = 1 - good_PM.sum(1)
    fresh = sum(
        float(zero_variance_P.mean()) ** k for k in range(recipe.data.resample)
    )  # expected draws after the first
    out = []
    for s in range(w.prompts):
        weight_PM = zero_variance_P[s] * fresh * good_PM / w.prompts
        weight_PM[s] += good_PM[s] + prob_PM[s] * ~signal[s] * float(zero_variance_P.mean()) ** recipe.data.resample
        out.append((cells_PMG.flatten(0, 1), weight_PM.flatten()))
    return out


def _differ(scene: Scene, cells_NG: Tensor) -> Tensor:
    """Whether the task pays the answers of each group differently, whatever their length costs: bool[N]."""
    earned_C = total_return(scene.reward_PAT.flatten(0, 1), scene.tree.mask_AT.repeat(scene.world.prompts, 1))
    rows, ids = cells_NG.flatten(), torch.arange(len(cells_NG)).repeat_interleave(cells_NG.shape[1])
    return has_signal(earned_C[rows], torch.ones_like(rows, dtype=torch.bool), ids).view(cells_NG.shape)[:, 0]


# -- one expected gradient -----------------------------------------------------------------------------------------
def expected_gradient(recipe: Recipe, scene: Scene, *, ordered: bool = False) -> Estimate:
    """The mean and covariance of grad J(batch) over every batch of the world, and the true gradient.

    `ordered=True` enumerates ordered groups instead of multisets: for parts that read the order of rows.
    """
    batches = all_batches(recipe, scene, ordered)
    grad_ND = batch_gradients(recipe, scene, batches)
    mean = batches.weight_N @ grad_ND
    centered_ND = grad_ND - mean
    covariance = centered_ND.T @ (batches.weight_N[:, None] * centered_ND)
    return Estimate(mean, scene.true_gradient(recipe), covariance, len(batches.weight_N))


def batch_gradients(recipe: Recipe, scene: Scene, batches: Batches) -> Tensor:
    """grad J of each batch: [N, D]."""
    rows, T = scene.rows(recipe), scene.world.horizon
    N, B = batches.cells_NB.shape
    shaped = recipe.kl.shape_reward(rows)
    key = (recipe.credit, recipe.normalize, recipe.data, recipe.kl if recipe.kl.where == "reward" else None, N)
    if key not in scene.advantages:  # recipes that differ after the credit share it
        scene.advantages[key] = advantages(recipe, scene, rows, shaped, batches)
    adv_NBT = scene.advantages[key]
    pull_CNBT = torch.zeros(len(Scene.CHANNELS), N, B, T, dtype=F64)
    for index in _equal_totals(recipe, scene, shaped, batches, adv_NBT):
        pull_CNBT[:, index] = pull(recipe, scene, shaped, batches, index, adv_NBT)
    _refuse_no_sum_over_rows(recipe, scene, shaped, batches, adv_NBT, pull_CNBT)
    out_ND = torch.zeros(N, len(scene.theta), dtype=F64)
    for index in torch.arange(N).split(CHUNK):
        where_nQ = (batches.cells_NB[index][..., None] * T + torch.arange(T)).flatten(1)
        for pull_NBT, jacobian_QD in zip(pull_CNBT, scene.jacobian, strict=True):
            if (pull_NBT[index] != 0).any():
                by_cell_nQ = torch.zeros(len(index), len(jacobian_QD), dtype=F64)
                by_cell_nQ.scatter_add_(1, where_nQ, pull_NBT[index].flatten(1))
                out_ND[index] += by_cell_nQ @ jacobian_QD
    return out_ND


def advantages(recipe: Recipe, scene: Scene, rows: Batch, shaped: Batch, batches: Batches) -> Tensor:
    """normalize(credit(batch)) of each batch: [N, B, T]. Side by side where the parts allow it. shaped: `rows` with a KL."""
    w = scene.world
    adv_NBT = _each(lambda batch, _: recipe.credit(batch), w, shaped, batches, None)

    def normalize(batch: Batch, adv_BT: Tensor) -> Tensor:
        return recipe.normalize(adv_BT, batch.mask_BT & batch.valid_B[:, None], varies(batch))

    adv_NBT = _each(normalize, w, rows, batches, adv_NBT)
    if not recipe.data.resample:
        return adv_NBT
    differ_NP = _differ(scene, batches.cells_NB.view(-1, w.samples)).view(-1, w.prompts)
    return adv_NBT * differ_NP.repeat_interleave(w.samples, 1)[..., None]


def _each(
    part: Callable[[Batch, Tensor], Tensor], world: World, shaped: Batch, batches: Batches, x_NBT: Tensor | None
) -> Tensor:
    N, B = batches.cells_NB.shape
    T, P = world.horizon, world.prompts
    x_NBT = torch.zeros(N, B, T, dtype=F64) if x_NBT is None else x_NBT

    def together(index: Tensor) -> Tensor:
        n = len(index)
        batch = shaped.rows(batches.cells_NB[index].flatten())
        apart = replace(batch, group_B=(torch.arange(n)[:, None] * P + batches.group_B).flatten())
        return part(apart, x_NBT[index].flatten(0, 1)).view(n, B, T)

    def alone(index: Tensor) -> Tensor:
        batch = replace(shaped.rows(batches.cells_NB[index].flatten()), group_B=batches.group_B.repeat(len(index)))
        fields = {k: v.view(len(index), B, *v.shape[1:]) for k, v in vars(batch).items() if isinstance(v, Tensor)}
        out_NBT = torch.empty(len(index), B, T, dtype=F64)
        for i in range(len(index)):
            out_NBT[i] = part(replace(batch, **{k: v[i] for k, v in fields.items()}), x_NBT[index[i]])  # type: ignore[arg-type]
        return out_NBT

    sample = _some(N)
    if torch.allclose(together(sample), alone(sample), rtol=1e-9, atol=1e-12):
        return torch.cat([together(index) for index in torch.arange(N).split(CHUNK)])
    if N * SECONDS_PER_BATCH > LONGEST:
        raise InputError(
            f"this recipe looks at the whole batch at once, so that each of {N:.3g} batches is worked out alone: about "
            f"{span(N * SECONDS_PER_BATCH)}. Use a world with a smaller horizon, fewer prompts or fewer samples."
        )
    return alone(torch.arange(N))


def _some(n: int) -> Tensor:
    """A few batch numbers, always the same ones."""
    return torch.randint(n, (min(CHECKED, n),), generator=torch.Generator().manual_seed(n))


def _telling(shaped: Batch, batches: Batches, pull_CNBT: Tensor) -> Tensor:
    """A few batch numbers, of the shortest and the longest batch that has a gradient among them."""
    has_N = (pull_CNBT != 0).flatten(2).any(2).any(0)
    tokens_N = shaped.mask_BT.sum(1)[batches.cells_NB].sum(1)
    order = tokens_N.argsort(stable=True)
    order = order[has_N[order]]
    return torch.cat([order[:1], order[-1:], _some(len(tokens_N))[:2]])


def _equal_totals(recipe: Recipe, scene: Scene, shaped: Batch, batches: Batches, adv_NBT: Tensor) -> list[Tensor]:
    """The batch numbers, in parts whose Totals agree as far as the recipe reads them."""
    N, length_C, labels = len(batches.cells_NB), shaped.mask_BT.sum(1), []
    read = _totals_read(recipe, scene, shaped, batches, adv_NBT)
    if read & {"tokens", "prompt_tokens_P"}:
        labels.append(length_C[batches.cells_NB].view(N, int(batches.group_B.max()) + 1, -1).sum(2))
    if "right_tokens" in read:
        labels.append((length_C * right(shaped))[batches.cells_NB].sum(1, keepdim=True))
    if not labels:
        return [torch.arange(N)]
    label_N = torch.cat(labels, 1).unique(dim=0, return_inverse=True)[1]
    return list(label_N.argsort(stable=True).split(torch.bincount(label_N).tolist()))


def _totals_read(recipe: Recipe, scene: Scene, shaped: Batch, batches: Batches, adv_NBT: Tensor) -> set[str]:
    """Which fields of Totals J looks at: watched, not inferred from a gradient that may happen to be 0."""
    read: set[str] = set()

    class Watched(Totals):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    pull(recipe, scene, shaped, batches, torch.arange(1), adv_NBT, lambda total: Watched(**vars(total)))
    return read


def pull(
    recipe: Recipe,
    scene: Scene,
    shaped: Batch,
    batches: Batches,
    index: Tensor,
    adv_NBT: Tensor,
    change: Callable[[Totals], Totals] = lambda total: total,
) -> Tensor:
    """d J / d (log pi, entropy, KL to ref, KL to old) of each token of some batches with equal totals: [4, n, B, T]."""
    B, T = batches.cells_NB.shape[1], adv_NBT.shape[2]
    cells, needs = batches.cells_NB[index].flatten(), recipe.objective_needs
    batch = replace(shaped.rows(cells), group_B=batches.group_B.repeat(len(index)))
    total = change(count(batch.rows(slice(0, B)), scene.world.horizon))
    leaves = [c.view(-1, T)[cells].requires_grad_() for c in scene.score_values]
    logp, *rest = leaves
    scores = Scores(logp, *(x if needs >= asked else None for x, asked in zip(rest, FULL, strict=True)))
    J = objective(recipe, batch, scores, adv_NBT[index].flatten(0, 1), total)
    found = torch.autograd.grad(J, leaves, allow_unused=True, materialize_grads=True)
    return torch.stack(found).view(len(leaves), len(index), B, T)


def _refuse_no_sum_over_rows(
    recipe: Recipe, scene: Scene, shaped: Batch, batches: Batches, adv_NBT: Tensor, pull_CNBT: Tensor
) -> None:
    """J of rows side by side must be the sum of their J's: without it, training would depend on the micro-batches too.

    Looked at in two ways, for each is blind somewhere: a batch beside itself, and a batch alone against what came of it
    among others (a maximum over rows shows only there).
    """

    def work_out(index: Tensor) -> Tensor:
        return pull(recipe, scene, shaped, batches, index, adv_NBT)

    for index in _telling(shaped, batches, pull_CNBT).split(1):
        once = work_out(index)
        same = torch.allclose(torch.cat([once, once], 1), work_out(index.repeat(2)), rtol=1e-9, atol=1e-12)
        if not same or not torch.allclose(once, pull_CNBT[:, index], rtol=1e-9, atol=1e-12):
            raise InputError(
                f"recipe {recipe.name!r}: the objective of several rows is not the sum of theirs, so its gradient would "
                "depend on how a batch is split. Let the parts after the credit read one answer at a time, and Totals."
            )


# -- the step of an update rule ----------------------------------------------------------------------------------
def fisher_of_states(scene: Scene) -> Tensor:
    """Hessian of KL(old || pi) at the old policy, for each state: [P, S, D, D]."""
    at = scene.old
    frozen = scene.law(at).detach()
    hessian: Tensor = torch.func.hessian(lambda theta: full_kl(frozen, scene.law(theta)))(at)
    return hessian


def expected_step(recipe: Recipe, scene: Scene) -> Estimate:
    """E[direction] of the recipe's update rule, before any line search, against that of the exact F and the true gradient."""
    batches = all_batches(recipe, scene)
    grad_ND = batch_gradients(recipe, scene, batches)
    fisher_SDD = fisher_of_states(scene).flatten(0, 1)
    visits_CS = torch.zeros(scene.world.prompts * scene.world.answers, len(fisher_SDD), dtype=F64)
    mask_AT, state_AT = scene.tree.mask_AT, scene.tree.state_AT
    for p in range(scene.world.prompts):
        block = visits_CS[p * scene.world.answers : (p + 1) * scene.world.answers]
        block.scatter_add_(1, state_AT + p * scene.world.states, mask_AT.to(F64))

    def step(g: Tensor, visits_S: Tensor) -> Tensor:
        F = torch.tensordot(visits_S / visits_S.sum(), fisher_SDD, 1)
        found = recipe.update.direction(g, lambda v: F @ v)
        return torch.zeros_like(g) if found is None else found

    visits_NS = visits_CS[batches.cells_NB].sum(1)
    step_ND = torch.stack([step(g, v) for g, v in zip(grad_ND, visits_NS, strict=True)])
    mean = batches.weight_N @ step_ND
    centered_ND = step_ND - mean
    covariance = centered_ND.T @ (batches.weight_N[:, None] * centered_ND)
    target = step(scene.true_gradient(recipe), batches.weight_N @ visits_NS)
    return Estimate(mean, target, covariance, len(batches.weight_N))


class Oracle:
    """All that is known exactly about one recipe in one scene; each thing is worked out when it is asked for."""

    def __init__(self, recipe: Recipe, scene: Scene) -> None:
        self.recipe, self.scene = recipe, scene

    @cached_property
    def gradient(self) -> Estimate:
        return expected_gradient(self.recipe, self.scene)

    @cached_property
    def step(self) -> Estimate:
        return expected_step(self.recipe, self.scene)
