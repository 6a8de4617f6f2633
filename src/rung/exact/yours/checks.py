"""What a check says of a function, and the rows that checks look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rung.exact.world import F64, Condition, World
from rung.exact.yours.steps import Rows, stage

ROOM = World(vocabulary=3, horizon=3, prompts=2, samples=2)  # rows are drawn from it, never all of its batches
MOVED = Condition("moved", old_kl=0.02, sampler_kl=0.005)
CLOSE = 1e-6


@dataclass(frozen=True)
class Check:
    """status: "holds"; "assumes": right for who calls it as `words` say; "fails"."""

    name: str
    status: Literal["holds", "assumes", "fails"]
    words: str


def holds(name: str, words: str) -> Check:
    return Check(name, "holds", words)


def assumes(name: str, words: str) -> Check:
    return Check(name, "assumes", words)


def fails(name: str, words: str) -> Check:
    return Check(name, "fails", words)


def finite(loss: float, pull: Tensor) -> bool:
    return math.isfinite(loss) and bool(pull.isfinite().all())


def a_step(sizes: tuple[int, ...], seed: int) -> Rows:
    """A step with groups of these sizes, answers of unequal lengths among each."""
    here, rng = stage(ROOM, MOVED), torch.Generator().manual_seed(seed)
    A, P = ROOM.answers, ROOM.prompts
    cells = [torch.randperm(A, generator=rng)[:n] + (g % P) * A for g, n in enumerate(sizes)]
    return here.step(torch.cat(cells), torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)))


def near(a: Tensor | float, b: Tensor | float, scale: Tensor | None = None) -> bool:
    """Equal to a millionth of the larger; NaN is equal to nothing."""
    x, y = torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64)
    size = max(float((x if scale is None else scale).abs().max()), float(y.abs().max()), 1e-9)
    return bool((x - y).abs().max() <= CLOSE * size)
