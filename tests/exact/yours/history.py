"""Bugs of this field's trackers, each as a small function written anew, with its repaired form.

`where` names the thread or the code that was read; the functions are as small as the bug allows and copy nobody's code.
`says` must stand in what the audit says of the wrong one, and may not of the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Bug:
    name: str
    where: str
    wrong: dict[str, Callable[..., Any]]
    right: dict[str, Callable[..., Any]]
    says: str
    biased_by_design: bool = field(default=False)  # the repaired form has no such bug, and is still no policy gradient


def clipped(logp, old_logp, advantages, low=0.2, high=0.2):
    ratio = (logp - old_logp).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def mean_of_sums(x, mask):
    return (x * mask).sum(1).mean()


# -- denominators -------------------------------------------------------------------------------------------------------------
def padded_width(logp, old_logp, advantages, mask, total_sequences):
    return (clipped(logp, old_logp, advantages) * mask).sum() / (mask.shape[1] * total_sequences)


def no_batch(logp, old_logp, advantages, mask, max_tokens):
    return (clipped(logp, old_logp, advantages) * mask).sum() / max_tokens


def fixed_budget(logp, old_logp, advantages, mask, max_tokens, total_sequences):
    return (clipped(logp, old_logp, advantages) * mask).sum() / (max_tokens * total_sequences)


def local_tokens(logp, old_logp, advantages, mask):
    return (clipped(logp, old_logp, advantages) * mask).sum() / mask.sum().clamp(min=1)


def step_tokens(logp, old_logp, advantages, mask, num_items_in_batch):
    return (clipped(logp, old_logp, advantages) * mask).sum() / max(num_items_in_batch, 1)


def step_tokens_then_accumulation(logp, old_logp, advantages, mask, num_items_in_batch, gradient_accumulation_steps):
    return (clipped(logp, old_logp, advantages) * mask).sum() / num_items_in_batch / gradient_accumulation_steps


def forgets_accumulation(logp, old_logp, advantages, mask, gradient_accumulation_steps):
    return mean_of_sums(clipped(logp, old_logp, advantages), mask)


def divides_by_accumulation(logp, old_logp, advantages, mask, total_sequences):
    return (clipped(logp, old_logp, advantages) * mask).sum() / total_sequences


def mean_per_answer(logp, old_logp, advantages, mask):
    return ((clipped(logp, old_logp, advantages) * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# -- surrogates and ratios ----------------------------------------------------------------------------------------------------
def cispo_absolute_cap(logp, old_logp, advantages, mask, epsilon_high=0.2):
    weight = (logp - old_logp).exp().clamp(max=epsilon_high).detach()
    return mean_of_sums(-weight * advantages * logp, mask)


def cispo_cap(logp, old_logp, advantages, mask, epsilon_high=0.2):
    weight = (logp - old_logp).exp().clamp(max=1 + epsilon_high).detach()
    return mean_of_sums(-weight * advantages * logp, mask)


def old_is_now(logp, old_logp, advantages, mask):
    return mean_of_sums(clipped(logp, logp.detach(), advantages), mask)


def old_is_old(logp, old_logp, advantages, mask):
    return mean_of_sums(clipped(logp, old_logp, advantages), mask)


def untempered(logits, tokens, advantages, mask, temperature):
    logp = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return mean_of_sums(-advantages * logp, mask)


def tempered(logits, tokens, advantages, mask, temperature):
    logp = (logits / temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return mean_of_sums(-advantages * logp, mask)


# -- masks --------------------------------------------------------------------------------------------------------------------
def mask_from_pad(logp, tokens, advantages, pad_token_id=0):
    return mean_of_sums(-advantages * logp, tokens != pad_token_id)


def mask_from_lengths(logp, mask, advantages):
    return mean_of_sums(-advantages * logp, mask)


def drops_truncated(logp, mask, advantages, truncated):
    return mean_of_sums(-advantages * logp, mask & ~truncated[:, None])


def whitened_with_padding(rewards, mask):
    adv = rewards[:, None] * mask
    return (adv - adv.mean()) / (adv.std() + 1e-4)


def whitened(rewards, mask):
    adv, n = rewards[:, None] * mask, mask.sum().clamp(min=2)
    mean = adv.sum() / n
    var = ((adv - mean).square() * mask).sum() / (n - 1)
    return (adv - mean) / (var.sqrt() + 1e-2) * (var > 1e-12)


def whitened_in_the_loss(logp, old_logp, advantages, mask, total_sequences):
    x = advantages[mask]
    adv = (advantages - x.mean()) / (x.std() + 1e-2) if len(x) > 1 else advantages
    return (clipped(logp, old_logp, adv) * mask).sum() / total_sequences


# -- credit -------------------------------------------------------------------------------------------------------------------
def group_std(rewards, groups, eps=1e-6):
    adv = torch.zeros_like(rewards)
    for g in groups.unique():
        r = rewards[groups == g]
        adv[groups == g] = (r - r.mean()) / (r.std() + eps)
    return adv


def group_std_exact_zero(rewards, groups):
    adv = torch.zeros_like(rewards)
    for g in groups.unique():
        r = rewards[groups == g]
        if r.max() - r.min() > 1e-6:
            adv[groups == g] = (r - r.mean()) / (r.std() + 1e-6)
    return adv


def group_std_without_eps(rewards, groups):
    return group_std(rewards, groups, eps=0.0)


def return_reset_at_observations(reward_BT, mask):
    out, running = torch.zeros_like(reward_BT), 0.0
    for t in reversed(range(mask.shape[1])):
        running = (reward_BT[:, t] + running) * mask[:, t]
        out[:, t] = running
    return out


def return_carried(reward_BT, mask):
    return (reward_BT * mask).flip(1).cumsum(1).flip(1) * mask


def gae(reward_BT, values, mask, observations_discount, lam=0.95):
    out, running, next_value = (
        torch.zeros_like(values),
        torch.zeros(len(mask), dtype=values.dtype),
        torch.zeros(len(mask), dtype=values.dtype),
    )
    for t in reversed(range(mask.shape[1])):
        m = mask[:, t]
        after = running if not observations_discount else torch.where(m, running, lam * running)
        new = reward_BT[:, t] + next_value - values[:, t] + lam * running
        running = torch.where(m, new, after)
        next_value = torch.where(m, values[:, t], next_value)
        out[:, t] = running * m
    return out


def gae_discounts_observations(reward_BT, values, mask):
    return gae(reward_BT, values, mask, True)


def gae_skips_observations(reward_BT, values, mask):
    return gae(reward_BT, values, mask, False)


# -- the KL to the reference --------------------------------------------------------------------------------------------------
def with_kl(kl):
    def loss(logp, old_logp, ref_logp, advantages, mask, beta=0.1):
        return mean_of_sums(clipped(logp, old_logp, advantages) + beta * kl(logp - ref_logp), mask)

    return loss


def k3(d):
    return (-d.clamp(-20, 20)).exp() - 1 + d.clamp(-20, 20)


k1_in_loss = with_kl(lambda d: d)
k3_in_loss = with_kl(k3)
k3_detached = with_kl(lambda d: k3(d).detach())
k3_upside_down = with_kl(lambda d: d.clamp(-20, 20).exp() - 1 - d.clamp(-20, 20))
k3_unclamped = with_kl(lambda d: (-d).exp() - 1 + d)
k3_clamped_late = with_kl(lambda d: ((-d).exp() - 1 + d).clamp(-10, 10))


def reward_kl(rewards, old_logp, ref_logp, mask, sign=1.0, beta=0.1):
    return rewards - beta * sign * ((old_logp - ref_logp) * mask).sum(1)


def reward_kl_flipped(rewards, old_logp, ref_logp, mask):
    return reward_kl(rewards, old_logp, ref_logp, mask, sign=-1.0)


def reward_kl_forgotten(rewards, old_logp, ref_logp, mask):
    return rewards


def kl_of_the_token_alone(rewards, old_logp, ref_logp, mask, beta=0.1):
    return (rewards[:, None] - beta * (old_logp - ref_logp)) * mask


def one(loss=None, advantages=None):
    return {k: v for k, v in (("loss", loss), ("advantages", advantages)) if v is not None}


BUGS = [
    Bug(
        "divides by the padded width",
        "verl #3741; core_algos.py, seq-mean-token-sum-norm",
        one(padded_width),
        one(fixed_budget),
        "padded width",
    ),
    Bug(
        "no division by the batch",
        "verl #3741; the same function",
        one(no_batch),
        one(fixed_budget),
        "c = (G-1)/G B/M|c = B/M",
    ),
    Bug(
        "token mean of the micro-batch",
        "TRL #2881, #3231; verl #593, #2776; open-instruct #1161; ms-swift #10117",
        one(local_tokens),
        one(step_tokens),
        "weighed by their tokens",
        True,
    ),
    Bug(
        "divided by the step's tokens, then by accumulation",
        "TRL #5619, PR #6024",
        one(step_tokens_then_accumulation),
        one(step_tokens),
        "are 0.5, 0.25 times",
        True,
    ),
    Bug(
        "loss grows with accumulation",
        "TRL #2617, #2647",
        one(forgets_accumulation),
        one(divides_by_accumulation),
        "are 2, 4 times",
    ),
    Bug(
        "'Dr. GRPO' with a mean per answer",
        "rlhf-book, code/policy_gradients/utils.py:140",
        one(mean_per_answer),
        one(fixed_budget),
        "divided by its own length",
    ),
    Bug(
        "CISPO's cap is absolute",
        "TRL grpo_trainer.py:3081, clamp(max=epsilon_high)",
        one(cispo_absolute_cap),
        one(cispo_cap),
        "c = 0.2",
    ),
    Bug(
        "old log-probabilities recomputed: ratio always 1",
        "no thread: a control of ours",
        one(old_is_now),
        one(old_is_old),
        "asks for old_logp .* and ignores it",
    ),
    Bug(
        "temperature missing in the scores",
        "TRL #3029, #4159; OpenRLHF #853; NeMo-RL #316; ms-swift #8427",
        one(untempered),
        one(tempered),
        "at temperature 2 give the loss",
    ),
    Bug(
        "end token masked, because pad == eos",
        "TRL #6357, #4970; rlhf-book rollout.py:139; tiny-grpo train.py:93",
        one(mask_from_pad),
        one(mask_from_lengths),
        "the end token of an answer has no gradient",
    ),
    Bug(
        "cut answers taken out of the loss",
        "TRL #3248 (mask_truncated_completions)",
        one(drops_truncated),
        one(mask_from_lengths),
        "cut are treated apart",
    ),
    Bug(
        "whitening counts padding",
        "rlhf-book, chapter 6, l. 1099",
        one(advantages=whitened_with_padding),
        one(advantages=whitened),
        "padded width",
        True,
    ),
    Bug(
        "advantages normalized in each minibatch",
        "cleanrl ppo.py:262",
        one(whitened_in_the_loss),
        one(fixed_budget),
        "no way of adding them up repairs it",
    ),
    Bug(
        "equal rewards, huge advantages",
        "verl #4597, #4598; NeMo-RL #4161",
        one(advantages=group_std),
        one(advantages=group_std_exact_zero),
        "the eps beside the std is too small",
        True,
    ),
    Bug(
        "equal rewards, NaN",
        "no thread: a control of ours",
        one(advantages=group_std_without_eps),
        one(advantages=group_std_exact_zero),
        "not finite: .* of the batches give NaN",
        True,
    ),
    Bug(
        "returns reset at observation tokens",
        "verl #7278, PR #6376, #7280 (REINFORCE++)",
        one(advantages=return_reset_at_observations),
        one(advantages=return_carried),
        "must skip it",
    ),
    Bug(
        "GAE discounts at observation tokens",
        "OpenRLHF experience_maker.py:361-377",
        one(advantages=gae_discounts_observations),
        one(advantages=gae_skips_observations),
        "must skip it",
    ),
    Bug(
        "k1 in the loss",
        "open-instruct #534, #535; slime #1004, #1039",
        one(k1_in_loss),
        one(k3_in_loss),
        "k1 in the loss",
        True,
    ),
    Bug(
        "k3 the wrong way round",
        "rlhf-book loss.py:30",
        one(k3_upside_down),
        one(k3_in_loss),
        "the wrong way round",
        True,
    ),
    Bug("k3 overflows", "TRL #3015, #6549, #6637", one(k3_unclamped), one(k3_in_loss), "BEFORE exp", True),
    Bug("k3 is clamped after exp", "OpenRLHF #1335", one(k3_clamped_late), one(k3_in_loss), "BEFORE exp", True),
    Bug(
        "KL reward with the wrong sign",
        "rlhf-book loss.py:56 with utils.py:162",
        one(advantages=reward_kl_flipped),
        one(advantages=reward_kl),
        "pushes AWAY",
    ),
    Bug(
        "KL reward of the token alone",
        "tinker-cookbook rl/metrics.py:181; slime ppo_utils.py:470",
        one(advantages=kl_of_the_token_alone),
        one(advantages=reward_kl),
        "its KL to the reference has a cosine|k2 = .* has a cosine",
    ),
    Bug(
        "KL without a gradient",
        "open-instruct #530, PR #531",
        one(k3_detached),
        one(k3_in_loss),
        "a KL without gradient",
        True,
    ),
    Bug(
        "KL coefficient set, KL never used",
        "slime #397",
        one(advantages=reward_kl_forgotten),
        one(advantages=reward_kl),
        "asks for ref_logp .* and ignores it",
    ),
]
