"""What a recipe does on average against what it should do: bias, direction and variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """What a recipe's gradient is on average, against what it should be: float64[D] each.

    covariance: of the gradient of one batch, [D, D].  batches: how many were enumerated.
    """

    gradient: Tensor
    target: Tensor
    covariance: Tensor
    batches: int

    @property
    def relative_error(self) -> float:
        """|E[g] - grad J| / |grad J|."""
        return float((self.gradient - self.target).norm() / self.target.norm())

    @property
    def cosine(self) -> float:
        return cosine(self.gradient, self.target)

    @property
    def scale(self) -> float:
        """c that minimizes |E[g] - c grad J|."""
        return float(self.gradient @ self.target / (self.target @ self.target))

    @property
    def bend(self) -> float:
        """sin of the angle between the two (2 - sin beyond a right angle): 0 where E[g] = c grad J with c > 0.

        Resolves what a cosine near 1 cannot.
        """
        rest = self.gradient - self.scale * self.target
        sine = float(rest.norm() / self.gradient.norm().clamp(min=1e-300))
        return sine if self.scale > 0 else 2.0 - sine

    @property
    def trace(self) -> float:
        """E |g - E[g]|^2, the variance of one batch's gradient."""
        return float(self.covariance.trace())

    @property
    def spectrum(self) -> Tensor:
        """Eigenvalues of the covariance, the largest first."""
        rising: Tensor = torch.linalg.eigvalsh(self.covariance)
        return rising.flip(0).clamp(min=0)


def cosine(a: Tensor, b: Tensor) -> float:
    """a.b / (|a| |b|); 0 where one of them vanishes."""
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 0 else 0.0
