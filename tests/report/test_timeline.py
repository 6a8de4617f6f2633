"""The picture of drawing and learning side by side: what it takes from a run, its number by hand, its bars in their places."""

import json
import re

import pytest

from rung.report.collect import collect
from rung.report.page import render
from rung.report.timeline import TIMES, Worked, overlap, timeline, worked


def train(*rows):
    """The columns of a run with these times."""
    return {"step": [row[0] for row in rows], **{name: [row[i + 1] for row in rows] for i, name in enumerate(TIMES)}}


def test_a_run_that_went_on_counts_from_its_own_beginning():
    rows = (
        (1, 0.0, 2.0, 2.0, 3.0),
        (2, 2.0, 4.0, 4.0, 5.0),
        (3, 0.0, 1.0, 1.0, 2.0),
        (4, None, 2.0, 2.0, 3.0),
        (5, 2.0, 3.0, 3.0, 4.0),
    )
    assert [one.step for one in worked(train(*rows))] == [3, 5], "the steps before are another process's"
    assert worked({"step": [1], "reward": [0.0]}) == [], "in turns: no times are logged"


def test_the_share_of_learning_beside_which_answers_are_drawn():
    # learned from 2 to 4 and from 5 to 7; drawn from 0 to 2, 2 to 3 and 3 to 6, in pieces that touch or lie over each other
    steps = [Worked(1, 0.0, 2.0, 2.0, 4.0), Worked(2, 2.0, 3.0, 5.0, 7.0), Worked(3, 2.5, 6.0, 7.0, 8.0)]
    assert overlap(steps) == pytest.approx((2 + 1) / (2 + 2 + 1))
    in_turns = [Worked(1, 0.0, 2.0, 2.0, 3.0), Worked(2, 3.0, 5.0, 5.0, 6.0)]
    assert overlap(in_turns) == 0


def test_bars_stand_where_the_times_are():
    rows = [(k, 2.0 * k, 2.0 * k + 2, 2.0 * k + 2, 2.0 * k + 3) for k in range(12)]
    figure = str(timeline({"train": train(*rows)}))
    bars = [(float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)"[^>]* width="([\d.]+)"', figure)]
    assert len(bars) == 2 * 8 and "step 4<" in figure and "step 3<" not in figure, "the last eight steps"
    scale = bars[0][1] / 2
    assert bars[1] == (pytest.approx(bars[0][0] + 2 * scale, abs=0.2), pytest.approx(scale, abs=0.2)), (
        "learned for half as long"
    )
    assert bars[2][0] == pytest.approx(bars[1][0], abs=0.2), "the next step is drawn at the same time"
    assert "for 92% of the time" in figure, "but for the last"


def test_it_stands_on_the_report_of_a_run_with_stale_answers_and_on_no_other(tmp_path, make):
    alone, beside = make(tmp_path / "alone", "grpo", steps=4), make(tmp_path / "beside", "grpo", steps=4)
    file = beside / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    times = {k: dict(zip(TIMES, (2.0 * k, 2.0 * k + 2, 2.0 * k + 2, 2.0 * k + 4), strict=True)) for k in range(1, 5)}
    own = [row | (times[row["step"]] if "reward" in row else {}) for row in lines]
    file.write_text("".join(json.dumps(row) + "\n" for row in own))
    pages = [render(collect([path])) for path in (alone, beside)]
    assert ["When steps are drawn and learned from" in page for page in pages] == [False, True]
    assert "Step 4: drawn from 6 to 8 s, learned from 8 to 10 s" in pages[1]
    assert "<code>cluster/sample_start</code>" not in re.sub(r'id="metrics".*', "", pages[1], flags=re.DOTALL), (
        "no chart of its own"
    )
