"""docs/devices.md says how often the host waits for the device: it may not wait more often, and less is to be written down."""

from pathlib import Path

import pytest
import torch
from waits import HEAD, KINDS, LAW, Row, counted

from rung.rollout.torch_sampler import LOOK_EVERY

torch.set_num_threads(1)
PAGE = Path(__file__).parents[2] / "docs" / "devices.md"
REMEDY = "python tests/device/waits.py --lines says where; the table it prints belongs into docs/devices.md"


def written():
    """{(recipe, phase): its row of the page}."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index("| " + " | ".join(HEAD) + " |") + 2
    found = {}
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        recipe, phase, *numbers = (cell.strip(" `") for cell in line.strip("|").split("|"))
        found[recipe, phase] = Row(recipe, phase, *map(int, numbers))
    return found


@pytest.fixture(scope="module")
def rows():
    return {name: counted(name)[0] for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_the_host_waits_as_often_as_the_page_says_and_no_more(rows, name):
    for row in rows[name]:
        allowed = written()[name, row.phase]
        more = row.waits > allowed.waits or row.copies > allowed.copies
        assert not more, f"the host waits more often than it did: {row}, but {allowed}. {REMEDY}"
        assert row == allowed, f"better than the page says: lower it. {row}, but {allowed}. {REMEDY}"
    assert {phase for recipe, phase in written() if recipe == name} == {row.phase for row in rows[name]}


def test_sampling_waits_once_in_so_many_tokens_and_once_for_the_answers(rows):
    for name in KINDS:
        assert rows[name][0].waits <= LAW.max_new_tokens / LOOK_EVERY


def test_no_more_than_one_wait_a_micro_batch_and_one_an_optimizer_step(rows):
    for name, steps in (("dr_grpo", 1), ("ppo", 8)):
        _, logprob, update, between = rows[name]
        assert logprob.waits <= logprob.runs and update.waits <= steps + 2 and between.waits <= 3


def test_answers_cost_no_wait(rows):
    """Twice the answers in micro-batches twice as large: not one wait or copy more in what learns from them."""
    more, _ = counted("dr_grpo", samples=8, micro=140)
    for few, many in zip(rows["dr_grpo"][1:], more[1:], strict=True):
        assert many.waits <= few.waits and many.copies <= few.copies + 2 * max(many.runs - few.runs, 0)
    assert more[0].waits == rows["dr_grpo"][0].waits
