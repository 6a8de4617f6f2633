"""Credit: which token earned what. Rewards in, advantages out; every part is A_bt = (return - baseline).

All statistics are computed in float64, over valid rows only, and never over padding; rewards come in float64, so that
neither their scale nor where their zero lies decides what is learned. Rows of a group may lie anywhere in the batch:
`group_B` says which prompt a row answers. Advantages are detached and zero off the mask.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from torch import Tensor

from rung.maths.returns import (
    EQUAL,
    group_sum,
    has_signal,
    outcome_to_token,
    returns,
    reward_to_go,
    sizes,
    total_return,
)
from rung.records import Batch, State
from rung.settings.ranges import Checked, Coefficient, between

if TYPE_CHECKING:
    from rung.maths.value import Critic

Needs = frozenset[str]
Discount = Annotated[float, between(0, 1, "a discount: above 1 a later reward would weigh more than an earlier one")]
Rate = Annotated[float, between(0, 1, "the share of a batch in the new mean: at 0 it never moves", above=True)]


def _signal(batch: Batch, R_B: Tensor) -> Tensor:
    return has_signal(R_B, batch.valid_B, batch.group_B, sizes(batch))


def _spread(A_B: Tensor, batch: Batch) -> Tensor:
    """One advantage per answer, put on each of its action tokens."""
    return A_B.to(batch.reward_BT.dtype)[:, None] * (batch.mask_BT & batch.valid_B[:, None])


def _to_go(batch: Batch, gamma: float = 1.0) -> Tensor:
    return reward_to_go(batch.reward_BT.masked_fill(~batch.valid_B[:, None], 0.0), batch.mask_BT, gamma)


def _minus(R_BT: Tensor, baseline: Tensor) -> Tensor:
    """G - b, exactly 0 where only float residue is left of it. b: one a token, [B, T], or one an answer, [B, 1]."""
    A_BT = R_BT - baseline
    return A_BT.masked_fill(A_BT.abs() <= EQUAL * torch.maximum(R_BT.abs(), baseline.abs()), 0.0)


class Credit(Checked):
    """A part that turns a Batch into advantages. `needs` tells the loop what to prepare."""

    needs: ClassVar[Needs] = frozenset()

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def observe(self, batch: Batch) -> State:
        """The state after this batch; called once a step, after the advantages were taken."""
        return batch.state

    def dominated(self, batch: Batch) -> Tensor | None:
        """bool, one for each group with a signal: eps exceeds the std that it stands beside. None: no eps here."""
        return None

    def learns(self) -> Critic | None:
        """How the critic is learned whose values it reads; None: it reads none."""
        return None

    def targets(self, batch: Batch) -> Tensor:
        """What that critic is regressed on, float[B, T]."""
        raise NotImplementedError

    @property
    def discount(self) -> float:  # of the return that the critic learns
        return 1.0


# -- no baseline ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TotalReturn(Credit):
    """A_bt = sum_k gamma^k r_bk, the whole answer's return on every token   (Williams 1992, REINFORCE)."""

    gamma: Discount = 1.0

    def __call__(self, batch: Batch) -> Tensor:
        R_B = total_return(batch.reward_BT.double(), batch.mask_BT, self.gamma).masked_fill(~batch.valid_B, 0.0)
        return _spread(R_B, batch)


@dataclass(frozen=True)
class RewardToGo(Credit):
    """A_bt = sum_{t' >= t} gamma^(t'-t) r_bt'   (Sutton et al. 2000: a reward cannot credit a later action).

    With gamma < 1 the gradient of E[sum gamma^t r_t] weighs token t by gamma^t as well; everybody drops that
    factor, and so does the default. `discount_state_weight=True` keeps it.
    """

    gamma: Discount = 1.0
    discount_state_weight: bool = False

    def __call__(self, batch: Batch) -> Tensor:
        R_BT = _to_go(batch, self.gamma)
        if self.discount_state_weight:
            R_BT = R_BT * self.gamma ** (batch.mask_BT.cumsum(1) - 1).clamp(min=0).to(R_BT.dtype)
        return R_BT


