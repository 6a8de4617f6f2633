"""pi_ref of a model with an adapter: the same weights with the adapter off, so that no second model is held."""

from __future__ import annotations

import torch

from rung.network.adapter import adapter_off
from rung.records import Scores, Tokens
from rung.training.policy import Heads, Policy


class BasePolicy(Policy):
    """What the model said before its adapter was trained. Never has a gradient."""

    @torch.no_grad()
    def score(self, tokens: Tokens, *, ref: Heads | None = None, old: Heads | None = None) -> Scores:
        with adapter_off(self.model.hf):
            return super().score(tokens, ref=ref, old=old)

    @torch.no_grad()
    def freeze(self, tokens: Tokens) -> Heads:
        with adapter_off(self.model.hf):
            return super().freeze(tokens)
