"""KL: how far the policy is from the reference (u = log pi - log pi_ref) or from the old policy.

An estimator's value and its gradient are two different things. As a loss with frozen states, k1 has no expected
gradient at all, k2 has that of the reverse KL per state, k3 that of the forward KL. Two have the gradient of the KL between
whole answers: k1 in the reward (with full return or reward-to-go, gamma = 1), and SequenceK2 in the loss (on-policy).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from rung.errors import InputError
from rung.maths.credit import Needs
from rung.maths.ratio import LIMIT
from rung.records import Batch, Scores, State
from rung.settings.ranges import Checked, Count, above, at_least

Where = Literal["loss", "reward"]
Beta = Annotated[float, at_least(0, "below 0 it would reward divergence")]
Target = Annotated[float, above(0, "beta adapts by the quotient of KL and target")]


def k1(u: Tensor) -> Tensor:
    """k1 = u: unbiased value of the KL, any sign."""
    return u


def k2(u: Tensor) -> Tensor:
    """k2 = u^2 / 2: biased value, never negative."""
    return 0.5 * u.square()


def k3(u: Tensor) -> Tensor:
    """k3 = exp(-u) - 1 + u = q - log q - 1 with q = pi_ref / pi: unbiased value, never negative   (Schulman 2020)."""
    return torch.expm1(-u) + u


def difference(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """u_bt = log pi - log pi_ref, 0 off the mask, cut at +-20 BEFORE any exp (after it, gradients become NaN)."""
    return torch.where(mask_BT, logp_BT - ref_logp_BT, 0.0).clamp(-LIMIT, LIMIT)


@dataclass(frozen=True)
class ReferenceKL(Checked):
    """beta * k to the reference policy, in the loss or in the reward.

    coef: beta. In the reward it counts per answer (a sum over tokens), in the loss per weighted token: the two are
        not interchangeable (they differ by about the mean length).
    where: "loss" (with gradient, weighted like the policy term) or "reward" (r_t -= beta k_t, detached).
    target: adapts beta towards this KL per answer: beta *= 1 + clip(KL/target - 1, +-0.2) n / horizon
        (Ziegler et al., arXiv:1909.08593 sec. 2.2); None keeps beta fixed.
    """

    coef: Beta = 0.0
    where: Where = "loss"
    target: Target | None = None
    horizon: Count = 10_000

    @property
    def needs(self) -> Needs:
        return frozenset({"ref_logp"}) if self.coef else frozenset()

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        raise InputError(
            f"{type(self).__name__} (ReferenceKL) defines neither value() nor penalty(). Define one of them."
        )

    def penalty(self, batch: Batch, scores: Scores, logp_BT: Tensor, log_ratio_BT: Tensor) -> Tensor:
        """k_bt for the loss, float[B, T] with gradient (log_ratio_BT: per token); zero where it sits in the reward."""
        if self.where == "reward" or batch.ref_logp_BT is None:
            return torch.zeros_like(logp_BT)
        return self.value(difference(logp_BT, batch.ref_logp_BT, batch.mask_BT), log_ratio_BT, scores)

    def shape_reward(self, batch: Batch) -> Batch:
        """r_bt <- r_bt - beta k_bt at rollout time, detached; the batch itself where the KL sits in the loss."""
        if self.where == "loss" or batch.ref_logp_BT is None:
            return batch
        u_BT = difference(batch.old_logp_BT, batch.ref_logp_BT, batch.mask_BT)
        k_BT = self.value(u_BT, torch.zeros_like(u_BT), Scores(batch.old_logp_BT)).detach()
        return replace(batch, reward_BT=batch.reward_BT - batch.state.kl_coef * k_BT)

    def observe(self, state: State, kl_per_answer: float, answers: int) -> State:
        """The state with an adapted beta, or as it is."""
        if self.target is None or not self.coef:
            return state
        error = min(max(kl_per_answer / self.target - 1, -0.2), 0.2)
        return replace(state, kl_coef=state.kl_coef * (1 + error * answers / self.horizon))


@dataclass(frozen=True)
class NoKL(ReferenceKL):
    """No reference policy."""

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        return torch.zeros_like(u_BT)


@dataclass(frozen=True)
class K1(ReferenceKL):
    """k = u, in the reward: exactly the gradient of KL(pi || pi_ref) between answers   (arXiv:1909.08593)."""

    coef: Beta = 0.05
    where: Where = "reward"

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        return k1(u_BT)


@dataclass(frozen=True)
class K2(ReferenceKL):
    """k = u^2 / 2, in the loss: the reverse KL's gradient per state   (REINFORCE++-baseline)."""

    coef: Beta = 0.001

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        return k2(u_BT)