# -- one baseline for the whole batch ------------------------------------------------------------------------------
@dataclass(frozen=True)
class MovingAverage(Credit):
    """A_bt = R_bt - b_k,  then  b_{k+1} = (1 - rate) b_k + rate mean(R)   (Williams 1992, reinforcement comparison).

    The baseline excludes the batch that it is subtracted from: an answer in its own baseline would shrink the expected
    gradient by (1 - rate). b starts at 0; `debias` divides by 1 - (1 - rate)^k, as Adam does.
    """

    rate: Rate = 0.1
    debias: bool = True

    def baseline(self, state: State) -> float:
        if state.mean_updates == 0:
            return 0.0
        return state.mean / (1 - (1 - self.rate) ** state.mean_updates) if self.debias else state.mean

    def __call__(self, batch: Batch) -> Tensor:
        R_BT = _to_go(batch)
        return _minus(R_BT, torch.full_like(R_BT, self.baseline(batch.state))) * (
            batch.mask_BT & batch.valid_B[:, None]
        )

    def observe(self, batch: Batch) -> State:
        if not batch.valid_B.any():
            return batch.state
        mean = float(returns(batch).sum() / batch.valid_B.sum())
        old = batch.state
        return replace(old, mean=(1 - self.rate) * old.mean + self.rate * mean, mean_updates=old.mean_updates + 1)


@dataclass(frozen=True)
class BatchMean(Credit):
    """A_bt = R_bt - (1/B) sum_j R_j   over the whole optimizer batch: E = (1 - 1/B) grad J.

    Each answer is in the mean, hence the factor; `leave_one_out=True` removes it:
    A_bt = R_bt - 1/(B-1) sum_{j != b} R_j, which is unbiased.
    """

    leave_one_out: bool = False

    def __call__(self, batch: Batch) -> Tensor:
        R_B, n = returns(batch), batch.valid_B.sum().clamp(min=1)
        others = self.leave_one_out and n > 1  # a single answer is its own mean: advantage 0
        mean_B = (R_B.sum() - R_B) / (n - 1) if others else (R_B.sum() / n).expand_as(R_B)
        A_BT = _minus(_to_go(batch), mean_B.to(batch.reward_BT.dtype)[:, None])
        return A_BT * (batch.mask_BT & batch.valid_B[:, None])


# -- one baseline per prompt ---------------------------------------------------------------------------------------
def _refuse_groups_of_one(batch: Batch, part: Credit, on_singleton: str) -> None:
    if on_singleton == "raise" and (group_sum(torch.ones_like(batch.group_B), batch.group_B) == 1).any():
        raise ValueError(
            f"{type(part).__name__} compares the answers to one prompt, but a prompt has only one answer: its advantage "
            "would be 0/0. Sample at least 2 answers per prompt, or set on_singleton='zero'."
        )


@dataclass(frozen=True)
class LeaveOneOut(Credit):
    """A_i = R_i - mean_{j != i} R_j = G/(G-1) (R_i - mean R)   (RLOO; Kool et al. 2019, arXiv:2402.14740): unbiased."""

    on_singleton: Literal["raise", "zero"] = "raise"
    needs: ClassVar[Needs] = frozenset({"groups"})

    def __call__(self, batch: Batch) -> Tensor:
        _refuse_groups_of_one(batch, self, self.on_singleton)
        R_B, n_P = returns(batch), group_sum(batch.valid_B.double(), batch.group_B)
        others_B = (group_sum(R_B, batch.group_B)[batch.group_B] - R_B) / (n_P[batch.group_B] - 1).clamp(min=1)
        return _spread((R_B - others_B) * _signal(batch, R_B), batch)


