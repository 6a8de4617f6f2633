"""A cluster that is planned without a task: lengths as the usual one has them, said, and nothing loaded for them."""

import json
import sys

import pytest

from rung.cli import main
from rung.plan.shapes import assumed
from rung.training.config import TrainConfig

WORDS = ["plan", "grpo", "--gpu", "h100", "--gpus", "64", "--model", "qwen2.5-7b"]


@pytest.fixture
def no_gym(monkeypatch):
    """An import of reasoning-gym fails, as where it is not installed."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)


def test_a_cluster_is_planned_where_the_usual_task_is_not_installed(no_gym, capsys):
    assert main(WORDS) == 0
    said = capsys.readouterr()
    lengths = "prompts of 18 tokens are planned, 235 answers of an evaluation, and answers of 64 tokens, 64 at most"
    assert f"no --task is given, so {lengths}" in " ".join((said.out + said.err).split())


@pytest.mark.parametrize(
    "more", [[], ["--prompts-per-step", "2048", "--max-new-tokens", "512", "--answer-tokens", "128"]]
)
def test_the_figures_are_those_of_the_usual_task(more, capsys):
    pytest.importorskip("reasoning_gym")
    found = []
    for task in ([], ["--task", "chain_sum"]):
        assert main([*WORDS, *more, *task, "--json", "-"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] and found[0]


@pytest.mark.parametrize(
    "own", [{"task": "problems.jsonl"}, {"environment": "mine.py:World"}, {"reward": "mine.py:judge"}, {"verifier": "math"},
            {"task_options": {"max_terms": 3}}, {"model": "starter"}],
    ids=lambda own: next(iter(own)),
)  # fmt: skip
def test_nothing_is_assumed_where_problems_are_named(own):
    assert (
        assumed(TrainConfig(**{"model": "qwen2.5-7b", **own})) is None
        and assumed(TrainConfig(model="qwen2.5-7b")) is not None
    )
