"""In which order a run meets its problems: a stream whose position is part of the run's state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rung.rollout.draws import mix


@dataclass
class Walk:
    """Each of `n` problems once an epoch, in an order that depends on (seed, epoch) alone; none twice in a step.

    A step takes what it needs, dynamic sampling and prompts without room included, and the next one goes on from there.
    What is left of an epoch and fewer than `prompts`, a step's own, is passed over.

    epoch, inside: how far the walk has come.  later: problems of this epoch that were passed over because the step held
    them already, from the epoch before.  step: the one that comes next.
    """

    n: int
    prompts: int
    seed: int
    epoch: int = 0
    inside: int = 0
    later: list[int] = field(default_factory=list)
    step: int = 0
    _shuffled: tuple[int, list[int]] = field(default=(-1, []), repr=False)  # an epoch's order, drawn once

    def problems(self, step: int) -> Iterator[int]:
        """This step's problems, as many as are asked for. A step out of turn: as if no step had taken more than its own."""
        if step != self.step:
            self.epoch, self.inside = divmod(step * self.prompts, self.n - self.n % self.prompts)
            self.later = []
        self.step = step + 1
        if self.n - self.inside + len(self.later) < self.prompts:
            self.epoch, self.inside, self.later = self.epoch + 1, 0, []
        held: set[int] = set()
        while len(held) < self.n:
            i = self._next(held)
            held.add(i)
            yield i

    def _next(self, held: set[int]) -> int:
        for k, i in enumerate(self.later):
            if i not in held:
                return self.later.pop(k)
        while True:
            if self.inside == self.n:
                self.epoch, self.inside = self.epoch + 1, 0
            i = self._order()[self.inside]
            self.inside += 1
            if i not in held:
                return i
            self.later.append(i)

    def _order(self) -> list[int]:
        if self._shuffled[0] != self.epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, 7))
            self._shuffled = (self.epoch, torch.randperm(self.n, generator=generator).tolist())
        return self._shuffled[1]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "inside": self.inside, "later": list(self.later), "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.inside, self.step = int(state["epoch"]), int(state["inside"]), int(state["step"])
        self.later = [int(i) for i in state["later"]]
