"""What a run says about rewards that cannot teach: at once, with what to do, and once."""

import pytest

import rung
from rung.errors import InputError
from rung.records import Task
from rung.tasks.environment import Splits
from rung.train.notices import Notices, remedy

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 4, "max_new_tokens": 6, "threads": 1}
ROW = {
    "rewards/unscored": 0.0,
    "advantage/lost": 0.0,
    "advantage/abs_mean": 0.5,
    "grad_norm": 0.1,
    "learning_rate": 1e-3,
}


class Paid:
    """Sums; `pay(step of scoring, text)` says what an answer earns."""

    def __init__(self, pay):
        self.pay, self.calls = pay, 0

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return Task(str(i), f"{i % 10}+{i // 10}=")

    def score(self, group):
        self.calls += 1
        return [{"r": self.pay(self.calls, c.text)} for c in group.completions]


def splits(pay, eval_pay=None):
    return Splits("paid", Paid(pay), Paid(eval_pay or pay), 6)


def test_a_run_whose_first_answers_cannot_be_scored_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"step 1: none of the 16 answers could be scored.*r nan"):
        rung.train(recipe="grpo", splits=splits(lambda n, t: float("nan")), steps=2, out=tmp_path / "r", **SMALL)


def test_a_later_step_without_a_score_is_said_at_once_and_goes_on(tmp_path, capsys):
    pay = lambda n, t: float(len(t) % 2) if n <= 4 or n > 12 else float("nan")  # noqa: E731  steps 2 and 3 fail
    run = rung.train(
        recipe="grpo", splits=splits(pay, lambda n, t: 0.0), steps=4, out=tmp_path / "r", **SMALL, learning_rate=1e-4
    )
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("none of the 16 answers could be scored") == 1 and "step 2: none" in said
    steps = [row for row in run.metrics if "reward" in row]
    assert [row["rewards/unscored"] for row in steps] == [0, 16, 16, 0]
    assert steps[1]["reward"] is None and steps[1]["update/skipped"] == 1 and steps[3]["reward"] is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"rewards/unscored": 32.0}, "none of the 32"),
        ({"rewards/unscored": 16.0}, "16 of 32"),
        ({"rewards/unscored": 15.0}, None),
        ({"advantage/eps_dominates": 0.5}, "eps"),
        ({"advantage/eps_dominates": 0.4}, None),
        ({"advantage/lost": 0.25}, "maxrl"),
        ({"grad_norm": 1e-9}, "Adam"),
        ({"grad_norm": 1e-9, "advantage/abs_mean": 0.0}, None),
        ({"grad_norm": 0.0}, None),
    ],
)
def test_each_notice_is_due_where_it_is_true_and_said_once(change, said):
    notices = Notices(answers=32, weights=10_000)
    first = notices.of({**ROW, **change})
    assert len(first) == (said is not None) and all(said in text for text in first)
    assert notices.of({**ROW, **change}) == [], "once"


def test_the_remedy_of_an_endless_gradient_depends_on_the_advantages():
    assert "learning rate" in remedy(ROW)
    assert "divide the rewards" in remedy({**ROW, "advantage/abs_mean": float("inf")})
