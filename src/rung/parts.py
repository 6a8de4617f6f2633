"""All parts of a recipe in one place, and the inert ones: how a gradient becomes new parameters, and which data it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from rung.maths.aggregate import Aggregate, FixedBudget, PromptMean, SequenceMean, SequenceSum, TokenMean
from rung.maths.correction import (
    Correction,
    GeometricMask,
    NoCorrection,
    SequenceMask,
    SequenceTIS,
    StaleNegativeMask,
    TokenMask,
    TokenTIS,
)
from rung.maths.credit import (
    BatchMean,
    Credit,
    Greedy,
    GroupMean,
    LeaveOneOut,
    LengthWeighted,
    MovingAverage,
    Needs,
    RewardToGo,
    StepMean,
    TotalReturn,
)
from rung.maths.kl import K1, K2, K3, FullKL, NoKL, NoTrust, OldKL, RatioK3, ReferenceKL, SequenceK2, StraightThrough
from rung.maths.normalize import AsIs, Whiten
from rung.maths.ratio import NoRatio, PerDecision, Ratio, SequenceProduct, SequenceRatio, TokenRatio
from rung.maths.surrogate import CISPO, GMPO, SAPO, Clip, Importance, MirrorDescent, ScoreFunction, Surrogate
from rung.maths.value import GAE, MC, TD, Critic, LengthAdaptiveGAE, NStep, Value
from rung.settings.ranges import Checked, Coefficient, Count, Natural, Share, above, between


# -- update: how a gradient of J becomes new parameters (run by train/update.py) -----------------------------------
@dataclass(frozen=True)
class GradientSteps(Checked):
    """theta <- Adam(theta, grad J), `epochs` passes over the batch in `minibatches` parts, one optimizer step each.

    target_kl: stop the passes once KL(old || new), the mean over a minibatch's tokens of rho - 1 - log rho, exceeds
        1.5 target_kl (early stop). Spinning Up takes the mean of -log rho: the same on average, but noisier, and below 0
        now and then, where no bound stops it.
    """

    epochs: Count = 1
    minibatches: Count = 1
    target_kl: Annotated[float, above(0, "at 0 the first pass would already stop")] | None = None
    needs: ClassVar[Needs] = frozenset()
    step_size: ClassVar[str] = (
        "learning_rate"  # the setting that says how far one step goes; a fair comparison tunes it
    )

    @property
    def reuses_batch(self) -> bool:
        return self.epochs * self.minibatches > 1


@dataclass(frozen=True)
class NaturalStep(Checked):
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
    needs: ClassVar[Needs] = frozenset()
    step_size: ClassVar[str] = "update.max_kl"
    reuses_batch: ClassVar[bool] = False


# -- data: which answers a step sees (run by rollout/collect.py) ---------------------------------------------------
@dataclass(frozen=True)
class Overlong(Checked):
    """R += clip((limit - buffer - L) / buffer, -1, 0) * factor: a slope before the token limit   (DAPO, arXiv:2503.14476 eq. 13).

    buffer is a fraction of max_new_tokens (4096 of 20480 in the paper).
    """

    buffer: Share = 0.2
    factor: Coefficient = 1.0

    def __call__(self, length: int, limit: int) -> float:
        room = max(self.buffer * limit, 1.0)
        return self.factor * min(max((limit - room - length) / room, -1.0), 0.0)


@dataclass(frozen=True)
class Data(Checked):
    """Which answers enter a step.

    resample: dynamic sampling (DAPO): replace prompts whose answers all got the same reward, at most this many times
        a step; 0 is off. What is still without signal then stays, and is counted.
    drop_truncated: keep answers that hit the token limit out of the loss (they stay in the baseline); equal to
        giving them the baseline as reward, so nothing teaches the model to be shorter.
    overlong: a soft penalty near the limit.
    """

    resample: Natural = 0
    drop_truncated: bool = False
    overlong: Overlong | None = None


__all__ = [
    "CISPO", "GAE", "GMPO", "K1", "K2", "K3", "MC", "SAPO", "TD", "Aggregate", "AsIs", "BatchMean", "Clip",
    "Correction", "Credit", "Critic", "Data", "FixedBudget", "FullKL", "GeometricMask", "GradientSteps", "Greedy",
    "GroupMean", "Importance", "LeaveOneOut", "LengthAdaptiveGAE", "LengthWeighted", "MirrorDescent",
    "MovingAverage", "NStep", "NaturalStep", "NoCorrection", "NoKL", "NoRatio", "NoTrust", "OldKL", "Overlong",
    "PerDecision", "PromptMean", "Ratio", "RatioK3", "ReferenceKL", "RewardToGo", "ScoreFunction", "SequenceK2",
    "SequenceMask", "SequenceMean", "SequenceProduct", "SequenceRatio", "SequenceSum", "SequenceTIS",
    "StaleNegativeMask", "StepMean", "StraightThrough", "Surrogate", "TokenMask", "TokenMean", "TokenRatio",
    "TokenTIS", "TotalReturn", "Value", "Whiten",
]  # fmt: skip
