"""What answers of earlier weights cost a recipe, exactly: the bias that they bring, the variance that its repair brings.

    mu = pi_0,   pi_k+1 = pi_k + s grad E[R](pi_k)  with KL(pi_k+1 || pi_k) = step_kl nats an answer,   pi = pi_S

The batch belongs to mu and the gradient to pi, S updates later. Each step along the true gradient moves the policy as far as a
training step is wont to, whatever the learning rate: what counts is how far mu and pi are apart.

In pieces of N tokens several versions draw an answer, each by newer weights (cluster/pieces.py):

    mu(y_j | y_<j) = pi_v(y_j | y_<j),   v = min(S - 1, floor(j / N))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rung.errors import InputError, setting
from rung.exact.causes import bare
from rung.exact.oracle import expected_gradient
from rung.exact.world import Condition, Scene, World, scene
from rung.io.tables import refuse_target, show
from rung.parts import Correction, NoCorrection, SequenceTIS, TokenTIS
from rung.recipe_io import brief, find
from rung.recipes import Recipe
from rung.records import Batch

CORRECTIONS: tuple[Correction, ...] = (NoCorrection(), TokenTIS(), SequenceTIS())
COLUMNS = ("recipe", "staleness", "correction", "KL", "ESS", "relative error", "cosine", "variance")


class Mixed(Scene):
    """A stale Scene whose answers were drawn in pieces of so many tokens."""

    def __init__(self, world: World, condition: Condition, piece: int) -> None:
        super().__init__(world, condition)
        self.piece = piece

    @cached_property
    def drawn(self) -> Tensor:
        """log mu of each token of each answer: [P, A, T]."""
        S = self.condition.staleness
        laws_VPAT = torch.stack(
            [
                self.logp(self.law(scene(self.world, replace(self.condition, staleness=v)).theta))
                for v in range(max(S, 1))
            ]
        )
        version_T = (torch.arange(self.world.horizon) // self.piece).clamp(max=max(S, 1) - 1)
        return torch.stack([laws_VPAT[v, :, :, t] for t, v in enumerate(version_T.tolist())], -1)

    @cached_property
    def prob_PA(self) -> Tensor:
        return self.drawn.sum(-1).exp()

    def rows(self, recipe: Recipe) -> Batch:
        return replace(super().rows(recipe), behavior_logp_BT=self.drawn.flatten(0, 1))


@dataclass(frozen=True)
class Lag:
    """A recipe's gradient from answers that are `staleness` updates old.

    kl: KL(mu || pi), nats an answer.  ess: (E w)^2 / E w^2 of answers' weights w = pi / mu under mu: what a correction leaves.
    relative_error: |E[g] - grad J(pi)| / |grad J(pi)|, the bias.  variance: of one batch's gradient, by |grad J(pi)|^2.
    """

    recipe: str
    staleness: int
    correction: str
    kl: float
    ess: float
    relative_error: float
    cosine: float
    variance: float


def lag(
    recipe: Recipe, correction: Correction, staleness: int, step_kl: float, world: World, piece: int | None = None
) -> Lag:
    """Every batch that mu may draw, weighed by its probability. piece: tokens that a version draws; None: all."""
    condition = Condition("stale", staleness=staleness, step_kl=step_kl)
    at = scene(world, condition) if piece is None else Mixed(world, condition, piece)
    e = expected_gradient(replace(bare(recipe), correction=correction), at)
    drawn = at.drawn if isinstance(at, Mixed) else at.logp(at.law(at.behavior))
    log_w_PA = at.logp(at.law(at.theta)).sum(-1) - drawn.sum(-1)
    w_PA, kl = log_w_PA.exp(), float((at.prob_PA * log_w_PA.neg()).sum(1).mean().abs())
    ess = float((1 / (at.prob_PA * w_PA.square()).sum(1)).mean())
    size = float(e.target.square().sum())
    return Lag(
        recipe.name, staleness, brief(correction), kl, ess, e.relative_error, e.cosine, e.trace / size
    )  # fmt: skip


def lags(recipes: Sequence[Recipe], most: int, step_kl: float, world: World, piece: int | None = None) -> list[Lag]:
    """From 0 to `most`, each twice as stale as the one before, under every correction."""
    steps = sorted({0, most, *(1 << i for i in range(most.bit_length()))} & set(range(most + 1)))
    return [lag(r, c, s, step_kl, world, piece) for r in recipes for s in steps for c in CORRECTIONS]


def run_staleness(
    recipes: Sequence[str], most: int, step_kl: float, json_to: str | None, world: World, piece: int | None = None
) -> int:
    """Print the table, and write it as JSON where asked to."""
    refuse_target(json_to)
    if not recipes:
        raise InputError(
            f"{setting('staleness', most)} says what answers of earlier weights cost a recipe: name one, such as rloo."
        )
    found = lags([find(name) for name in recipes], most, step_kl, world, piece)
    rows = [(x.recipe, x.staleness, x.correction, x.kl, x.ess, x.relative_error, x.cosine, x.variance) for x in found]
    whole = "" if piece is None else f", drawn in pieces of {piece}"
    show(f"audit: answers of earlier weights, each update {step_kl:g} nats an answer{whole}", COLUMNS, rows, json_to)
    return 0
