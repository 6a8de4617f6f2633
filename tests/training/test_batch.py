"""One batch that holds its tokens: some of its rows are narrow in every field alike, and parts go back where they came from."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from rung.records import Batch, Tokens
from rung.training.policy import in_parts, put_back

LENGTHS = torch.tensor([4, 1, 6, 2, 1])
MASK_BT = torch.arange(6) < LENGTHS[:, None]


def full() -> Batch:
    """A batch with every field that there is."""
    g = torch.Generator().manual_seed(0)
    group_B = torch.tensor([2, 0, 1, 2, 0])
    held: dict = {"mask_BT": MASK_BT, "group_B": group_B}
    for f in fields(Batch):
        if f.name.endswith("_BT") and f.name not in held:
            held[f.name] = torch.randn(5, 6, generator=g)
        elif f.name.endswith("_B") and f.name not in held:
            held[f.name] = torch.randn(5, generator=g) > 0
    prompts = [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([4, 5, 6])]
    return Batch(**held, tokens=Tokens(prompts, torch.randint(9, (5, 6), generator=g), MASK_BT, LENGTHS, group_B))


ROWS = {
    "one": torch.tensor([3]),
    "some": torch.tensor([4, 0, 1]),
    "slice": slice(0, 2),
    "mask": LENGTHS == 1,
    "none": torch.arange(0),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_some_rows_are_as_wide_as_the_longest_of_them_in_every_field(rows):
    whole = full()
    some, T = whole.rows(rows), max(LENGTHS[rows].tolist(), default=0)
    for f in fields(Batch):
        was, now = getattr(whole, f.name), getattr(some, f.name)
        if isinstance(was, Tensor):
            assert torch.equal(now, was[rows][:, :T] if f.name.endswith("_BT") else was[rows]), f.name
    t = some.spoken
    assert torch.equal(t.mask_BT, some.mask_BT) and torch.equal(t.length_B, LENGTHS[rows])
    assert torch.equal(t.tokens_BT, whole.spoken.tokens_BT[rows][:, :T])
    read = [t.prompts[g] for g in t.group_B]
    assert all(x is whole.spoken.prompts[g] for x, g in zip(read, whole.group_B[rows], strict=True))
    assert len(t.prompts) == len(set(whole.group_B[rows].tolist())), "each prompt once, and no other's"


def test_without_tokens_nothing_is_narrowed():
    """An enumerated batch: its rows are laid side by side at one width, and no model reads it."""
    batch = Batch(*(torch.zeros(3, 4),) * 2, *(torch.arange(3),) * 4, *(torch.zeros(3, 4),) * 2)
    assert batch.rows(torch.tensor([0])).mask_BT.shape == (1, 4)
    with pytest.raises(AssertionError, match="no model has drawn"):
        _ = batch.spoken


@pytest.mark.parametrize("budget", [1, 9, 1000])
def test_parts_come_back_to_their_own_rows(budget):
    """What is worked out some rows at a time is what it is for all at once, also for a choice of rows."""
    batch = full()
    numbers_BT = torch.where(MASK_BT, batch.spoken.tokens_BT.float(), 0.0)
    cut = in_parts(batch.spoken, budget, lambda part: torch.where(part.mask_BT, part.tokens_BT.float(), 0.0))
    assert torch.equal(cut, numbers_BT)
    rows = [torch.tensor([4, 1]), torch.tensor([2])]
    back = put_back(torch.full((5, 6), -1.0), rows, [numbers_BT[r, : int(LENGTHS[r].max())] for r in rows])
    assert torch.equal(back[2], numbers_BT[2]) and torch.equal(back[[4, 1], :1], numbers_BT[[4, 1], :1])
    assert (back[[0, 3]] == -1).all() and (back[[4, 1], 1:] == -1).all(), "nothing else is touched"
