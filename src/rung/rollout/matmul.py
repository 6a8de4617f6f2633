"""Float32 products with few rows by oneDNN instead of MKL, where that is exact: decoding reads every weight for each token.

PyTorch hands float32 products to oneDNN when bfloat16 inside is allowed. On a CPU without AMX oneDNN then still
computes in float32; on one with AMX it really rounds: a probe tells which, once. The setting is on inside a block
only, and off within attention, whose small products it makes several times slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

MKLDNN: Any = torch.backends.mkldnn
EXACT = 1e-5  # relative error of a product over 1024 terms; float32 gives about 4e-7, bfloat16 4e-3


@contextmanager
def onednn_products(on: bool = True) -> Iterator[None]:
    """Let oneDNN compute float32 products inside this block (`on=False`: not, within such a block)."""
    if not onednn_is_exact():
        yield
        return
    setting = MKLDNN.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16" if on else "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


@cache
def onednn_is_exact() -> bool:
    """Whether products stay float32 under the setting; False where there is no such setting."""
    setting: Any = getattr(MKLDNN, "matmul", None)
    if not MKLDNN.is_available() or not hasattr(setting, "fp32_precision"):
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 1024, generator=generator) for _ in range(2))
    exact = a.double() @ b.double().T
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        error = (torch.nn.functional.linear(a, b) - exact).norm() / exact.norm()
    except RuntimeError:
        return False
    finally:
        setting.fp32_precision = before
    return bool(error < EXACT)
