"""The critic: V(s_t), the return still to come, read where the model predicts token t. Its head starts at zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rung.parts import Critic, Value
from rung.records import Batch, Tokens
from rung.rollout.adapter import twin
from rung.rollout.model import Model
from rung.train.optimizer import MasterAdamW
from rung.train.policy import microbatches, minibatches, predicting_states


@dataclass
class ValueModel:
    """A scalar head on its own copy of the backbone, or on the policy's trunk (`config.shared`).

    On a shared trunk `fit` leaves `coef` times the value loss's gradient in the trunk's parameters, where the
    policy's next optimizer step picks it up together with its own.
    """

    config: Critic
    model: Model
    head: nn.Linear
    optimizer: MasterAdamW
    micro_tokens: int

    @classmethod
    def build(cls, config: Critic, policy: Model, learning_rate: float, micro_tokens: int) -> ValueModel:
        model = policy if config.shared else replace(policy, hf=twin(policy.hf))
        head = nn.Linear(policy.hf.config.get_text_config().hidden_size, 1, device=policy.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        trunk: Any = model.hf.get_decoder()
        own = list(head.parameters()) + ([] if config.shared else list(trunk.parameters()))
        return cls(config, model, head, MasterAdamW(own, config.learning_rate * learning_rate), micro_tokens)

    def values(self, tokens: Tokens) -> Tensor:
        """V_bt before each scored token is emitted, float32[B, T] with gradient, zero off the mask."""
        V_n = self.head(predicting_states(self.model, tokens).float())[:, 0]
        return torch.zeros(tokens.mask_BT.shape, device=V_n.device).masked_scatter(tokens.mask_BT, V_n)

    @torch.no_grad()
    def predict(self, tokens: Tokens) -> Tensor:
        """V_bt for a whole step, some rows at a time, without gradient."""
        V_BT = torch.zeros(tokens.mask_BT.shape, device=tokens.mask_BT.device)
        for rows in microbatches(tokens, torch.arange(len(tokens.length_B)), 4 * self.micro_tokens):
            part = tokens.rows(rows)
            V_BT[rows, : part.mask_BT.shape[1]] = self.values(part)
        return V_BT

    @torch.no_grad()
    def after(self, tokens: Tokens, wanted_B: Tensor) -> Tensor:
        """V(s_L), of the state after the last token, for the wanted rows: float32[B], zero for the others."""
        length_B, one = tokens.length_B, torch.nn.functional.pad
        at_T = torch.arange(tokens.tokens_BT.shape[1] + 1, device=length_B.device)
        longer = replace(  # as if one token more were to be scored, which nothing reads
            tokens, tokens_BT=one(tokens.tokens_BT, (0, 1)), mask_BT=at_T == length_B[:, None], length_B=length_B + 1,
        )  # fmt: skip
        V_B = torch.zeros(len(length_B), device=length_B.device)
        for rows in microbatches(longer, wanted_B.nonzero()[:, 0].cpu(), 4 * self.micro_tokens):
            V_B[rows] = self.values(longer.rows(rows)).sum(1)
        return V_B

    def fit(self, batch: Batch, tokens: Tokens, credit: Value, clip_norm: float, seed: int) -> float:
        """AdamW on the value loss, a token mean over each minibatch (its valid rows learn, all of them are counted).

        Returns the loss over the first pass. A shared trunk takes the batch whole and once, since its gradient
        belongs to the policy's next step.
        """
        assert batch.value_BT is not None
        target_BT = credit.targets(batch).to(batch.value_BT.dtype)
        shared = self.config.shared
        first = 0.0
        plan = minibatches(batch.group_B, 1 if shared else self.config.minibatches, seed)
        for epoch in range(1 if shared else self.config.epochs):
            for minibatch in plan:
                weight = 1 / max(int(batch.mask_BT[minibatch].sum()), 1)
                for rows in microbatches(tokens, minibatch[batch.valid_B[minibatch]], self.micro_tokens):
                    part = tokens.rows(rows)
                    T = part.mask_BT.shape[1]
                    old_BT, aim_BT = (x[rows, :T] for x in (batch.value_BT, target_BT))
                    loss = self.config.loss(self.values(part), old_BT, aim_BT, weight * part.mask_BT)
                    ((self.config.coef if shared else 1.0) * loss).backward()  # type: ignore[no-untyped-call]
                    first += float(loss.detach()) / len(plan) if epoch == 0 else 0.0
                self.optimizer.step(clip_norm)
        return first


def explained_variance(value_BT: Tensor, target_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 one that knows nothing, below 0 a harmful one."""
    V, G = value_BT[mask_BT].double(), target_BT[mask_BT].double()
    if len(G) < 2 or float(G.var()) == 0.0:
        return float("nan")
    return float(1 - (G - V).var() / G.var())
