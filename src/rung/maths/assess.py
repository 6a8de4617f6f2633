"""What a step's answers are worth, A = normalize(credit(r)), and what the recipe remembers of them.

Both look at whole batches, as a mean over the batch does: they belong where all of a step's rows are. Neither asks a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from rung.maths import objective
from rung.maths.credit import Credit
from rung.maths.kl import NoTrust, OldKL
from rung.maths.normalize import AsIs, Whiten
from rung.maths.objective import right
from rung.maths.returns import varies
from rung.maths.update import UpdateRule
from rung.records import Batch, State


class Parts(objective.Parts, Protocol):
    """The fields of a Recipe that are read here, beside those of the objective."""

    @property
    def credit(self) -> Credit: ...
    @property
    def normalize(self) -> AsIs | Whiten: ...
    @property
    def trust(self) -> NoTrust | OldKL: ...
    @property
    def update(self) -> UpdateRule: ...


@dataclass(frozen=True)
class Assessed:
    """What a step's answers are worth.

    batch      with its rewards as the recipe shapes them and with the advantages.
    active     int[n]: the rows that can change the policy; the others need not enter the model again.
    dominated  share of the prompts with a signal in which eps, not the std, sets the advantages' size; None: no eps.
    """

    batch: Batch
    active: Tensor
    dominated: float | None = None


def assess(parts: Parts, batch: Batch) -> Assessed:
    """The batch with its rewards as the recipe shapes them and with their advantages. Changes nothing."""
    shaped = parts.kl.shape_reward(batch)
    adv_BT, dominated = advantages(parts, batch, shaped)
    adv_BT = adv_BT.to(shaped.behavior_logp_BT.dtype)
    return Assessed(replace(shaped, adv_BT=adv_BT), _active(parts, shaped, adv_BT), dominated)


def advantages(parts: Parts, batch: Batch, shaped: Batch) -> tuple[Tensor, float | None]:
    """A = normalize(credit(r)), in the rewards' float64, 0 where the task's rewards show no difference: float64[B, T].

    batch: with the rewards as they were earned.  shaped: with a KL in them, where the recipe puts it there.
    Beside them the share of the prompts with a signal in which eps exceeds the std that it stands beside.
    """
    credit_BT, counted_BT = parts.credit(shaped), shaped.mask_BT & shaped.valid_B[:, None]
    adv_BT = parts.normalize(credit_BT, counted_BT, varies(batch))
    if batch.zero_variance_B is not None:
        adv_BT = adv_BT.masked_fill(batch.zero_variance_B[:, None], 0.0)
    groups, whole = parts.credit.dominated(shaped), parts.normalize.dominated(credit_BT, counted_BT)
    if groups is None:
        return adv_BT, None if whole is None else float(whole)
    return adv_BT, float(groups.double().mean()) if len(groups) else 0.0


def _active(parts: Parts, batch: Batch, adv_BT: Tensor) -> Tensor:
    """Rows that can change the policy: those on which a term of J has a gradient, or will have once others moved it."""
    in_loss_B = batch.loss_mask_BT.any(1)
    acting_B = ((adv_BT != 0) & batch.loss_mask_BT).any(1)
    if parts.imitation:
        acting_B = acting_B | (in_loss_B & right(batch))
    if parts.entropy or (parts.kl.where == "loss" and batch.state.kl_coef):
        acting_B = in_loss_B
    leashed = batch.state.trust_coef or parts.surrogate.acts_without_advantage or parts.update.leashed
    if leashed and acting_B.any():  # what holds the policy to pi_old has no gradient there
        acting_B = in_loss_B
    return acting_B.nonzero()[:, 0]


def next_state(parts: Parts, batch: Batch, *, old_kl: float | None = None, ref_kl: float | None = None) -> State:
    """The state after a step: the moving average takes in the rewards, adaptive coefficients what the update did.

    old_kl: mean KL(old || new) a token, after the update.  ref_kl: mean KL to the reference a token, before it.
    """
    state = parts.credit.observe(batch)
    if old_kl is not None:
        state = parts.trust.observe(state, old_kl)
    if ref_kl is not None:
        answers = batch.mask_BT.shape[0]
        state = parts.kl.observe(state, ref_kl * float(batch.mask_BT.sum()) / answers, answers)
    return state
