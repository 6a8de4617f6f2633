"""Each kind of model against its own plain forward and backward; the page's table is this test's."""

import re
from pathlib import Path

import pytest

from rung.lab.models import KINDS, check, table

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_model_agrees_with_its_own_forward(kind):
    row = check(kind)
    assert max(row.sampler_gap, row.trainer_gap, row.lora_gap) < 1e-4
    assert max(row.gradient_error, row.checkpointed_error, row.lora_gradient_error) < 1e-4
    assert row.reference_gap == 0.0, "an adapter that is off is not there"
    assert row.bos == (1, 1) and row.ends == 2
    assert row.packs == (kind != "gemma2"), "gemma2 caps its attention logits, so it keeps its own forward"
    columns = [x.strip() for x in table([row]).splitlines()[2].split("|")]
    written = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{kind}`"))
    assert [x.strip() for x in written.split("|")][1:5] == columns[1:5], (
        "run benchmarks/models.py --write docs/models.md"
    )


def test_the_page_lists_these_kinds_and_no_other():
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(KINDS)
