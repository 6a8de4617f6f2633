"""`Still`, the memory whose addresses stay, gives what `Decode` gives."""

from types import SimpleNamespace

import pytest
import torch

from rung.kernels import decode
from rung.kernels.decode import Decode, Still


@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize("stays", [[0, 2, 3, 5], [4], [0, 1, 2, 3, 4, 5]])
def test_rows_that_stay_still_see_what_rows_that_grow_see(window, stays, monkeypatch):
    """Two query heads to a key head, prompts of 5, 2 and 4 tokens, slots that double from 2 to the room of 9."""
    monkeypatch.setattr(decode, "LEAST", 2)
    generator = torch.Generator().manual_seed(0)
    new = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    keys, values, length = new(3, 2, 5, 8), new(3, 2, 5, 8), torch.tensor([5, 2, 4])
    grows, still = (
        kind(SimpleNamespace(keys=[keys], values=[values], length_P=length), 2, 9)  # type: ignore[arg-type]
        for kind in (Decode, Still)
    )
    rows, widths = 6, []
    for t in range(9):
        if t == 3:
            for memory in (grows, still):
                memory.keep(torch.tensor(stays))
            rows = len(stays)
        fed = 3 * new(4, rows, 8), new(2, rows, 8), new(2, rows, 8)
        assert grows.begin().tolist() == still.begin().tolist()
        one, two = (memory.attend(0, *fed, 0.25, window) for memory in (grows, still))
        torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
        widths.append(still.alike[1])
        assert still.alike[0] == (t >= 3), "after a cut nothing lies where it lay"
        for memory in (grows, still):
            memory.advance()
    assert widths == [2, 2, 4, 4, 8, 8, 8, 8, 9]


def test_a_token_that_is_told_twice_is_one_token():
    """A graph is told of a step once for what is made at a first time, and once more to be kept."""
    new = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(1))  # noqa: E731
    memory = Still(SimpleNamespace(keys=[new(1, 1, 3, 4)], values=[new(1, 1, 3, 4)], length_P=torch.tensor([3])), 2, 4)  # type: ignore[arg-type]
    fed = new(2, 2, 4), new(1, 2, 4), new(1, 2, 4)
    both = []
    for _ in range(2):
        memory.begin()
        both.append(memory.attend(0, *fed, 0.5, None))
    assert torch.equal(*both)
