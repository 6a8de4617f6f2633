"""What judging takes is in the plan: measured of the task's own verifier, and never of a user's function, which is not called."""

import json
import re
import time
from dataclasses import dataclass

import pytest

from rung.cli import main
from rung.plan import judging
from rung.records import Task
from rung.tasks import registry
from rung.tasks.environments.protocol import Splits
from rung.tasks.rewards.functions import judged
from rung.tasks.sources import dataset
from rung.tasks.sources.dataset import Rows

SMALL = [
    "--prompts-per-step", "4", "--samples-per-prompt", "4", "--max-new-tokens", "4", "--eval-problems", "2", "--threads", "1",
]  # fmt: skip
SLOW = 0.01


@dataclass(frozen=True)
class Slow:
    """A verifier that takes its time over each different answer."""

    name: str = "exact"

    def extract(self, text, prompt=""):
        return text

    def correct(self, answers, gold):
        time.sleep(SLOW * len({*answers}))
        return [float(answer == gold) for answer in answers]


def rows(verifier=None, n=12):
    return Rows(
        "rows", [Task(f"{i}", f"What is {i} + {i}?", {"answer": str(2 * i)}) for i in range(n)], verifier or Slow()
    )


def test_each_different_answer_to_a_problem_takes_the_verifiers_time():
    assert judging.judging(rows()) == pytest.approx(SLOW, rel=0.5)
    assert judging.judging(rows(n=1)) == pytest.approx(SLOW, rel=0.5), "a right answer alone"


def test_only_verifiers_of_ours_are_asked():
    asked = []

    def pays(prompts, completions, **columns):
        asked.append(prompts)
        return [1.0] * len(prompts)

    paid = judged(Splits("rows", rows(), rows()), [(pays, 1.0)], "stop").train
    assert judging.judging(paid) is None and not asked, "it may wait for others, and cost"
    assert re.fullmatch(
        r"answers are paid by .*pays: what that takes is not in the estimate", judging.untold(paid, None)
    )
    builtin = registry.load("chained_arithmetic").train
    assert judging.judging(builtin) is None is judging.untold(builtin, None), "it takes next to nothing"
    assert judging.judging(Rows("rows", [Task("a", "a", {})], Slow())) is None, "no right answers"
    assert judging.untold(rows(), SLOW) is None


@pytest.mark.parametrize("cluster", [[], ["--cluster", "ray"], ["--gpu", "h100"]], ids=str)
def test_a_plan_counts_it_for_every_answer_of_a_step(cluster, tmp_path, monkeypatch, capsys):
    """Sixteen answers of 10 ms, on the side that draws."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "{i}+{i}=", "answer": "{2 * i}"}}\n' for i in range(40)))
    monkeypatch.setattr(dataset, "by_name", lambda name: Slow())
    assert (
        main(
            [
                "plan",
                "dr_grpo",
                "--task",
                str(tmp_path / "rows.jsonl"),
                "--verifier",
                "exact",
                *SMALL,
                *cluster,
                "--json",
                "-",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    if cluster[:1] == ["--gpu"]:
        assert all(0.16 < row["sampling, s"] < 0.4 for row in found)
        return
    seconds = {row["what"]: row["estimate"] for row in found}
    assert 0.15 < seconds["judge"] < 0.3
    whole = "whole step" if not cluster else "with a staleness of 0"
    assert seconds[whole] > seconds["judge"]
