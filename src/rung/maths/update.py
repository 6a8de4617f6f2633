"""Update rules: how the gradient of J becomes new parameters. A rule runs itself on a `Work`, and says what that costs.

Nothing else in the project asks which rule a recipe has: the learner hands it a `Work`, the plan its `cost()`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

from torch import Tensor

from rung.maths.credit import Needs
from rung.maths.natural import Product, Trial, full_step, line_search
from rung.settings.ranges import Checked, Coefficient, Count, above, between


class Work(Protocol):
    """One batch as a learner offers it to a rule. Parameters are moved by `step` or `move` alone, which know pi_old.

    parameters: what is trained, in order.  rate: the learning rate of this training step, after warm-up and decay.
    memory: what the rule keeps from step to step, tensors and plain values by name; a checkpoint holds it.
    """

    @property
    def parameters(self) -> Sequence[Tensor]: ...
    @property
    def rate(self) -> float: ...
    @property
    def memory(self) -> dict[str, Any]: ...

    def cut(self, minibatches: int = 1, *, again: bool = False) -> Sequence[Any]:
        """The batch in so many parts at random, without those that can teach nothing. again: it serves several steps."""

    def gradient(self, minibatch: Any) -> None:
        """Add -grad J of a minibatch to the parameters' `grad`, as an optimizer wants it."""

    def old_kl(self) -> float:
        """Mean KL(old || new) per token where the last `gradient` was taken, from its samples."""

    def step(self) -> float:
        """One step of AdamW on the gradient at hand, for a rule whose cost has `adamw`. Returns the gradient's norm.

        Clipped to the run's clip_norm; a gradient that is not finite changes nothing.
        """

    def forget(self) -> None:
        """No gradient is at hand."""

    def take(self) -> Tensor:
        """The gradient at hand as one vector, float32[D], upwards: + grad J. None is at hand afterwards."""

    def move(self, step: Tensor | None) -> None:
        """theta <- theta_0 + step, theta_0 being the parameters before the first move; None: theta_0, bit for bit.

        As the rule says it: nothing is clipped and nothing is looked at.
        """

    def trial(self, minibatch: Any) -> Trial:
        """What J has gained since the last `gradient`, and the mean KL(old || new) per token; needs "old_full"."""

    def moved(self) -> float | None:
        """Mean KL(old || new) per token after the update, full vocabulary; None where nothing needs "old_full"."""

    def curvature(self, tokens: int | None) -> AbstractContextManager[Product]:
        """v -> F v, F the Hessian at pi_old of the mean KL(old || new) over about so many tokens (None: all)."""


@dataclass(frozen=True)
class Cost:
    """What an update asks of the machine for one batch; a pass is forward and backward over all of it.

    passes, minibatches: passes, and the optimizer steps in each.
    adamw:    each is a step of AdamW, whose moments are held all along. A rule without it moves the weights by itself, and of
              a model of low precision all its work is done in float32, gradients and trials as well.
    forwards: further passes without gradient.
    products: products with the curvature, about two passes each over `curved` tokens (None: all).
    vectors:  float32 numbers for each trained parameter that live beside its gradient.
    """

    passes: int = 1
    minibatches: int = 1
    adamw: bool = False
    forwards: int = 0
    products: int = 0
    curved: int | None = None
    vectors: int = 0


class UpdateRule(Checked):
    """A part that turns gradients into a step. Its fields are its settings.

    needs:     what must be prepared for it, beside what the other parts need.
    leashed:   it holds the policy to pi_old by itself, so that answers without an advantage count, too.
    step_size: the setting that says how far one step goes, which a fair comparison tunes; step_name: for people.
    """

    needs: ClassVar[Needs] = frozenset()
    leashed: ClassVar[bool] = False
    step_size: ClassVar[str] = "learning_rate"
    step_name: ClassVar[str] = "learning rate"

    @abstractmethod
    def run(self, work: Work) -> dict[str, float]:
        """Move the parameters. Metrics: grad_norm, update/steps, and trust/kl = work.moved() where that is not None.

        A rule is a frozen record: what it keeps from step to step stands in work.memory.
        """
        raise NotImplementedError

    @abstractmethod
    def cost(self) -> Cost:
        raise NotImplementedError

    def direction(self, g: Tensor, product: Product) -> Tensor | None:
        """Where a step from pi_old points, for exact/: g = grad J, or a multiple of F^-1 g. None: nowhere."""
        return g

    @property
    def reuses_batch(self) -> bool:
        cost = self.cost()
        return cost.passes * cost.minibatches > 1


