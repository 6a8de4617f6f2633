"""What a sampler keeps of a step's rows from one turn of their conversations to the next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from rung.kernels.continued import Past


@dataclass
class Kept:
    """Rows by their numbers in the step: the tokens that were read and said, and what the model remembers of them.

    most: rows that are kept at all; any other is read anew.
    """

    most: int
    rows: dict[int, tuple[tuple[int, ...], Past]] = field(default_factory=dict)

    def only(self, numbers: Collection[int]) -> None:
        """Forget the other rows: their conversations are over."""
        going = set(numbers)
        self.rows = {number: row for number, row in self.rows.items() if number in going}

    def take(self, number: int, prompt: Sequence[int]) -> Past:
        """What is remembered of the longest beginning that the prompt shares with what this row was; its last token is always
        read, for what it predicts."""
        tokens, past = self.rows.pop(number, ((), Past()))
        return replace(past, length=min(past.length, shared(tokens, prompt[:-1])))

    def put(self, number: int, tokens: tuple[int, ...], past: Past) -> None:
        if past.length and len(self.rows) < self.most:
            self.rows[number] = tokens[: past.length], past


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
