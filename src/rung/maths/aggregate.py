"""Aggregate: mask -> weights, J = sum_bt w_bt gain_bt. Denominators come from Totals, never from the rows at hand."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rung.maths.wide import wide
from rung.records import Totals
from rung.settings.ranges import Checked, Count


class Aggregate(Checked):
    """A part that maps (mask_BT, group_B, total) to w_BT, float64[B, T] without gradient."""

    @abstractmethod
    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class SequenceSum(Aggregate):
    """w_bt = m_bt / B: the mean over answers of a sum over tokens, proportional to grad J   (Williams 1992)."""

    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        return wide(mask_BT) / max(total.sequences, 1)


@dataclass(frozen=True)
class SequenceMean(Aggregate):
    """w_bt = m_bt / (B |y_b|): long answers weigh less per token   (GRPO, arXiv:2402.03300 eq. 3)."""

    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        return wide(mask_BT) / (mask_BT.sum(1, keepdim=True).clamp(min=1) * max(total.sequences, 1))


@dataclass(frozen=True)
class TokenMean(Aggregate):
    """w_bt = m_bt / N, N the action tokens of the whole step   (DAPO, arXiv:2503.14476 eq. 8)."""

    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        return wide(mask_BT) / max(total.tokens, 1)


@dataclass(frozen=True)
class FixedBudget(Aggregate):
    """w_bt = m_bt / (B M), M a constant: every token weighs the same, proportional to grad J   (Dr. GRPO, arXiv:2503.20783).

    M is `max_new_tokens` unless `budget` sets a larger one; never the width that the batch happens to be padded to.
    """

    budget: Count | None = None

    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        return wide(mask_BT) / (max(total.sequences, 1) * (self.budget or total.max_tokens))


@dataclass(frozen=True)
class PromptMean(Aggregate):
    """w_bt = m_bt / (P N_g(b)), N_g the action tokens of the prompt's group: every prompt weighs the same."""

    def __call__(self, mask_BT: Tensor, group_B: Tensor, total: Totals) -> Tensor:
        assert total.prompt_tokens_P is not None, "Totals.prompt_tokens_P is counted by count()"
        N_P = total.prompt_tokens_P
        prompts = (N_P > 0).sum().clamp(min=1)  # of this optimizer step: ids of other minibatches have no tokens here
        return wide(mask_BT) / (prompts * N_P.clamp(min=1)[group_B])[:, None]