@dataclass(frozen=True)
class K3(ReferenceKL):
    """k = q - log q - 1 with q = pi_ref/pi, in the loss: the FORWARD KL's gradient per state   (GRPO eq. 4)."""

    coef: Beta = 0.04

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        return k3(u_BT)


@dataclass(frozen=True)
class RatioK3(ReferenceKL):
    """k = rho (q - log q - 1), gradient through rho: the reverse KL, unbiased off-policy   (arXiv:2512.02556).

    rho is the token's own pi / pi_old, whatever ratio the recipe gives to advantages: the KL per state, on the states
    of pi_old.
    """

    coef: Beta = 0.001

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        return log_ratio_BT.exp() * k3(u_BT)


@dataclass(frozen=True)
class StraightThrough(ReferenceKL):
    """k = stop_gradient[k3 - k2] + k2: the value of k3 with the gradient of k2   (Schulman 2020; verl's "k3+")."""

    coef: Beta = 0.001

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        return (k3(u_BT) - k2(u_BT)).detach() + k2(u_BT)


@dataclass(frozen=True)
class SequenceK2(ReferenceKL):
    """k_t = (sum_t u_t)^2 / (2 L): with SequenceSum exactly the gradient of the KL between answers, on-policy."""

    coef: Beta = 0.001

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        live_BT = u_BT != 0
        return k2(u_BT.sum(1, keepdim=True)) / live_BT.sum(1, keepdim=True).clamp(min=1) * live_BT


@dataclass(frozen=True)
class FullKL(ReferenceKL):
    """k = sum_v pi(v) (log pi(v) - log pi_ref(v)), over the whole vocabulary: exact per state, least variance."""

    coef: Beta = 0.001

    @property
    def needs(self) -> Needs:
        return frozenset({"ref_logp", "ref_full"}) if self.coef else frozenset()

    def value(self, u_BT: Tensor, log_ratio_BT: Tensor, scores: Scores) -> Tensor:
        assert scores.ref_kl_BT is not None, "the policy computes ref_kl_BT where a part needs it"
        return scores.ref_kl_BT


# -- to the old policy ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NoTrust(Checked):
    """No KL to the old policy."""

    coef: ClassVar[float] = 0.0
    needs: ClassVar[Needs] = frozenset()

    def observe(self, state: State, kl: float) -> State:
        return state


@dataclass(frozen=True)
class OldKL(Checked):
    """- beta_old KL(pi_old || pi), full vocabulary per state   (PPO, arXiv:1707.06347 eq. 8).

    With `target`, beta_old halves after an update with KL < target / 1.5 and doubles after one with KL > 1.5 target.
    Its gradient is zero at pi_old: it does nothing to the first step on a batch.
    """

    coef: Beta = 1.0
    target: Target | None = None
    needs: ClassVar[Needs] = frozenset({"old_full"})

    def observe(self, state: State, kl: float) -> State:
        """beta_old after an update whose mean KL(old || new) per token was `kl`."""
        if self.target is None:
            return state
        factor = 0.5 if kl < self.target / 1.5 else 2.0 if kl > self.target * 1.5 else 1.0
        return replace(state, trust_coef=min(max(state.trust_coef * factor, 1e-4), 1e4))
