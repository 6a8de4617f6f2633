"""The critic: V(s_t), the return still to come, read where the model predicts token t. Its head starts at zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rung.kernels.attention import scatter
from rung.kernels.device import fetch, send
from rung.network.adapter import load_trained, trained_weights
from rung.network.forward import predicting_states
from rung.network.model import Model
from rung.parts import Critic
from rung.records import Batch, Tokens
from rung.training.micro import Micro
from rung.training.optimizer import MasterAdamW
from rung.training.policy import in_parts, microbatches, minibatches, slots
from rung.training.ranks import ALONE, Ranks, blank, totals


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
    micro: Micro
    ranks: Ranks = ALONE

    @classmethod
    def build(
        cls, config: Critic, policy: Model, learning_rate: float, micro: Micro, ranks: Ranks = ALONE
    ) -> ValueModel:
        model = policy if config.shared else replace(policy, hf=ranks.copy(policy.hf))
        head = nn.Linear(policy.hf.config.get_text_config().hidden_size, 1, device=policy.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        ranks.share(head)
        if not config.shared:
            ranks.hold(model)
        trunk: Any = model.hf.get_decoder()
        own = list(head.parameters()) + ([] if config.shared else list(trunk.parameters()))
        optimizer = MasterAdamW(own, config.learning_rate * learning_rate, ranks=ranks)
        return cls(config, model, head, optimizer, micro, ranks)

    def values(self, tokens: Tokens) -> Tensor:
        """V_bt before each scored token is emitted, float32[B, T] with gradient, zero off the mask."""
        hidden, slot = self.model.whole(predicting_states, self.model, tokens, slots(tokens))
        return scatter(self.head(hidden.float())[:, 0], slot, tokens.mask_BT.shape)

    def predict(self, tokens: Tokens) -> Tensor:
        """V_bt for a whole step, some rows at a time, without gradient, in main memory."""
        return self.micro.tried(lambda: in_parts(tokens, 4 * self.micro.tokens, self.values, ranks=self.ranks), tokens)

    def after(self, tokens: Tokens, wanted_B: Tensor) -> Tensor:
        """V(s_L), of the state after the last token, for the wanted rows: float32[B], zero for the others."""
        length_B, one = tokens.length_B, torch.nn.functional.pad
        at_T = torch.arange(tokens.tokens_BT.shape[1] + 1)
        longer = replace(  # as if one token more were to be scored, which nothing reads
            tokens, tokens_BT=one(tokens.tokens_BT, (0, 1)), mask_BT=at_T == length_B[:, None], length_B=length_B + 1,
        )  # fmt: skip
        rows, ranks = wanted_B.nonzero()[:, 0], self.ranks
        return self.micro.tried(lambda: in_parts(longer, 4 * self.micro.tokens, self.values, rows, ranks), longer).sum(
            1
        )

    def fit(self, batch: Batch, clip_norm: float, seed: int) -> float:
        """AdamW on the value loss, a token mean over each minibatch (its valid rows learn, all of them are counted).

        Returns the loss over the first pass. A shared trunk takes the batch whole and once, since its gradient
        belongs to the policy's next step.
        """
        shared = self.config.shared
        first: list[Tensor] = []
        plan = minibatches(batch.group_B, 1 if shared else self.config.minibatches, seed)
        for epoch in range(1 if shared else self.config.epochs):
            for minibatch in plan:
                losses = self.micro.tried(partial(self._gradient, batch, minibatch), batch.spoken, self._forget)
                first += losses if epoch == 0 else []
                self.optimizer.step(clip_norm)
        return totals(self.ranks, sum((float(loss) / len(plan) for loss in fetch(*first)), 0.0))[0]

    def _parts(self, batch: Batch, rows: Tensor) -> list[Batch]:
        """Micro-batches of the rows, as many in every process."""
        split = microbatches(batch.spoken, self.ranks.own(batch.spoken, rows), self.micro.tokens)
        return self.ranks.even([batch.rows(index) for index in split], lambda: blank(batch))

    def _gradient(self, batch: Batch, minibatch: Tensor) -> list[Tensor]:
        """Add the gradient of a minibatch's loss to what is at hand; the losses of its micro-batches."""
        weight = 1 / max(int(batch.mask_BT[minibatch].sum()), 1)
        losses = list[Tensor]()
        for part in self._parts(batch, minibatch[batch.valid_B[minibatch]]):
            assert part.value_BT is not None and part.target_BT is not None
            aims = (part.value_BT, part.target_BT, weight * part.mask_BT)
            loss = self.config.loss(self.values(part.spoken), *send(self.model.device, *aims))
            ((self.config.coef if self.config.shared else 1.0) * loss).backward()
            losses.append(loss.detach())
        return losses

    def _forget(self) -> None:
        """No gradient is at hand: the policy has none yet when a critic on its trunk is fitted."""
        for p in (*self.model.hf.parameters(), *self.head.parameters()):
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "head": dict(self.head.state_dict()),
            "trunk": None if self.config.shared else trained_weights(self.model.hf),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.head.load_state_dict(saved["head"])
        if saved["trunk"] is not None:
            load_trained(self.model.hf, saved["trunk"])
        self.optimizer.load_state_dict(saved["optimizer"])


def explained_variance(value_BT: Tensor, target_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(target - V) / Var(target): 1 is a perfect critic, 0 one that knows nothing, below 0 a harmful one."""
    V, G = value_BT[mask_BT].double(), target_BT[mask_BT].double()
    if len(G) < 2 or float(G.var()) == 0.0:
        return float("nan")
    return float(1 - (G - V).var() / G.var())
