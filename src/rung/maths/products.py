"""Large float32 products through oneDNN, on CPUs where that is faster than what PyTorch would call.

PyTorch multiplies float32 matrices with MKL, which keeps up with oneDNN on Intel's CPUs and reaches half of its rate
on AMD's. The setting that sends products to oneDNN allows it to round to bfloat16, which it does on a CPU with
bfloat16 matrix units and not on the rest: a product of known error decides. The choice is the CPU's, not a clock's, so
that a run can be repeated bit for bit. The setting holds for the products in this file's care alone: left on for all,
it would make the many small products of attention several times slower.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

LARGE = 1 << 16  # numbers in a weight; below, a product's fixed cost counts for more
EXACT = 1e-5  # relative error of a product; float32 has about 4e-7, bfloat16 2e-3


@cache
def onednn_pays() -> bool:
    """Whether this CPU multiplies float32 matrices faster through oneDNN, without losing precision."""
    mkldnn: Any = torch.backends.mkldnn
    possible = mkldnn.is_available() and hasattr(mkldnn, "matmul") and hasattr(mkldnn.matmul, "fp32_precision")
    return possible and "AuthenticAMD" in cpu() and error() <= EXACT


def cpu() -> str:
    """The maker's name of this CPU, with whatever the system says besides."""
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor()


def error() -> float:
    """Relative error of a product through oneDNN on this CPU."""
    x, w = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    with _through_onednn():
        product = x @ w
    exact = x.double() @ w.double()
    return float((product - exact).norm() / exact.norm())


@contextmanager
def _through_onednn() -> Iterator[None]:
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.matmul.fp32_precision
    mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        mkldnn.matmul.fp32_precision = before


@contextmanager
def large_products(weight: Tensor) -> Iterator[None]:
    """Inside this block products with `weight`, if it is large and float32, take the faster of the two ways."""
    with _through_onednn() if _is_large(weight) and onednn_pays() else nullcontext():
        yield


def _is_large(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE


class _Product(torch.autograd.Function):
    """y = x W^T + b, with all three products of forward and backward in `large_products`; differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        with large_products(weight):
            return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat, rows = grad.flatten(0, -2), x.flatten(0, -2)
        with large_products(weight):
            grad_x = grad @ weight if ctx.needs_input_grad[0] else None
            grad_weight = flat.T @ rows if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, flat.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None


class Linear(nn.Linear):
    """An `nn.Linear` whose products are taken in `large_products`."""

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


def is_plain(layer: Any) -> TypeGuard[nn.Linear]:
    """Whether the layer is y = x W^T + b and nothing else (an adapter's layer is more)."""
    return type(layer) in (nn.Linear, Linear)


def through_onednn(model: nn.Module) -> None:
    """Let the large linear layers of `model` multiply through oneDNN, if that pays here. Weights and names stay."""
    if onednn_pays():
        for layer in model.modules():
            if type(layer) is nn.Linear and _is_large(layer.weight):
                layer.__class__ = Linear
