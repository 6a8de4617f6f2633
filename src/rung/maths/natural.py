"""The natural-gradient step of TRPO: maximize g.x subject to x'Fx/2 <= max_kl, then a line search on the true KL.

    (F + damping I) x = g  by conjugate gradient;  step = sqrt(2 max_kl / x'(F + damping I)x) x;  halve until it holds.

F is the Hessian of the mean KL(old || new) at the old policy, the Fisher matrix; only products F v are ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def conjugate_gradient(product: Product, g: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """x with A x = g after at most `iterations` steps; A symmetric positive definite, given as v -> A v   (Hestenes 1952)."""
    x, residual = torch.zeros_like(g), g.clone()
    direction, rr = residual.clone(), residual @ residual
    enough = tolerance * (g @ g)
    if rr <= enough:
        return x
    for _ in range(iterations):
        Ad = product(direction)
        curvature = direction @ Ad
        alpha = rr / curvature
        nearer, residual = x + alpha * direction, residual - alpha * Ad
        rr, old_rr = residual @ residual, rr
        lost, done = torch.stack([curvature <= 0, rr <= enough]).tolist()  # one question: a device is waited for once
        if lost:
            break
        x = nearer
        if done:
            break
        direction = residual + (rr / old_rr) * direction
    return x


@dataclass(frozen=True)
class Trial:
    """What the line search measures at a candidate: surrogate gain over the old policy, and mean KL(old || new)."""

    gain: float
    kl: float


def line_search(
    evaluate: Callable[[float], Trial], max_kl: float, shrink: float, backtracks: int
) -> tuple[float, Trial]:
    """The largest fraction shrink^j, j < backtracks, with KL <= max_kl and gain > 0, else 0   (arXiv:1502.05477 App. C)."""
    trial = Trial(0.0, 0.0)
    for j in range(backtracks):
        trial = evaluate(shrink**j)
        if trial.kl <= max_kl and trial.gain > 0:
            return shrink**j, trial
    return 0.0, trial


def full_step(product: Product, g: Tensor, max_kl: float, damping: float, iterations: int) -> Tensor | None:
    """sqrt(2 max_kl / x'Hx) x with H x = g, H = F + damping I; None where there is no ascent direction (g = 0)."""

    def damped(v: Tensor) -> Tensor:
        return product(v) + damping * v

    if ~torch.isfinite(g).all() | (g.abs().max() == 0):
        return None
    x = conjugate_gradient(damped, g, iterations)
    curvature = x @ damped(x)
    return None if curvature <= 0 else (2 * max_kl / curvature).sqrt() * x
