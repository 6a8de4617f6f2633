"""From scored answers to a Batch: rows of one width, and each reward on the token that it is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rung.maths.returns import outcome_to_token
from rung.records import Batch, Episode, Rollout, Scored, State, Tokens

StepEnds = Callable[
    [Scored], Sequence[tuple[int, float]]
]  # (index of the token that ends a step, the step's own reward)


def layout(
    groups: Sequence[Sequence[Scored]], state: State, *, same_numbers: bool = True, drop_truncated: bool = False,
    greedy: Sequence[float] | None = None, dull: Sequence[bool] | None = None, ends: StepEnds | None = None,
) -> Batch:  # fmt: skip
    """The answers to each prompt, as many to one as to another, as rows one below the other.

    greedy, dull: of each prompt, where known.  ends: where an answer's reasoning steps end, where those are rewarded.
    """
    rows, samples = [row for group in groups for row in group], len(groups[0])
    rollouts, group_B = [row.rollout for row in rows], torch.arange(len(groups)).repeat_interleave(samples)
    tokens = _tokens([group[0].rollout.prompt for group in groups], rollouts, group_B)
    mask_BT = tokens.mask_BT
    logp_BT = _stack([r.logp for r in rollouts], mask_BT.shape[1], torch.float32)
    reward_B = torch.tensor([row.reward for row in rows], dtype=torch.float64)
    reward_BT, step_end_BT = _rewards(rows, reward_B, mask_BT, ends)
    truncated_B = torch.tensor([r.stop == "length" for r in rollouts])
    return Batch(
        reward_BT=reward_BT,
        mask_BT=mask_BT,
        group_B=group_B,
        valid_B=reward_B.isfinite() & mask_BT.any(1),
        keep_B=~truncated_B if drop_truncated else torch.ones_like(truncated_B),
        truncated_B=truncated_B,
        right_B=torch.tensor([row.task_reward > 0 for row in rows]),
        behavior_logp_BT=logp_BT,
        old_logp_BT=logp_BT,
        greedy_B=None if greedy is None else torch.tensor(greedy, dtype=torch.float64)[group_B],
        step_end_BT=step_end_BT,
        zero_variance_B=None if dull is None else torch.tensor(dull)[group_B],
        state=state,
        same_numbers=same_numbers,
        tokens=tokens,
    )


def _tokens(prompts: Sequence[Sequence[int]], rollouts: Sequence[Rollout], group_B: Tensor) -> Tokens:
    length_B = torch.tensor([len(r.tokens) for r in rollouts])
    T = max(int(length_B.max()), 1)
    return Tokens(
        prompts=[torch.tensor(prompt) for prompt in prompts],
        tokens_BT=_stack([r.tokens for r in rollouts], T, torch.long),
        mask_BT=_stack([r.actions or (True,) * len(r.tokens) for r in rollouts], T, torch.bool),
        length_B=length_B,
        group_B=group_B,
    )


def _rewards(
    rows: Sequence[Scored], reward_B: Tensor, mask_BT: Tensor, ends: StepEnds | None
) -> tuple[Tensor, Tensor | None]:
    """The reward of each action, and where steps end: an outcome on the answer's last action, what a turn earned on the turn's."""
    reward_BT = outcome_to_token(reward_B.nan_to_num(0.0), mask_BT)
    for b, row in enumerate(rows):
        if row.episode is not None and math.isfinite(row.reward):
            _spread(reward_BT[b], mask_BT[b], row.episode)
    if ends is None:
        return reward_BT, None
    step_end_BT = outcome_to_token(torch.ones_like(reward_B), mask_BT) > 0
    for b, row in enumerate(rows):
        for t, reward in ends(row):
            step_end_BT[b, t] = True
            reward_BT[b, t] += reward
    return reward_BT, step_end_BT


def _spread(reward_T: Tensor, mask_T: Tensor, episode: Episode) -> None:
    """Move each turn's reward from the answer's last token to the turn's."""
    last = int(mask_T.nonzero()[-1]) if mask_T.any() else 0
    for t, reward in episode.rewards:
        if t != last:
            reward_T[last] -= reward
            reward_T[t] += reward


def _stack(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype) -> Tensor:
    """Rows of different lengths, right-padded with zeros."""
    return torch.tensor([list(r) + [0] * (width - len(r)) for r in rows], dtype=dtype)
