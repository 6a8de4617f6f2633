"""The processes that take a step together: whose rows are whose, and what is a sum over all of them.

Every process knows the whole step's batch and decides everything alike; a model sees the rows of its own process only.
One process is all of them (`Alone`); rung.cluster has many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rung.network.adapter import twin
from rung.network.model import Model
from rung.records import Batch, Tokens

T = TypeVar("T")


class Ranks(Protocol):
    """What a step asks of the processes that share it. All but `own` are asked of all of them at once, in the same order.

    again: whether a process may compute something again, which the others know nothing of.
    """

    again: bool

    def copy(self, hf: PreTrainedModel) -> PreTrainedModel:
        """A copy of a model that is not dealt out yet, with weights of its own wherever it is trained."""

    def hold(self, model: Model) -> None:
        """Deal out the weights of a model, in place."""

    def share(self, module: torch.nn.Module) -> None:
        """Deal out the weights of a module that is called as a whole."""

    def own(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """Those of the rows that this process's model sees."""

    def even(self, parts: list[T], blank: Callable[[], T]) -> list[T]:
        """The parts, and behind them as many blank ones as it takes to have as many as every other process."""

    def total(self, x: Tensor) -> Tensor:
        """The sum of all processes' x, which lies in main memory."""

    def every(self, things: list[T]) -> list[T]:
        """All processes' things, which lie in main memory."""

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """Of the whole gradient, of which each process holds its part."""


class Alone:
    """One process."""

    again: bool = True

    def copy(self, hf: PreTrainedModel) -> PreTrainedModel:
        return twin(hf)

    def hold(self, model: Model) -> None:
        pass

    def share(self, module: torch.nn.Module) -> None:
        pass

    def own(self, tokens: Tokens, rows: Tensor) -> Tensor:
        return rows

    def even(self, parts: list[T], blank: Callable[[], T]) -> list[T]:
        return parts

    def total(self, x: Tensor) -> Tensor:
        return x

    def every(self, things: list[T]) -> list[T]:
        return things

    def norm(self, gradients: Sequence[Tensor]) -> float:
        norms = [g.float().norm() for g in gradients]
        return float(torch.stack(norms).norm()) if norms else 0.0


ALONE = Alone()


def totals(ranks: Ranks, *numbers: float) -> list[float]:
    """Each number, summed over the processes."""
    found: list[float] = ranks.total(torch.tensor(numbers, dtype=torch.float64)).tolist()
    return found


def unspoken(tokens: Tokens) -> Tokens:
    """A row of which nothing is scored: it costs a model one token, and keeps it in step with the others."""
    return Tokens(
        prompts=[tokens.prompts[0][:1]],
        tokens_BT=torch.zeros_like(tokens.tokens_BT[:1, :1]),
        mask_BT=torch.zeros_like(tokens.mask_BT[:1, :1]),
        length_B=torch.ones_like(tokens.length_B[:1]),
        group_B=torch.zeros_like(tokens.group_B[:1]),
    )


def blank(batch: Batch) -> Batch:
    """A row that adds nothing to any sum, and whose gradient is zero."""
    cut: dict[str, Any] = {
        k: v[:1, :1] if v.ndim == 2 else v[:1] for k, v in vars(batch).items() if isinstance(v, Tensor)
    }
    tokens = unspoken(batch.spoken)
    return replace(
        batch, **{**cut, "mask_BT": tokens.mask_BT, "valid_B": torch.zeros_like(cut["valid_B"])}, tokens=tokens
    )
