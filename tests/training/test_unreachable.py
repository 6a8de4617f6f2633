"""What a run is told to reach is refused where it is known that no answer can, or that all do: before anything is sampled."""

import importlib
import inspect
import json
import pkgutil

import pytest

import rung
from rung.errors import InputError
from rung.experiments.shuffled import Shuffled
from rung.tasks import sources
from rung.tasks.environments.protocol import least_of, most_of
from rung.tasks.environments.wrapper import Wrapper
from rung.tasks.problems import load_problems
from rung.training.config import TrainConfig
from rung.training.setup import settle

ROWS = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(20)]
MIXED = """[[part]]
task = "chained_arithmetic"
[[part]]
task = "chain_sum"
options = {credit = "%s"}
[[stage]]
weights = {chained_arithmetic = 1%s}
until_accuracy = %s
[[stage]]
weights = {chain_sum = 1}
"""
PROBLEMS = {
    "starter": {}, "gym": {"task": "chain_sum"}, "rows": {"task": "rows.jsonl"},
    "worded": {"task": "rows.jsonl", "system": "Answer."}, "mixture": {"task": "rows.jsonl:1,chain_sum:1"},
    "verifier": {"task": "rows.jsonl", "verifier": "exact"},
}  # fmt: skip


PAY = "def paid(completions, **columns):\n    return [10.0] * len(completions)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "pay.py").write_text(PAY + PAY.replace("paid", "more"))
    return tmp_path


@pytest.mark.parametrize("problems", PROBLEMS.values(), ids=PROBLEMS)
def test_more_than_an_answer_can_earn_is_refused_and_as_much_is_not(problems):
    with pytest.raises(InputError, match=r"until=1\.01: an answer to .* earns 1 at most, .* Give 1 or less"):
        settle(TrainConfig(until=1.01, **problems))
    assert settle(TrainConfig(until=1.0, **problems))[0].until == 1.0
    with pytest.raises(InputError, match="earns 1 at most"):
        rung.train(until=7, **problems)


@pytest.mark.parametrize("problems", PROBLEMS.values(), ids=PROBLEMS)
def test_what_every_answer_earns_is_refused_and_anything_above_is_not(problems):
    for aim in (-1.0, 0.0):
        with pytest.raises(InputError, match=rf"until={aim}: an answer to .* earns 0 at least, .* Give more than 0"):
            settle(TrainConfig(until=aim, **problems))
    assert settle(TrainConfig(until=0.01, **problems))[0].until == 0.01


@pytest.mark.parametrize(
    "problems",
    [
        {"task": "rows.jsonl", "reward": "pay.py:paid"}, {"task": "chain_sum", "task_options": {"credit": "partial"}},
        {"task": "rows.jsonl", "reward": "pay.py:paid,pay.py:more*2"},
    ],
    ids=("reward", "partial", "rewards"),
)  # fmt: skip
def test_where_nobody_knows_what_is_paid_any_aim_may_be_reached(problems):
    for aim in (-25.0, 25.0):
        assert settle(TrainConfig(until=aim, **problems))[0].until == aim


def test_a_stage_that_never_ends_is_refused(folder):
    def mixture(credit="exact", both="", accuracy=1.5):
        (folder / "mix.toml").write_text(MIXED % (credit, both, accuracy))
        return load_problems("mix.toml")

    with pytest.raises(InputError, match=r"stage 1 ends with until_accuracy = 1\.5, .* earns 1 at most"):
        mixture()
    mixture(accuracy=1.0)
    with pytest.raises(InputError, match=r"stage 1 ends with until_accuracy = 0, .* earns 0 at least, so it would end"):
        mixture(accuracy=0.0)
    mixture("partial", ", chain_sum = 1", accuracy=0.0)
    with pytest.raises(InputError, match="stage 1"):
        mixture("partial", accuracy=0.0)
    mixture("partial", ", chain_sum = 1")
    with pytest.raises(InputError, match="stage 1"):  # the part that may pay more has no weight in it
        mixture("partial")


def test_every_source_of_problems_says_what_an_answer_earns_at_least_and_at_most():
    names = [f"rung.tasks.sources.{module.name}" for module in pkgutil.iter_modules(sources.__path__)]
    found = {
        kind.__name__: hasattr(kind, "least") and hasattr(kind, "most")
        for name in names
        for kind in vars(importlib.import_module(name)).values()
        if inspect.isclass(kind)
        and kind.__module__ == name
        and hasattr(kind, "score")
        and not issubclass(kind, Wrapper)
    }
    assert found == {"ChainedArithmetic": True, "Mixture": True, "ReasoningGym": True, "Rows": True}
    paid_more = load_problems("chained_arithmetic", options={"reward_offset": 2.0}).train
    assert most_of(paid_more) == most_of(Shuffled(paid_more)) == 3.0
    assert least_of(paid_more) == least_of(Shuffled(paid_more)) == 2.0


def test_a_rate_that_is_never_reached_is_refused():
    with pytest.raises(InputError, match="warmup_steps=9 in a run of 8 steps"):
        settle(TrainConfig(steps=8, warmup_steps=9))
    settle(TrainConfig(steps=8, warmup_steps=8))
    settle(TrainConfig(tokens=8, warmup_steps=1))


def test_a_run_that_ends_before_its_policy_is_trained_says_so():
    def notes(**settings):
        return [n for n in settle(TrainConfig(recipe="vapo", **settings))[2].notes if "only the critic learns" in n]

    assert not notes(steps=6) and not notes(steps=5, overrides={"credit.critic.warmup": 4})
    (note,) = notes(steps=5)
    assert "first 5 steps, and the run has 5" in note
