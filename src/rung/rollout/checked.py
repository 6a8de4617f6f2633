"""A sampler whose answers are looked at before anything learns from them: what was not asked for is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from rung.errors import RunFailed
from rung.records import Rollout, SamplingLaw, StopReason
from rung.rollout.draws import Draws
from rung.rollout.sampler import Sampler, keeping

if TYPE_CHECKING:
    from torch import Tensor

ABOVE = 0.5  # nats that another engine's log-probability may be above 0: bfloat16 rounds large logits by a tenth
STOPS = get_args(StopReason)


@dataclass
class Checked:
    """`sampler`, and how many tokens the model knows."""

    sampler: Sampler
    vocabulary: int

    @property
    def same_numbers(self) -> bool:
        return self.sampler.same_numbers

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.sampler.load(weights, version)

    @contextmanager
    def keeping(self) -> Iterator[Checked]:
        """Between the turns of conversations, if `sampler` can."""
        with keeping(self.sampler) as sampler:
            yield replace(self, sampler=sampler)

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        """Raises: RunFailed: what the sampler returned is not what it was asked for, with the first thing that is wrong."""
        found, samples = self.sampler.sample(prompts, law, draws), draws.each(len(prompts))
        wanted = len(prompts) * samples
        if not isinstance(found, list) or len(found) != wanted:
            told = f"{len(found)} answers" if isinstance(found, list) else type(found).__name__
            raise self._refused(f"{told} where {wanted} were asked for")
        for i, rollout in enumerate(found):
            if (wrong := self._wrong(rollout, prompts[i // samples], law)) is not None:
                raise self._refused(f"{wrong} in answer {i + 1} of {wanted}")
        return found

    def _wrong(self, r: Rollout, prompt: Sequence[int], law: SamplingLaw) -> str | None:
        n = len(r.tokens)
        if tuple(prompt) != r.prompt:
            return "another prompt than the one that was given"
        if n > law.max_new_tokens:
            return f"{n} tokens where {law.max_new_tokens} are allowed"
        if r.stop not in STOPS:
            return f"the stop {r.stop!r}, which is none of {', '.join(STOPS)}"
        if {*map(type, r.tokens)} - {int} or (n and not 0 <= min(r.tokens) <= max(r.tokens) < self.vocabulary):
            return f"a token that is none of the model's {self.vocabulary}"
        if len(r.logp) != n:
            return f"{len(r.logp)} log-probabilities for {n} tokens"
        if not math.isfinite(sum(r.logp)) or max(r.logp, default=0.0) > ABOVE:
            return "a log-probability that is no number or above 0"
        if r.entropy is not None and (len(r.entropy) != n or not math.isfinite(sum(r.entropy))):
            return f"{len(r.entropy)} entropies for {n} tokens, or one that is no number"
        return None

    def _refused(self, what: str) -> RunFailed:
        return RunFailed(
            f"the sampler {type(self.sampler).__name__} returned {what}, so nothing can be learned from it. It must keep to the "
            "protocol (rung.rollout.sampler.Sampler); if it worked before, look at its own log, and go on."
        )
