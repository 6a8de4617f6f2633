"""Each kind of model against its own plain forward and backward; the page's table is this test's."""

import re
from pathlib import Path

import pytest
import torch

from rung.evaluation.conformance import conformance, table
from rung.evaluation.model_kinds import CHEAP, KINDS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
torch.set_num_threads(1)


@pytest.mark.parametrize("kind", [k if k in CHEAP else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_a_kind_of_model_agrees_with_its_own_forward(kind):
    row = conformance(kind)
    assert len(row.lengths) > 1, "rows end at different times, so that some are taken out"
    assert max(row.sampler_gap, row.trainer_gap, row.lora_gap or 0) < 1e-4
    assert max(row.gradient_error, row.checkpointed_error or 0, row.lora_gradient_error or 0) < 1e-4
    assert (row.reference_gap or 0) <= (0 if row.packs else 1e-5), "an adapter that is off is not there"
    assert row.bos == (1, 1) and row.ends == 2
    columns = [x.strip() for x in table([row]).splitlines()[2].split("|")]
    written = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{kind}` |"))
    assert [x.strip() for x in written.split("|")][1:7] == columns[1:7], (
        "run benchmarks/models.py --write docs/models.md"
    )


def test_the_page_lists_these_kinds_and_no_other():
    assert re.findall(r"^\| `([\w -]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(KINDS)
    assert len(KINDS) >= 40 and set(CHEAP) <= KINDS.keys()
