"""The reward functions of `trl.rewards`, by what they are documented to do; right answers are found by rung's verifier `math`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.errors import InputError
from rung.tasks.verify.formula import Math

Completions = Sequence[Any]


def _texts(completions: Completions) -> list[str]:
    return [c if isinstance(c, str) else c[-1]["content"] for c in completions]


def accuracy_reward(completions: Completions, solution: Sequence[str], **columns: Any) -> list[float | None]:
    r"""1 where the answer equals the solution as mathematics, else 0; None where the verifier could not tell.

    An answer is what stands in \boxed{}, else what the verifier finds (docs/tasks.md).
    """
    return [_right(text, gold) for text, gold in zip(_texts(completions), solution, strict=True)]


def _right(text: str, gold: str) -> float | None:
    verifier = Math()
    wanted = verifier.extract(gold) or gold
    (verdict,) = verifier.correct([verifier.extract(text)], wanted)
    return None if math.isnan(verdict) else verdict


def reasoning_accuracy_reward(
    completions: Completions, solution: Sequence[str], reasoning_delimiters: Sequence[str] | None = None, **columns: Any
) -> list[float | None]:
    """accuracy_reward of what comes behind the last delimiter (</think>); 0 where there is none."""
    ends = list(reasoning_delimiters or ["</think>"])
    out: list[float | None] = []
    for text, gold in zip(_texts(completions), solution, strict=True):
        end = next((e for e in ends if e in text), None)
        out.append(0.0 if end is None else _right(text.rpartition(end)[2], gold))
    return out


def think_format_reward(completions: Completions, **columns: Any) -> list[float]:
    """1 where the answer begins with <think> and closes it, without a second <think>, else 0."""
    return [float(bool(re.match(r"<think>(?!.*<think>).*?</think>", text, re.DOTALL))) for text in _texts(completions)]


@dataclass(frozen=True)
class _CosineScaled:
    """r = low + (high - low) (1 + cos(pi min(L / L_max, 1))) / 2   (arXiv:2502.03373, appendix C.1)."""

    max_len: int
    wrong: tuple[float, float]  # of the shortest and of the longest answer
    right: tuple[float, float]
    __name__ = "cosine_scaled_reward"

    def __call__(
        self, completions: Completions, solution: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        verdicts = accuracy_reward(completions, solution)
        return [
            None if v is None else self._of(bool(v), len(ids)) for v, ids in zip(verdicts, completion_ids, strict=True)
        ]

    def _of(self, right: bool, length: int) -> float:
        short, long = self.right if right else self.wrong
        return long + (short - long) * (1 + math.cos(math.pi * min(length / self.max_len, 1.0))) / 2


def get_cosine_scaled_reward(
    max_len: int, min_value_wrong: float = -1.0, max_value_wrong: float = -0.5, min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
) -> _CosineScaled:  # fmt: skip
    """Right answers earn more the shorter they are, wrong ones lose less the longer they are."""
    return _CosineScaled(max_len, (min_value_wrong, max_value_wrong), (max_value_correct, min_value_correct))


@dataclass(frozen=True)
class _RepetitionPenalty:
    """r = (1 - different n-grams / n-grams) * max_penalty, over tokens   (arXiv:2502.03373, appendix C.2)."""

    ngram_size: int
    max_penalty: float
    __name__ = "repetition_penalty_reward"

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        return [self._of(list(ids)) for ids in completion_ids]

    def _of(self, ids: list[int]) -> float:
        grams = [tuple(ids[i : i + self.ngram_size]) for i in range(len(ids) - self.ngram_size + 1)]
        return (1 - len({*grams}) / len(grams)) * self.max_penalty if len({*grams}) < len(grams) else 0.0


def get_repetition_penalty_reward(ngram_size: int = 3, max_penalty: float = -1.0) -> _RepetitionPenalty:
    """0 for an answer without a repeated n-gram, down to max_penalty."""
    if max_penalty > 0:
        raise InputError(f"max_penalty={max_penalty}: a penalty is at most 0.")
    return _RepetitionPenalty(ngram_size, max_penalty)


@dataclass(frozen=True)
class _SoftOverlong:
    """r = clip((L_max - L_cache - L) / L_cache, -1, 0)   (DAPO, arXiv:2503.14476 eq. 13)."""

    max_completion_len: int
    soft_punish_cache: int
    __name__ = "soft_overlong_punishment_reward"

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        return [self._of(len(ids)) for ids in completion_ids]

    def _of(self, length: int) -> float:
        over = self.max_completion_len - self.soft_punish_cache - length
        return 0.0 if over >= 0 else max(over / self.soft_punish_cache, -1.0) if self.soft_punish_cache else -1.0


def get_soft_overlong_punishment(max_completion_len: int, soft_punish_cache: int) -> _SoftOverlong:
    """0 up to max_completion_len - soft_punish_cache tokens, then a slope to -1."""
    return _SoftOverlong(max_completion_len, soft_punish_cache)
