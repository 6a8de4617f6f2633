"""Rotary embeddings that depend on how long the longest row is (longrope): fixed once, for every row of a run.

transformers takes short factors while all rows of a batch are within the length that the model was first trained at, and
long ones beyond. What a model says of a token would then depend on how long its row, or a neighbour's, becomes later:
a token is sampled with the short factors and trained with the long ones, half a nat apart. Here a run has one law: short
factors, and a context of that length; or long factors throughout, where its rows may be longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

LONG, FIXED = "longrope", "fixed"


def fix(hf: nn.Module, longest: int) -> int | None:
    """Fix the factors for rows of at most `longest` tokens; the longest row that the model may then see, None: any."""
    limits = []
    for module, kind, original in _embeddings(hf):
        far = longest > original and _fixed(module, kind, original + 1)
        if not far:
            _fixed(module, kind, 1)
            limits.append(original)
    return min(limits, default=None)


def _embeddings(hf: nn.Module) -> Iterator[tuple[Any, str | None, int]]:
    """Rotary embeddings of this kind, with the type of layers they are for and the length they were first trained at."""
    for module in hf.modules():
        kinds: Any = getattr(module, "rope_type", None)
        for kind, name in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if name in (LONG, f"{FIXED} {LONG}"):
                parameters: Any = module.config.rope_parameters  # type: ignore[union-attr]
                mine = parameters[kind] if kind else parameters
                yield module, kind, int(mine["original_max_position_embeddings"])


def _fixed(module: Any, kind: str | None, length: int) -> bool:
    """Keep the factors of rows of `length` tokens; whether that is all that the length changes."""
    _name(module, kind, LONG)
    far, near = torch.tensor([[1, length - 1]]), torch.tensor([[1]])
    told = {} if kind is None else {"layer_type": kind}
    device = next(module.buffers()).device
    x = torch.zeros(1, 1, 1, device=device)
    wanted = module(x, far.to(device), **told)
    _name(module, kind, f"{FIXED} {LONG}")
    kept = module(x, near.to(device), **told)
    return all(torch.equal(a[:, :1], b) for a, b in zip(wanted, kept, strict=True))


def _name(module: Any, kind: str | None, name: str) -> None:
    module.rope_type = name if kind is None else {**module.rope_type, kind: name}
