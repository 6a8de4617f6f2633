"""The optimizer: AdamW on float32 masters, whatever the model computes in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rung.training.ranks import ALONE, Ranks


class MasterAdamW:
    """AdamW (arXiv:1711.05101) whose state and weights are float32, whatever the model computes in.

    A step of 1e-6 vanishes in bfloat16 weights of 0.02, so weights of a low precision get a float32 copy.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        epsilon: float = 1e-8,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float().clone() for p in self.parameters]
        self.learning_rate = learning_rate
        self.adam = torch.optim.AdamW(
            self.masters, lr=learning_rate, betas=betas, weight_decay=weight_decay, eps=epsilon, foreach=True
        )

    def gradient_norm(self) -> float:
        """The norm of the whole gradient, before clipping."""
        return self.ranks.norm([p.grad for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def step(self, clip_norm: float = 0.0, scale: float = 1.0) -> float:
        """One step on the gradients at hand, clipped to `clip_norm` (0: not), learning rate times `scale`. Returns their norm.

        A gradient that is not finite changes nothing and returns NaN or inf.
        """
        norm = self.gradient_norm()
        if norm == norm and norm != float("inf"):
            shrink = min(1.0, clip_norm / (norm + 1e-12)) if clip_norm > 0 else 1.0
            for p, master in zip(self.parameters, self.masters, strict=True):
                if p.grad is not None:
                    master.grad = p.grad.float().mul_(shrink) if master is not p else p.grad.mul_(shrink)
            for group in self.adam.param_groups:
                group["lr"] = self.learning_rate * scale
            self.adam.step()
            self.follow()
        self.zero_grad()
        return norm

    @torch.no_grad()
    def follow(self) -> None:
        """The weights become what the masters are."""
        for p, master in zip(self.parameters, self.masters, strict=True):
            if master is not p:
                p.copy_(master)
                master.grad = None

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        own = [m for p, m in zip(self.parameters, self.masters, strict=True) if m is not p]
        return {"adam": self.adam.state_dict(), "masters": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        own = [m for p, m in zip(self.parameters, self.masters, strict=True) if m is not p]
        with torch.no_grad():
            for master, saved in zip(own, state["masters"], strict=True):
                master.copy_(saved)
