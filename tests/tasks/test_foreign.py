"""Reward functions of verl and OpenRLHF, called as those projects call them."""

import json
import math

import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.settings.shared import Problems
from rung.tasks.problems import problems_of
from rung.tasks.rewards.arguments import arguments
from rung.tasks.rewards.foreign import form_of, openrlhf, verl

REWARDS = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "gsm" and extra_info == {"index": 3}, (data_source, extra_info)
    return {"score": float(solution_str.endswith(ground_truth)), "acc": 1.0}

def plain(data_source, solution_str, ground_truth):
    return ground_truth == solution_str

async def later(data_source, solution_str, ground_truth, **more):
    assert set(more) == {"extra_info"}
    return None if solution_str == "?" else float(solution_str == ground_truth)

def reward_func(queries, prompts, labels, **kwargs):
    assert not kwargs
    said = [q[len(p):] for q, p in zip(queries, prompts)]
    return {"rewards": [float(s == x) for s, x in zip(said, labels)], "scores": [9.0] * len(said), "extra_logs": {}}

def wrong(data_source, solution_str, ground_truth):
    return {"acc": 1.0}

def ours(prompts, completions, labels):
    return [1.0] * len(labels)
"""


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)

    def write(row, prompt="7 + 2 = "):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{i}: {prompt}", **row}) + "\n" for i in range(9)))
        return path

    return write


def score(path, name, said, **settings):
    splits = problems_of(Problems(task=str(path), reward=f"{path.parent / 'rewards.py'}:{name}", **settings))
    found = splits.train.score(Group(splits.train[0], [Completion(text, "stop") for text in said]))
    return [next(iter(row.values())) for row in found]


VERL = {"data_source": "gsm", "reward_model": {"style": "rule", "ground_truth": "9"}, "extra_info": {"index": 3}}


def test_verl_s_rows_and_its_compute_score(rows):
    assert score(rows(VERL), "compute_score", ["so 9", "8"]) == [1.0, 0.0]
    assert score(rows({**VERL, "answer": "8"}), "compute_score", ["so 9", "8"]) == [1.0, 0.0]
    assert score(rows(VERL), "later", ["9", "8", "?"])[:2] == [1.0, 0.0]
    assert math.isnan(score(rows(VERL), "later", ["?"])[0])


def test_its_ground_truth_is_the_answer_of_any_other_row(rows):
    assert score(rows({"answer": "9"}), "plain", ["9", "8"]) == [1.0, 0.0]
    assert score(rows({"gold": "9"}), "plain", ["9", "8"], answer_column="gold") == [1.0, 0.0]
    with pytest.raises(InputError, match="Name the right one with answer_column="):
        score(rows({"gold": "9"}), "plain", ["9"])


@pytest.mark.parametrize("chat", [False, True])
def test_openrlhf_s_reward_func(rows, chat):
    assert score(rows({"label": "9", "answer": "8"}), "reward_func", ["9", "8"], chat=chat) == [1.0, 0.0]
    assert score(rows({"answer": "9"}), "reward_func", ["9", "8"], chat=chat) == [1.0, 0.0]


def test_a_dict_without_a_score_is_refused(rows):
    with pytest.raises(InputError, match='returned a dict with acc, and verl reads its "score"'):
        score(rows(VERL), "wrong", ["9"])


def test_whose_a_function_is_is_read_from_its_parameters(rows):
    def a(data_source, solution_str, ground_truth, extra_info=None): ...
    def b(queries, prompts, labels): ...
    def c(prompts, completions, **columns): ...

    assert (form_of(a, []), form_of(b, []), form_of(c, [])) == (verl, openrlhf, None)
    assert form_of(b, ["queries", "labels"]) is None, "the rows have such columns: it is TRL's"
    assert form_of(arguments, []) is None
    assert score(rows({"labels": "x"}), "ours", ["9"]) == [1.0]
