"""Products with few rows, as decoding has them, from weights in oneDNN's blocked layout.

Decoding reads every weight for each token, and with few rows a CPU's product spends its time on reading: in float32, and in
bfloat16 where the CPU has instructions for it. The blocked copies are made anew for each round of sampling (the weights have
moved) and live as long as it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rung.kernels.device import multiplies_bfloat16
from rung.maths.products import is_plain, onednn_pays

# Where packing pays (docs/performance.md). Constants and not a measurement, so that a run can be repeated bit for bit.
FEW_ROWS = 64  # above, the plain product is as fast, unless this CPU's plain product is slow
LARGE = 1 << 18  # numbers; a smaller weight stays in the cache, and a product's fixed cost counts for more


def few(rows: int) -> bool:
    """Whether weights are packed for so many rows at all."""
    return rows <= FEW_ROWS or onednn_pays()


def pays(weight: Tensor, rows: int) -> bool:
    """Whether products of so many rows with this weight are faster from a packed copy."""
    possible = few(rows) and weight.device.type == "cpu" and packs(weight.dtype) and weight.numel() >= LARGE
    return possible and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def packs(dtype: torch.dtype) -> bool:
    """Whether weights of this precision are packed at all."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16())


def pack(weight: Tensor, rows: int) -> Tensor:
    """A copy of `weight` [N, K] in the layout that oneDNN likes for `rows` rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed


def packed_linear(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x W^T + b with a packed W."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


@contextmanager
def packed_weights(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside this block every `nn.Linear` of the model multiplies by a packed copy of its weight, where that pays."""
    layers: list[Any] = [m for m in model.modules() if is_plain(m) and pays(m.weight, rows)]
    for layer in layers:
        layer.forward = partial(packed_linear, pack(layer.weight, rows), layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
