"""Builders for the tests of the maths. Everything is float64, so that equal means equal to 1e-10 or better."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rung.maths.credit import outcome_to_token
from rung.records import Batch

sys.path.insert(0, str(Path(__file__).parent))
from shapes import watched


def _batch(
    reward: Sequence[Any],
    *,
    lengths: Sequence[int] | None = None,
    mask: Sequence[Sequence[int]] | None = None,
    group: Sequence[int] | None = None,
    **more: Any,
) -> Batch:
    """A Batch by hand. `reward`: one number an answer (with `lengths`), or one number a token (with `mask`).

    Answers with a NaN reward and answers without a token are not valid, as `collect` would say; those that earn more than
    0 are right. Tensors in `more` replace the defaults: old and behavior log-probabilities 0, everything kept, nothing
    truncated, all one group.
    """
    reward_tensor = torch.tensor(reward, dtype=torch.float64)
    if mask is None:
        lengths = lengths or [1] * len(reward)
        width = max(*lengths, 1, 1)
        mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
    else:
        mask_BT = torch.tensor(mask).bool()
    reward_BT = outcome_to_token(reward_tensor, mask_BT) if reward_tensor.dim() == 1 else reward_tensor
    B = len(mask_BT)
    fields = {
        "reward_BT": reward_BT,
        "mask_BT": mask_BT,
        "group_B": torch.tensor(group if group is not None else [0] * B),
        "valid_B": (reward_BT.isfinite() | ~mask_BT).all(1) & mask_BT.any(1),
        "keep_B": torch.ones(B, dtype=torch.bool),
        "truncated_B": torch.zeros(B, dtype=torch.bool),
        "right_B": reward_BT.masked_fill(~mask_BT, 0.0).sum(1) > 0,
        "behavior_logp_BT": torch.zeros_like(reward_BT),
        "old_logp_BT": torch.zeros_like(reward_BT),
    }
    given = {k: _tensor(v) if isinstance(v, (list, tuple)) else v for k, v in more.items()}
    return Batch(**{**fields, **given})


def _tensor(rows: Sequence[Any]) -> Tensor:
    first = rows[0][0] if isinstance(rows[0], (list, tuple)) else rows[0]
    return torch.tensor(rows, dtype=torch.bool if isinstance(first, bool) else torch.float64)


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., Batch]:
    return _batch


@pytest.fixture(autouse=True)
def _names_keep_their_word(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.path.name == "test_fields.py":  # flags and files, no tensor: watching would only cost time
        yield
        return
    with watched():
        yield