@dataclass(frozen=True)
class GroupMean(Credit):
    """A_i = (R_i - mean_G R) / scale,  scale = std_G R + eps for GRPO (arXiv:2402.03300 sec. 4.1.2), 1 for Dr. GRPO.

    scale: "group"  std of the group's rewards plus eps (GRPO): re-weighs prompts by 1/sqrt(p (1-p));
           "none"   1 (Dr. GRPO, arXiv:2503.20783): E = (G-1)/G grad J;
           "batch"  std of all rewards of the batch plus eps (Lite PPO, arXiv:2508.08221);
           "mean"   the group's mean reward (MaxRL): sums the first G-1 terms of grad log p.
    bessel, eps: std over n-1 or n; the paper fixes neither, frameworks use eps from 1e-9 to 1e-4. eps has the unit of
        the reward: where a group's std is below it, the group counts for less, and `dominated` says so.
    A group whose rewards are all equal gets exactly 0.
    """

    scale: Literal["group", "none", "batch", "mean"] = "group"
    bessel: bool = True
    eps: Coefficient = 1e-4
    on_singleton: Literal["raise", "zero"] = "raise"
    needs: ClassVar[Needs] = frozenset({"groups"})

    @property
    def equation(self) -> str:
        """What this scale computes, for `rung explain`."""
        bottom, source = {
            "group": (f"(std_G R + {self.eps:g})", "GRPO, arXiv:2402.03300 sec. 4.1.2"),
            "none": ("1", "Dr. GRPO, arXiv:2503.20783"),
            "batch": (f"(std_batch R + {self.eps:g})", "Lite PPO, arXiv:2508.08221"),
            "mean": ("mean_G R, and 0 where that is not positive", "MaxRL, arXiv:2602.02710"),
        }[self.scale]
        return (
            f"A_i = R_i - mean_G R   ({source})" if bottom == "1" else f"A_i = (R_i - mean_G R) / {bottom}   ({source})"
        )

    def __call__(self, batch: Batch) -> Tensor:
        _refuse_groups_of_one(batch, self, self.on_singleton)
        R_B, group_B = returns(batch), batch.group_B
        mean_B, signal_B, A_B = self._centered(batch, R_B)
        if self.scale in ("group", "batch"):
            A_B = A_B / (self._std(batch, R_B, A_B) + self.eps)
        elif self.scale == "mean":  # below the resolution of the rewards a mean is 0: no success to divide by
            size_P = torch.zeros_like(group_sum(R_B, group_B)).scatter_reduce(0, group_B, R_B.abs(), "amax")
            positive_B = mean_B > EQUAL * size_P[group_B]
            A_B = torch.where(positive_B, A_B / mean_B.masked_fill(~positive_B, 1.0), 0.0)
        return _spread(torch.where(signal_B, A_B, 0.0), batch)  # with eps = 0, equal rewards would be 0/0

    def dominated(self, batch: Batch) -> Tensor | None:
        if self.scale not in ("group", "batch"):
            return None
        R_B = returns(batch)
        _, signal_B, A_B = self._centered(batch, R_B)
        std_B = self._std(batch, R_B, A_B).expand_as(R_B)
        return _by_group(std_B < self.eps, signal_B, batch.group_B)

    def _centered(self, batch: Batch, R_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The group's mean, whether it has a signal, and R - mean where it has: [B] each."""
        n_P = group_sum(batch.valid_B.double(), batch.group_B)
        mean_B = (group_sum(R_B, batch.group_B) / n_P.clamp(min=1))[batch.group_B]
        signal_B = _signal(batch, R_B)
        return mean_B, signal_B, (R_B - mean_B) * signal_B

    def _std(self, batch: Batch, R_B: Tensor, A_B: Tensor) -> Tensor:
        """std of the group's rewards, [B], or of the batch's, a scalar."""
        valid_B, group_B = batch.valid_B, batch.group_B
        if self.scale == "batch":
            n = valid_B.sum()
            spread_B = (R_B - R_B.sum() / n.clamp(min=1)) * valid_B
            return (spread_B.square().sum() / (n - int(self.bessel)).clamp(min=1)).sqrt()
        n_P = group_sum(valid_B.double(), group_B)
        var_P = group_sum(A_B.square(), group_B) / (n_P - int(self.bessel)).clamp(min=1)
        return var_P.sqrt()[group_B]


def _by_group(x_n: Tensor, signal_n: Tensor, group_n: Tensor) -> Tensor:
    """x of each group with a signal, one bool a group; x is the same throughout a group."""
    return group_sum((x_n & signal_n).double(), group_n)[group_sum(signal_n.double(), group_n) > 0] > 0


@dataclass(frozen=True)
class LengthWeighted(Credit):
    """A_i = R_i - sum_j L_j R_j / sum_j L_j   (OPO, arXiv:2505.23585): the optimal baseline if |grad log pi|^2 ~ L."""

    on_singleton: Literal["raise", "zero"] = "raise"
    needs: ClassVar[Needs] = frozenset({"groups"})

    def __call__(self, batch: Batch) -> Tensor:
        _refuse_groups_of_one(batch, self, self.on_singleton)
        R_B, L_B = returns(batch), batch.mask_BT.sum(1).double() * batch.valid_B
        b_P = group_sum(L_B * R_B, batch.group_B) / group_sum(L_B, batch.group_B).clamp(min=1)
        return _spread((R_B - b_P[batch.group_B]) * _signal(batch, R_B), batch)


@dataclass(frozen=True)
class StepMean(Credit):
    """A_bt = sum_{steps j ending at or after t} (r_j - mean r) / (std r + eps), pooled over all steps of the group.

    Process supervision of GRPO (arXiv:2402.03300 sec. 4.1.3). `step_end_BT` says where a reasoning step ends; with
    one step per answer this is outcome supervision, GroupMean(scale="group").
    """

    bessel: bool = True
    eps: Coefficient = 1e-4
    needs: ClassVar[Needs] = frozenset({"groups", "steps"})

    def __call__(self, batch: Batch) -> Tensor:
        ok_BT, end_BT = batch.mask_BT & batch.valid_B[:, None], self._ends(batch)
        centered_n, std_n, signal_n, _ = self._steps(batch, end_BT)
        normalized_BT = torch.zeros_like(batch.reward_BT)
        scaled_n = torch.where(signal_n, centered_n / (std_n + self.eps), 0.0)
        normalized_BT[end_BT] = scaled_n.to(normalized_BT.dtype)
        return reward_to_go(normalized_BT, batch.mask_BT) * ok_BT

    def dominated(self, batch: Batch) -> Tensor | None:
        _, std_n, signal_n, group_n = self._steps(batch, self._ends(batch))
        return _by_group(std_n < self.eps, signal_n, group_n)

    def _ends(self, batch: Batch) -> Tensor:
        """Where a step of a valid answer ends: bool[B, T]."""
        ok_BT, end_BT = batch.mask_BT & batch.valid_B[:, None], batch.step_end_BT
        if end_BT is None:
            end_BT = outcome_to_token(torch.ones_like(batch.reward_BT[:, 0]), batch.mask_BT) > 0
        return end_BT & ok_BT

    def _steps(self, batch: Batch, end_BT: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each step: r - mean of its group, the group's std, whether it has a signal, and the group."""
        r_n, group_n = batch.reward_BT[end_BT].double(), batch.group_B[:, None].expand_as(end_BT)[end_BT]
        n_P = group_sum(torch.ones_like(r_n), group_n)
        signal_n = has_signal(r_n, torch.ones_like(r_n, dtype=torch.bool), group_n)
        centered_n = (r_n - (group_sum(r_n, group_n) / n_P.clamp(min=1))[group_n]) * signal_n
        std_P = (group_sum(centered_n.square(), group_n) / (n_P - int(self.bessel)).clamp(min=1)).sqrt()
        return centered_n, std_P[group_n], signal_n, group_n


@dataclass(frozen=True)
class Greedy(Credit):
    """A_bt = R_bt - R(x, argmax-decoded answer)   (ReMax, arXiv:2310.10505): one more answer per prompt, unbiased."""

    needs: ClassVar[Needs] = frozenset({"greedy"})

    def __call__(self, batch: Batch) -> Tensor:
        assert batch.greedy_B is not None, "collect() fills greedy_B where a part needs it"
        known_B = batch.greedy_B.isfinite()
        A_BT = _to_go(batch) - batch.greedy_B.nan_to_num(0.0).to(batch.reward_BT.dtype)[:, None]
        return A_BT * (batch.mask_BT & (batch.valid_B & known_B)[:, None])