@dataclass(frozen=True)
class GradientSteps(UpdateRule):
    """theta <- Adam(theta, grad J), `epochs` passes over the batch in `minibatches` parts, one optimizer step each.

    target_kl: stop the passes once KL(old || new), the mean over a minibatch's tokens of rho - 1 - log rho, exceeds
        1.5 target_kl (early stop). Spinning Up takes the mean of -log rho: the same on average, but noisier, and below 0
        now and then, where no bound stops it.
    """

    epochs: Count = 1
    minibatches: Count = 1
    target_kl: Annotated[float, above(0, "at 0 the first pass would already stop")] | None = None

    def run(self, work: Work) -> dict[str, float]:
        norms: list[float] = []
        minibatches, stopped = work.cut(self.minibatches, again=self.reuses_batch), False
        for minibatch in [part for _ in range(self.epochs) for part in minibatches]:
            work.gradient(minibatch)
            if self.target_kl is not None and work.old_kl() > 1.5 * self.target_kl:
                work.forget()
                stopped = True
                break
            norms.append(work.step())
        norm = sum(norms) / len(norms) if norms else 0.0
        moved = None if stopped else work.moved()
        return {
            "learning_rate": work.rate,
            "grad_norm": norm,
            "grad_rms": norm / math.sqrt(sum(p.numel() for p in work.parameters)),
            "update/steps": float(sum(map(math.isfinite, norms))),  # a gradient that is not finite moves nothing
            "update/stopped_early": float(stopped),
            **({} if moved is None else {"trust/kl": moved}),
        }

    def cost(self) -> Cost:
        return Cost(passes=self.epochs, minibatches=self.minibatches, adamw=True)


@dataclass(frozen=True)
class NaturalStep(UpdateRule):
    """theta <- theta + s F^-1 g with mean KL(old||new) per token <= max_kl, then a line search   (arXiv:1502.05477).

    No learning rate, no Adam, no gradient clipping. `damping` I is added to F (singular for softmax models).
    curvature_tokens: F is averaged over about this many tokens of the batch; None uses all.
    """

    max_kl: Annotated[float, above(0, "a step of KL 0 is no step")] = 0.003
    damping: Coefficient = 1.0
    cg_iterations: Count = 10
    backtracks: Count = 10
    shrink: Annotated[
        float, between(0, 1, "each trial of the line search is this share of the last", above=True, below=True)
    ] = 0.8
    curvature_tokens: Count | None = 1024
    needs: ClassVar[Needs] = frozenset({"old_full"})
    leashed: ClassVar[bool] = True
    step_size: ClassVar[str] = "update.max_kl"
    step_name: ClassVar[str] = "bound on the KL"

    def run(self, work: Work) -> dict[str, float]:
        (whole,) = work.cut()
        work.gradient(whole)
        g = work.take()
        step = self._step(work, g)

        def trial(fraction: float) -> Trial:
            assert step is not None
            work.move(fraction * step)
            return work.trial(whole)

        if step is None:
            return {"grad_norm": float(g.norm()), "update/steps": 0.0, "trpo/fraction": 0.0, "trpo/kl": 0.0}
        fraction, found = line_search(trial, self.max_kl, self.shrink, self.backtracks)
        if fraction == 0.0:
            work.move(None)
        return {
            "grad_norm": float(g.norm()),
            "update/steps": float(fraction > 0),
            "trpo/fraction": fraction,
            "trpo/kl": found.kl if fraction else 0.0,
            "trpo/gain": found.gain if fraction else 0.0,
        }

    def _step(self, work: Work, g: Tensor) -> Tensor | None:
        """The whole step, before the line search; what the products are made of is gone afterwards."""
        with work.curvature(self.curvature_tokens) as product:
            return self.direction(g, product)

    def direction(self, g: Tensor, product: Product) -> Tensor | None:
        return full_step(product, g, self.max_kl, self.damping, self.cg_iterations)

    def cost(self) -> Cost:
        """One trial accepts as a rule. Seven vectors: g, the direction, its residual, the step, old weights, products."""
        return Cost(forwards=2, products=self.cg_iterations + 1, curved=self.curvature_tokens, vectors=7)
