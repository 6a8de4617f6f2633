"""All parts of a recipe in one place, and the one that is no maths: which data a step sees."""

from __future__ import annotations

from dataclasses import dataclass

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
    RewardToGo,
    StepMean,
    TotalReturn,
)
from rung.maths.kl import K1, K2, K3, FullKL, NoKL, NoTrust, OldKL, RatioK3, ReferenceKL, SequenceK2, StraightThrough
from rung.maths.normalize import AsIs, Whiten
from rung.maths.ratio import NoRatio, PerDecision, Ratio, SequenceProduct, SequenceRatio, TokenRatio
from rung.maths.surrogate import CISPO, GMPO, SAPO, Clip, Importance, MirrorDescent, ScoreFunction, Surrogate
from rung.maths.update import GradientSteps, NaturalStep, UpdateRule
from rung.maths.value import GAE, MC, TD, Critic, LengthAdaptiveGAE, NStep, Value
from rung.settings.ranges import Checked, Coefficient, Natural, Share


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
        a step; 0 is off. Groups that still have zero variance then stay, and are counted.
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
    "TokenTIS", "TotalReturn", "UpdateRule", "Value", "Whiten",
]  # fmt: skip
