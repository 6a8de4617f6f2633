"""One-token mistakes, each of which the tests must catch.

    python tests/mutants/mutants.py [--jobs 2] [--only TEXT] [--list]

Each mutant is a copy of src/ with one piece of text replaced; the tests that look at that file run against the copy
until the first failure. A mutant that no test fails has survived: a hole in the tests. Exits with 1 if one did, or if
its text is no longer found. A child is forked for each mutant, so that torch is imported only once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300  # seconds a mutant; one that hangs is caught


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    why: str


TESTS = {  # the quick and telling ones first
    "maths/logprob.py": ["tests/maths/test_hand_rows_logprob.py"],
    "maths/natural.py": ["tests/maths/test_hand_rows_natural.py"],
    "maths/": ["tests/maths/test_hand_rows_*.py", "tests/maths/test_peers_bugs.py", "tests/maths/test_conformance.py"],
    "rollout/attention.py": ["tests/rollout/test_attention.py"],
    "rollout/sampler.py": ["tests/rollout/test_attention.py"],
    "rollout/collect.py": ["tests/rollout/test_collect_masks.py"],
    "train/policy.py": ["tests/rollout/test_attention.py"],
    "train/critic.py": ["tests/train/test_critic_masks.py"],
}


def tests_of(file: str) -> list[str]:
    patterns = next(tests for prefix, tests in TESTS.items() if file.startswith(prefix))
    return [str(path.relative_to(ROOT)) for pattern in patterns for path in sorted(ROOT.glob(pattern))]


C, K, S, A = "maths/credit.py", "maths/kl.py", "maths/surrogate.py", "maths/aggregate.py"
MUTANTS = [
    # -- returns and baselines
    Mutant(C, "reward_BT[:, t] + gamma * acc_B, acc_B)", "reward_BT[:, t] + gamma * acc_B, 0.0)", "the return is reset at observations"),
    Mutant(C, "acc_B = torch.where(mask_BT[:, t], reward_BT[:, t] + gamma * acc_B, acc_B)", "acc_B = reward_BT[:, t] + gamma * acc_B", "the return ignores the mask"),
    Mutant(C, "return out_BT * mask_BT", "return out_BT", "returns on observations"),
    Mutant(C, "(mask_BT.cumsum(1) - 1).clamp(min=0).to(reward_BT.dtype)", "mask_BT.cumsum(1).to(reward_BT.dtype)", "discount off by one"),
    Mutant(C, "torch.arange(1, T + 1", "torch.arange(T, 0, -1", "the reward lies on the first token"),
    Mutant(C, "torch.arange(1, T + 1", "torch.arange(T + 0", "an answer of one token behind an observation"),
    Mutant(C, "return reward_BT.masked_fill(~mask_BT, 0.0)\n", "return reward_BT\n", "an empty answer keeps a reward"),
    Mutant(C, "return torch.where(mask_BT, reward_BT * power_BT, 0.0).sum(1)", "return (reward_BT * power_BT).sum(1)", "padding enters the return"),
    Mutant(C, "(high_P - low_P > EQUAL)", "(high_P - low_P > 0)", "float residue counts as signal"),
    Mutant(C, "EQUAL)[group_B]) & valid_B", "EQUAL)[group_B])", "invalid rows have a signal"),
    Mutant(C, "R_B.masked_fill(~valid_B, torch.inf), \"amin\"", "R_B, \"amin\"", "an unknown reward counts as the lowest"),
    Mutant(C, "(group_sum(R_B, batch.group_B)[batch.group_B] - R_B) / (n_P[batch.group_B] - 1)", "(group_sum(R_B, batch.group_B)[batch.group_B] - R_B) / (n_P[batch.group_B])", "leave-one-out divides by G"),
    Mutant(C, "(group_sum(R_B, batch.group_B)[batch.group_B] - R_B)", "group_sum(R_B, batch.group_B)[batch.group_B]", "leave-one-out keeps the own sample"),
    Mutant(C, "_returns(batch), group_sum(batch.valid_B.double(), batch.group_B)", "_returns(batch), group_sum(torch.ones_like(batch.group_B), batch.group_B)", "invalid answers count in leave-one-out"),
    Mutant(C, "n_P = group_sum(valid_B.double(), group_B)", "n_P = group_sum(torch.ones_like(R_B), group_B)", "invalid answers count in the group's mean"),
    Mutant(C, "(1 - (1 - self.rate) ** state.mean_updates)", "(1 - self.rate ** state.mean_updates)", "wrong debiasing"),
    Mutant(C, "mean=(1 - self.rate) * old.mean + self.rate * mean", "mean=self.rate * old.mean + (1 - self.rate) * mean", "the moving average swaps its weights"),
    Mutant(C, "mean_updates=old.mean_updates + 1", "mean_updates=old.mean_updates", "updates are not counted"),
    Mutant(C, "_returns(batch).sum() / batch.valid_B.sum()", "_returns(batch).mean()", "invalid rewards pull the moving average down"),
    Mutant(C, "(R_B.sum() - R_B) / (n - 1)", "(R_B.sum() - R_B) / n", "batch leave-one-out divides by B"),
    Mutant(C, "_returns(batch), batch.valid_B.sum().clamp(min=1)", "_returns(batch), len(batch.valid_B)", "invalid rows count in the batch's mean"),
    Mutant(C, "(n_P - int(self.bessel)).clamp(min=1)\n            A_B = A_B / (var_P", "n_P.clamp(min=1)\n            A_B = A_B / (var_P", "Bessel's correction is lost"),
    Mutant(C, "A_B / (var_P.sqrt()[group_B] + self.eps)", "A_B / (var_P + self.eps).sqrt()[group_B]", "eps moves under the root"),
    Mutant(C, "A_B = (R_B - mean_B) * signal_B", "A_B = R_B * signal_B", "GRPO without a mean"),
    Mutant(C, "spread_B = (R_B - R_B.sum() / n.clamp(min=1)) * valid_B", "spread_B = R_B - R_B.sum() / n.clamp(min=1)", "invalid rows enter the batch's std"),
    Mutant(C, "A_B / mean_B.clamp(min=EQUAL)", "A_B / mean_B.clamp(min=1.0)", "MaxRL does not divide"),
    Mutant(C, "_spread(torch.where(signal_B, A_B, 0.0), batch)", "_spread(A_B, batch)", "0/0 with eps = 0"),
    Mutant(C, "group_sum(L_B * R_B, batch.group_B)", "group_sum(R_B, batch.group_B)", "the length weight is lost"),
    Mutant(C, "batch.mask_BT.sum(1).double() * batch.valid_B", "batch.mask_BT.sum(1).double()", "invalid answers weigh in the length-weighted mean"),
    Mutant(C, "end_BT = end_BT & ok_BT", "end_BT = end_BT & batch.mask_BT", "steps of invalid answers are pooled"),
    Mutant(C, "return reward_to_go(normalized_BT, batch.mask_BT) * ok_BT", "return normalized_BT * ok_BT", "steps credit themselves only"),
    Mutant(C, "_to_go(batch) - batch.greedy_B", "_to_go(batch) + batch.greedy_B", "ReMax adds its baseline"),
    Mutant(C, "(batch.valid_B & known_B)", "batch.valid_B", "an unknown greedy reward counts as 0"),
    Mutant(C, "self.gamma ** (batch.mask_BT.cumsum(1) - 1)", "self.gamma ** batch.mask_BT.cumsum(1)", "state weight off by one"),
    Mutant(C, "[:, None] * (batch.mask_BT & batch.valid_B[:, None])\n\n\ndef _to_go", "[:, None] * batch.valid_B[:, None]\n\n\ndef _to_go", "advantages on padding"),
    # -- value
    Mutant("maths/value.py", "gamma * next_B - value_BT[:, t]", "gamma * value_BT[:, t] - value_BT[:, t]", "GAE bootstraps from V_t"),
    Mutant("maths/value.py", "next_B = torch.where(mask_BT[:, t], value_BT[:, t], next_B)", "next_B = value_BT[:, t]", "V of an observation is read"),
    Mutant("maths/value.py", "delta_B + gamma * lam * acc_B, acc_B)", "delta_B + lam * acc_B, acc_B)", "GAE forgets gamma"),
    Mutant("maths/value.py", "GAE(self.gamma, 1.0)", "GAE(self.gamma, 0.95)", "Monte Carlo is not"),
    Mutant("maths/value.py", "for k in range(self.n))", "for k in range(self.n + 1))", "one step too many"),
    Mutant("maths/value.py", "order_BT = batch.mask_BT.long().argsort", "order_BT = torch.zeros_like(batch.mask_BT).long().argsort", "n steps count observations"),
    Mutant("maths/value.py", "(1 - 1 / (self.alpha * L_B)).clamp(min=0.0)", "1 - 1 / (self.alpha * L_B)", "lambda below zero"),
    Mutant("maths/value.py", "torch.maximum(error_BT, (near_BT", "torch.minimum(error_BT, (near_BT", "value clip takes the smaller error"),
    Mutant("maths/value.py", "return 0.5 * (weight_BT", "return (weight_BT", "the half is lost"),
    Mutant("maths/value.py", "torch.where(batch.truncated_B, batch.bootstrap_B, 0.0)", "batch.bootstrap_B", "ended answers are bootstrapped"),
    Mutant("maths/value.py", "self._advantage(self.target or self.estimator", "self._advantage(self.estimator", "the critic's own target is ignored"),
    Mutant("maths/value.py", "torch.where(batch.mask_BT, self._advantage", "torch.where(batch.mask_BT | True, self._advantage", "targets on padding"),
    # -- normalization, denominators, aggregation
    Mutant("maths/normalize.py", "centered_BT = (a - mean) * mask_BT", "centered_BT = a - mean", "padding is whitened"),
    Mutant("maths/normalize.py", "/ (n - int(self.bessel))", "/ n", "Bessel's correction is lost"),
    Mutant("maths/normalize.py", "if var <= EQUAL**2:", "if var < 0:", "equal advantages are blown up"),
    Mutant("maths/normalize.py", "if self.shift else a * mask_BT)", "if self.shift else centered_BT)", "shift=False shifts"),
    Mutant(A, "/ max(total.tokens, 1)", "/ mask_BT.sum()", "tokens of the micro-batch"),
    Mutant(A, "return mask_BT.double() / max(total.sequences, 1)", "return mask_BT.double() / len(mask_BT)", "rows of the micro-batch"),
    Mutant(A, "mask_BT.sum(1, keepdim=True).clamp(min=1)", "mask_BT.shape[1]", "padded width instead of length"),
    Mutant(A, "(self.budget or total.max_tokens)", "mask_BT.shape[1]", "the budget is the padded width"),
    Mutant(A, "prompts = (N_P > 0).sum().clamp(min=1)", "prompts = len(N_P)", "prompts of other minibatches count"),
    Mutant("maths/objective.py", "sequences=len(length_B)", "sequences=int(batch.loss_mask_BT.any(1).sum())", "dropped rows make the others larger"),
    Mutant("maths/objective.py", "tokens=int(length_B.sum())", "tokens=int(batch.loss_mask_BT.sum())", "dropped tokens make the others larger"),
    Mutant("maths/objective.py", "masked_fill(~in_loss_BT, 0.0).sum()", "masked_fill(~mask_BT, 0.0).sum()", "filtered rows stay in the loss"),
    Mutant("maths/objective.py", "gain_BT - batch.state.kl_coef *", "gain_BT + batch.state.kl_coef *", "the leash pushes"),
    Mutant("maths/objective.py", "batch.state.kl_coef * parts.kl.penalty", "parts.kl.coef * parts.kl.penalty", "the adapted weight is ignored"),
    Mutant("maths/objective.py", "gain_BT + parts.entropy * scores", "gain_BT - parts.entropy * scores", "entropy is punished"),
    Mutant("maths/objective.py", "gain_BT - batch.state.trust_coef", "gain_BT + batch.state.trust_coef", "trust is punished"),
    Mutant("maths/objective.py", "/ max(total.positive_tokens, 1)", "/ max(total.tokens, 1)", "imitation divides by all tokens"),
    Mutant("maths/objective.py", "copied_BT = in_loss_BT & positive(batch)[:, None]", "copied_BT = in_loss_BT", "wrong answers are imitated"),
    Mutant("maths/objective.py", "scores.logp_BT.masked_fill(~mask_BT, 0.0)", "scores.logp_BT", "padding enters the surrogate"),
    # -- ratio, correction
    Mutant("maths/ratio.py", "0.0).clamp(-LIMIT, LIMIT)\n\n\ndef _mean", "0.0)\n\n\ndef _mean", "no cut before exp"),
    Mutant("maths/ratio.py", "/ mask_BT.sum(1, keepdim=True).clamp(min=1)\n\n\nclass Ratio", "/ mask_BT.shape[1]\n\n\nclass Ratio", "GSPO divides by the padded width"),
    Mutant("maths/ratio.py", "log_s_BT.detach() + d_BT - d_BT.detach()", "log_s_BT + d_BT - d_BT.detach()", "GSPO-token counts the gradient twice"),
    Mutant("maths/ratio.py", "logp_BT - old_logp_BT, 0.0)", "old_logp_BT - logp_BT, 0.0)", "the ratio is upside down"),
    Mutant("maths/ratio.py", "mask_BT).cumsum(1)", "mask_BT).flip(1).cumsum(1).flip(1)", "per-decision products run backwards"),
    Mutant("maths/correction.py", "batch.old_logp_BT, batch.behavior_logp_BT", "batch.behavior_logp_BT, batch.old_logp_BT", "the correction is upside down"),
    Mutant("maths/correction.py", "return _d(batch).exp().clamp(max=self.cap)", "return _d(batch).exp()", "no truncation"),
    Mutant("maths/correction.py", "(c_BT >= self.low) & (c_BT <= self.high)", "(c_BT <= self.high)", "no lower bound"),
    Mutant("maths/correction.py", "return c_BT * (c_BT <= self.cap)", "return c_BT.clamp(max=self.cap)", "a mask that truncates"),
    Mutant("maths/correction.py", "return d_BT.exp().clamp(max=self.cap) * (", "return d_BT.exp() * (", "the promised clamp is missing"),
    Mutant("maths/correction.py", "(adv_BT >= 0) | (drift", "(adv_BT <= 0) | (drift", "stale positives leave"),
    Mutant("maths/correction.py", "batch.mask_BT).detach()", "batch.mask_BT)", "the correction has a gradient"),
    # -- surrogates
    Mutant(S, "rho_BT.clamp(1 - self.low, 1 + self.high)", "rho_BT.clamp(1 - self.high, 1 + self.low)", "clip swaps low and high"),
    Mutant(S, "gain_BT = torch.minimum(free_BT", "gain_BT = torch.maximum(free_BT", "clip takes the larger"),
    Mutant(S, "torch.where(adv_BT < 0, torch.maximum(gain_BT", "torch.where(adv_BT > 0, torch.maximum(gain_BT", "dual clip on good tokens"),
    Mutant(S, "rho_BT.clamp(max=self.two_sided)", "rho_BT.clamp(min=self.two_sided)", "two-sided clip cuts from below"),
    Mutant(S, "(adv_BT < 0) & (rho_BT < 1 - self.low)", "(adv_BT > 0) & (rho_BT < 1 - self.low)", "clip fractions by the wrong sign"),
    Mutant(S, "log_ratio_BT.detach().exp().clamp(self.low, self.high)", "log_ratio_BT.exp().clamp(self.low, self.high)", "CISPO's weight has a gradient"),
    Mutant(S, "return 4 / tau_BT *", "return 2 / tau_BT *", "SAPO's slope is 1/2"),
    Mutant(S, "masked_fill(adv_BT > 0, self.positive)", "masked_fill(adv_BT < 0, self.positive)", "SAPO swaps its temperatures"),
    Mutant(S, "torch.minimum(log_ratio_BT, near_BT), torch.maximum", "torch.maximum(log_ratio_BT, near_BT), torch.minimum", "GMPO cuts the wrong side"),
    Mutant(S, ").masked_fill(~mask_BT, 0.0)\n        mean_B1", ")\n        mean_B1", "GMPO reads padding"),
    Mutant(S, "(2 * self.tau) / L_B1", "(2 * self.tau)", "Kimi weighs long answers more"),
    Mutant(S, "adv_BT - self.tau * drift_B1", "adv_BT + self.tau * drift_B1", "Kimi pushes away"),
    Mutant(S, "return log_ratio_BT.exp() * adv_BT", "return log_ratio_BT * adv_BT", "importance without exp"),
    # -- KL
    Mutant(K, "torch.expm1(-delta) + delta", "torch.expm1(delta) - delta", "k3 in the wrong direction"),
    Mutant(K, "return 0.5 * delta.square()", "return delta.square()", "k2 without its half"),
    Mutant(K, "logp_BT - ref_logp_BT, 0.0).clamp(-LIMIT, LIMIT)", "logp_BT - ref_logp_BT, 0.0)", "no cut before exp"),
    Mutant(K, "torch.where(mask_BT, logp_BT - ref_logp_BT, 0.0)", "(logp_BT - ref_logp_BT)", "padding enters the KL"),
    Mutant(K, "batch.reward_BT - batch.state.kl_coef", "batch.reward_BT + batch.state.kl_coef", "leaving the reference is paid for"),
    Mutant(K, "if self.where == \"reward\" or batch", "if batch", "the KL counts twice"),
    Mutant(K, "(k3(delta_BT) - k2(delta_BT)).detach() + k2(delta_BT)", "k3(delta_BT)", "straight-through is k3"),
    Mutant(K, "log_ratio_BT.exp() * k3", "log_ratio_BT.exp().detach() * k3", "no gradient through rho"),
    Mutant(K, "k2(delta_BT.sum(1, keepdim=True)) / live", "k2(delta_BT).sum(1, keepdim=True) / live", "sum of squares, not square of sum"),
    Mutant(K, "-0.2), 0.2)", "-0.2), 2.0)", "the controller is not clipped"),
    Mutant(K, "0.5 if kl < self.target / 1.5 else 2.0", "2.0 if kl < self.target / 1.5 else 0.5", "the trust weight adapts the wrong way"),
    # -- log-probabilities
    Mutant("maths/logprob.py", "g = (g / ctx.temperature)", "g = g", "the gradient forgets the temperature"),
    Mutant("maths/logprob.py", "target[rows]] += grad_logp[rows]", "target[rows]] -= grad_logp[rows]", "the score has the wrong sign"),
    Mutant("maths/logprob.py", "p * (log_p + entropy[rows, None])", "p * (log_p - entropy[rows, None])", "the entropy's gradient"),
    Mutant("maths/logprob.py", "grad_weight += g.T", "grad_weight = g.T", "only the last chunk reaches the head"),
    Mutant("maths/logprob.py", "grad_bias += g.sum(0)", "grad_bias = g.sum(0)", "only the last chunk reaches the bias"),
    Mutant("maths/logprob.py", "entropy[rows] = norm[rows] - (p * z).sum(-1)", "entropy[rows] = -(p * z).sum(-1)", "entropy without its normalizer"),
    Mutant("maths/logprob.py", "logits if temperature == 1.0 else logits / temperature", "logits if temperature == 1.0 else logits * temperature", "temperature upside down"),
    Mutant("maths/logprob.py", "log_p.exp() * (log_p - log_q), 0.0)", "log_p.exp() * (log_q - log_p), 0.0)", "KL with the wrong sign"),
    # -- natural gradient
    Mutant("maths/natural.py", "residual - alpha * Ad", "residual + alpha * Ad", "the residual grows"),
    Mutant("maths/natural.py", "residual + (rr / old_rr) * direction", "residual + (old_rr / rr) * direction", "directions are not conjugate"),
    Mutant("maths/natural.py", "(2 * max_kl / curvature).sqrt()", "(max_kl / curvature).sqrt()", "half the KL bound"),
    Mutant("maths/natural.py", "trial.kl <= max_kl and", "trial.kl <= 2 * max_kl and", "the bound is not the bound"),
    Mutant("maths/natural.py", "and trial.gain > 0", "and trial.gain >= 0", "a step that gains nothing"),
    Mutant("maths/natural.py", "return product(v) + damping * v", "return product(v)", "no damping"),
    # -- attention
    Mutant("rollout/attention.py", "see = key_at <= query_at", "see = key_at < query_at", "a token does not see itself"),
    Mutant("rollout/attention.py", "query_at - key_at < window", "query_at - key_at <= window", "the window is one wider"),
    Mutant("rollout/attention.py", "(self.used - slot < window)", "(self.used - slot <= window)", "the decoder's window is one wider"),
    Mutant("rollout/attention.py", "& (t_p < lp_B[:, None])[:, None]", "", "answers see the padding of prompts"),
    Mutant("rollout/attention.py", "see = slot >= self.blank_B[:, None]", "see = slot >= 0 * self.blank_B[:, None]", "blank slots are seen"),
    Mutant("rollout/attention.py", "base_B = lp[group_B] if", "base_B = 0 * lp[group_B] if", "answers start at position 0"),
    Mutant("rollout/attention.py", "starts[: len(lp)] + lp - 1)", "starts[: len(lp)] + lp - 2)", "the prompt's last token but one"),
    Mutant("rollout/attention.py", "return (self.used - self.blank_B)[None]", "return (self.used - 0 * self.blank_B)[None]", "positions count blank slots"),
    Mutant("rollout/attention.py", "source = (torch.arange(Lp, device=lp.device)[None] - shift)", "source = (torch.arange(Lp, device=lp.device)[None] + 0 * shift)", "prompts are not moved to the right"),
    Mutant("rollout/attention.py", "torch.arange(P, device=lp.device).repeat_interleave(repeats)", "torch.arange(P, device=lp.device).repeat(repeats)", "answers continue another prompt"),
    Mutant("rollout/attention.py", "at_BT = lp_B[:, None] + t_a", "at_BT = lp_B[:, None] + 0 * t_a", "the window of an answer does not move"),
    # -- sampler
    Mutant("rollout/sampler.py", "length_B[row_R[done_R]] = True, t + 1", "length_B[row_R[done_R]] = True, t", "the end token is cut off"),
    Mutant("rollout/sampler.py", "row_R, token_R = row_R[keep], token_R[keep]", "row_R, token_R = row_R[: len(keep)], token_R[keep]", "rows mix after compaction"),
    Mutant("rollout/sampler.py", "if ended else \"length\"", "if n < len(tokens) else \"length\"", "an end at the limit counts as cut"),
    Mutant("rollout/sampler.py", "truncate(logits_BV.float() / law.temperature, law)", "truncate(logits_BV.float(), law)", "the temperature is ignored"),
    Mutant("rollout/sampler.py", "aim, right=True)", "aim, right=False)", "impossible tokens at chance 0"),
    Mutant("rollout/sampler.py", "p.cumsum(-1) - p >= law.top_p", "p.cumsum(-1) >= law.top_p", "top-p one token short"),
    Mutant("rollout/sampler.py", "logits_BV.masked_fill(logits_BV < least", "logits_BV.masked_fill(logits_BV <= least", "top-k one token short"),
    Mutant("rollout/sampler.py", "draw(logits_RV, law, chance_TB[t, row_R])", "draw(logits_RV, law, chance_TB[t, : len(row_R)])", "chances move to other rows"),
    Mutant("rollout/sampler.py", "self.mask.sum(1, keepdim=True) - 1)", "self.mask.sum(1, keepdim=True))", "positions of the fallback off by one"),
    Mutant("rollout/sampler.py", "(self.mask.cumsum(1) - 1).clamp(min=0)", "self.mask.cumsum(1)", "positions of the fallback's prompts off by one"),
    # -- policy
    Mutant("train/policy.py", "packed.answer_start[row_n] + t_n - 1)", "packed.answer_start[row_n] + t_n)", "a token is scored by itself"),
    Mutant("train/policy.py", "logits[row_n, start_B[row_n] + t_n - 1]", "logits[row_n, start_B[row_n] + t_n]", "the fallback scores a token by itself"),
    Mutant("train/policy.py", "packed.prompt_last[tokens.group_B[row_n]]", "packed.prompt_last[0 * tokens.group_B[row_n]]", "the first token is read at another prompt"),
    Mutant("train/policy.py", "target, bias=bias, temperature=self.temperature)", "target, bias=bias)", "scored at temperature 1"),
    Mutant("train/policy.py", "full_kl(log_p, log_q) if forward else full_kl(log_q, log_p)", "full_kl(log_q, log_p) if forward else full_kl(log_p, log_q)", "the KLs change direction"),
    Mutant("train/policy.py", "if part and used + cost > budget:", "if part and used > budget:", "micro-batches exceed the budget"),
    # -- collect
    Mutant("rollout/collect.py", "valid_B = reward_B.isfinite() & mask_BT.any(1)", "valid_B = reward_B.isfinite()", "empty answers are valid"),
    Mutant("rollout/collect.py", "valid_B = reward_B.isfinite() & mask_BT.any(1)", "valid_B = mask_BT.any(1)", "unknown rewards count as 0"),
    Mutant("rollout/collect.py", "r.stop == \"length\" for r", "r.stop != \"stop\" for r", "aborted answers count as cut"),
    Mutant("rollout/collect.py", "~truncated_B if self.data", "truncated_B if self.data", "only cut answers stay"),
    Mutant("rollout/collect.py", "r.actions or (True,) * len(r.tokens)", "(True,) * len(r.tokens)", "observations are trained on"),
    Mutant("rollout/collect.py", "torch.tensor(greedy, device=device)[group_B]", "torch.tensor(greedy, device=device)[0 * group_B]", "one greedy reward for all"),
    Mutant("rollout/collect.py", "repeat_interleave(self.samples)", "repeat(self.samples)", "groups are mixed up"),
    Mutant("rollout/collect.py", "named.get(\"overlong\", 0.0) if finite else math.nan", "named.get(\"overlong\", 0.0)", "an unknown reward becomes 0"),
    Mutant("rollout/collect.py", "[x for x in named.values() if math.isfinite(x)]", "list(named.values())", "one unknown part hides the others"),
    Mutant("rollout/collect.py", "max(rewards) - min(rewards) > EQUAL", "max(rewards) - min(rewards) >= 0", "dull prompts are kept"),
    Mutant("rollout/collect.py", "rounds > self.data.resample", "rounds > 0 * self.data.resample", "nothing is resampled"),
    Mutant("rollout/collect.py", "_mix(self.seed, step, rounds)", "_mix(self.seed, step, 0)", "every round draws the same answers"),
    # -- critic
    Mutant("train/critic.py", "nn.init.zeros_(head.weight)", "nn.init.ones_(head.weight)", "the critic starts with an opinion"),
    Mutant("train/critic.py", "(batch.mask_BT & batch.valid_B[:, None]) / max(total.tokens, 1)", "(batch.mask_BT & batch.valid_B[:, None]) / batch.mask_BT.sum()", "the denominator is not the step's"),
    Mutant("train/critic.py", "batch.valid_B.nonzero()[:, 0], self.micro_tokens", "torch.arange(1), self.micro_tokens", "most rows are forgotten"),
    Mutant("train/critic.py", "self.config.coef if self.config.shared else 1.0", "1.0", "coef is ignored on a shared trunk"),
    Mutant("train/critic.py", "range(1 if self.config.shared else self.config.steps)", "range(1)", "one step whatever was asked"),
    Mutant("train/critic.py", "x[rows, :T] for x in (batch.value_BT", "x[: len(rows), :T] for x in (batch.value_BT", "targets of other rows"),
    Mutant("train/critic.py", "([] if config.shared else list(trunk.parameters()))", "list(trunk.parameters())", "the critic's optimizer moves the policy"),
    Mutant("train/critic.py", "replace(policy, hf=copy.deepcopy(policy.hf))", "policy", "the critic trains the policy's backbone"),
    Mutant("train/critic.py", "return float(1 - (G - V).var() / G.var())", "return float((G - V).var() / G.var())", "unexplained variance"),
    Mutant("train/critic.py", "config.learning_rate * learning_rate", "learning_rate", "the critic's own rate is ignored"),
]  # fmt: skip


def run_tests(source: Path, tests: list[str], log: Path) -> None:
    """In a forked child: the tests against `source`; its exit code is pytest's."""
    os.setsid()
    signal.alarm(TIMEOUT)
    sys.path.insert(0, str(source))
    os.chdir(ROOT)
    import pytest

    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = pytest.main(["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        import rung

        assert Path(rung.__path__[0]).is_relative_to(source), "the tests did not import the copy"
    os._exit(int(code))


def try_one(mutant: Mutant | None, tests: list[str]) -> tuple[str, str]:
    """(verdict, detail) of one mutant; None stands for the unchanged source."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            file = source / "rung" / mutant.file
            text = file.read_text()
            if text.count(mutant.old) != 1:
                return "NOT APPLIED", f"its text occurs {text.count(mutant.old)} times"
            file.write_text(text.replace(mutant.old, mutant.new))
        log = Path(folder) / "log"
        child = multiprocessing.get_context("fork").Process(target=run_tests, args=(source, tests, log))
        child.start()
        child.join()
        lines = log.read_text().splitlines() if log.exists() else []
        failed = next((x for x in lines if x.startswith(("FAILED", "ERROR"))), lines[-1] if lines else "")
        if child.exitcode == 0:
            return "SURVIVED", ""
        return "killed", failed.partition("::")[2].partition(" - ")[0] or ("timeout" if child.exitcode == -signal.SIGALRM else failed)


def _job(number: int) -> tuple[int, str, str]:
    return (number, *try_one(MUTANTS[number], tests_of(MUTANTS[number].file)))


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--jobs", type=int, default=2, help="mutants at once")
    args.add_argument("--only", default="", help="mutants whose file, text or reason contains this")
    args.add_argument("--list", action="store_true", help="name the mutants and stop")
    asked = args.parse_args()
    chosen = [i for i, m in enumerate(MUTANTS) if asked.only in " ".join(m)]
    if asked.list:
        print("\n".join(f"{MUTANTS[i].file:22s} {MUTANTS[i].why}" for i in chosen))
        return 0
    started = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        import pytest  # noqa: F401
        import torch
        import transformers  # noqa: F401

        torch.set_num_threads(1)
    suites = sorted({tuple(tests_of(MUTANTS[i].file)) for i in chosen})
    for suite in suites:
        verdict, detail = try_one(None, list(suite))
        if verdict != "SURVIVED":
            print(f"the tests fail without any mutant: {' '.join(suite)}   {detail}")
            return 1
    counts: dict[str, int] = {}
    with ThreadPool(asked.jobs) as pool:
        for number, verdict, detail in pool.imap_unordered(_job, chosen):
            counts[verdict] = counts.get(verdict, 0) + 1
            mutant = MUTANTS[number]
            print(f"{verdict:11s} {mutant.file:22s} {mutant.why}   {detail and f'[{detail}]'}", flush=True)
    summary = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items(), key=lambda x: -x[1]))
    print(f"{len(chosen)} mutants: {summary or 'none'} ({time.time() - started:.0f} s)")
    return int(set(counts) != {"killed"})


if __name__ == "__main__":
    sys.exit(main())
