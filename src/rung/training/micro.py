"""How much goes through the model at once: half as much where memory runs out, which changes no result."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from rung.errors import RunFailed, first_line, memory_ran_out, setting
from rung.kernels.device import choose, gpu_gib
from rung.records import Tokens
from rung.training.config import TrainConfig

T = TypeVar("T")
USUAL_GIB = 1.25  # of what a micro-batch's backward keeps
ONE = 1  # token at a time: a row is never cut, so one row at a time


def kept_gib(config: TrainConfig) -> float:
    """`activation_gib`, or what is usual where it is not said: more on a GPU, which stands idle while it is told of small ones."""
    return config.activation_gib or max(USUAL_GIB, round(gpu_gib(choose(config.device)) / 5, 2))


@dataclass
class Micro:
    """tokens: a micro-batch feeds at most so many, prompts included.  again: whether less is tried where memory runs out.
    halved: how often that was so far.
    """

    tokens: int
    again: bool = True
    halved: int = 0

    def tried(self, attempt: Callable[[], T], whole: Tokens, undo: Callable[[], None] = lambda: None) -> T:
        """attempt(), and while memory runs out again with half the tokens at a time, down to one row of `whole`.

        undo: called before each further attempt, for what the one that failed has left behind. Memory that runs out in it ends it.

        Raises:
            RunFailed: one row at a time is too much.
        """
        while True:
            try:
                return attempt()
            except (MemoryError, RuntimeError) as error:
                if not (self.again and memory_ran_out(error)):
                    raise
                self._halve(whole, error)
                traceback.clear_frames(error.__traceback__)  # they hold what the attempt had made
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            undo()

    def _halve(self, whole: Tokens, error: BaseException) -> None:
        prompt_P = torch.tensor([len(prompt) for prompt in whole.prompts])
        row = int((prompt_P[whole.group_B] + whole.length_B).max())
        if self.tokens == ONE:
            raise RunFailed(
                f"memory ran out on one answer at a time, of {row} tokens with its prompt ({first_line(error)}). Use less for it: "
                f"{setting('gradient_checkpointing', True)}, a lower {setting('max_new_tokens')}, an adapter "
                f"({setting('lora_rank', 8)}), or a smaller model."
            ) from error
        half = min(self.tokens, int(prompt_P.sum() + whole.length_B.sum())) // 2
        self.tokens = half if half > row else ONE
        self.halved += 1
