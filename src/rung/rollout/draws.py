"""Which chance each row of a step gets: its own, by (seed, row), whoever draws it and beside whatever else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """chance[t, i] = U[start + t, rows[i]]; U is the matrix of uniform numbers of `seed` with a column for each row of the step.

    So a step's rows may be split over calls and samplers in any way and order, and every row says what it says.

    rows: the rows that are drawn, by their numbers in the whole step.  of: how many the whole step has.
    start: tokens that the rows have said already, where they go on.
    """

    seed: int
    rows: Sequence[int]
    of: int
    start: int = 0

    @classmethod
    def whole(cls, seed: int, rows: int) -> Draws:
        """Of all rows of a step."""
        return cls(seed, range(rows), rows)

    def part(self, places: Sequence[int]) -> Draws:
        """Of some of these rows, by their places among them."""
        return replace(self, rows=[self.rows[i] for i in places])

    def turn(self, number: int) -> Draws:
        """Of the same rows in a later turn of their conversations; the first is number 0."""
        return self if number == 0 else replace(self, seed=mix(self.seed, number))

    def behind(self, tokens: int) -> Draws:
        """Of the same rows, behind so many tokens."""
        return replace(self, start=self.start + tokens)

    def each(self, prompts: int) -> int:
        """Answers to each of so many prompts: rows come prompt by prompt."""
        assert prompts == 0 or len(self.rows) % prompts == 0, "every prompt has as many rows as the others"
        return len(self.rows) // max(prompts, 1)

    def chance(self, tokens: int) -> Tensor:
        """float[tokens, rows] in [0, 1). A longer limit of tokens adds rows below and changes none above."""
        whole_TB = torch.rand(self.start + tokens, self.of, generator=torch.Generator().manual_seed(self.seed))
        return whole_TB[self.start :, list(self.rows)]


def mix(*numbers: int) -> int:
    """One seed out of several numbers; neighbors give unrelated seeds."""
    x = 0x9E3779B97F4A7C15
    for n in numbers:
        x = (x ^ (n + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        x ^= x >> 31
    return x >> 1
