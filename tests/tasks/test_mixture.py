"""Mixtures: ratios, nothing repeated in evaluation, metrics by part, and curricula that move on when they should."""

import json
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.registry import load
from rung.tasks.sources.mixture import WINDOW, Mixture, Stage


def rows(path: Path, count: int, word: str) -> Path:
    lines = [json.dumps({"prompt": f"{word} {i}?", "answer": str(i)}) for i in range(count)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return rows(tmp_path / "big.jsonl", 400, "How"), rows(tmp_path / "small.jsonl", 64, "Why")


def parts(mixture: object, count: int) -> Counter[str]:
    return Counter(mixture[i].id.partition("/")[0] for i in range(count))  # type: ignore[index]


def test_ratios_hold_and_every_problem_of_the_largest_part_comes(files: tuple[Path, Path]) -> None:
    splits = load(f"{files[0]}:3,{files[1]}:1")
    assert isinstance(splits.train, Mixture)
    seen = parts(splits.train, len(splits.train))
    assert seen["big"] == 3 * seen["small"]
    assert parts(splits.train, 4) == {"big": 3, "small": 1}
    prompts = {splits.train[i].prompt for i in range(len(splits.train))}
    big, small = splits.train.parts["big"], splits.train.parts["small"]
    assert {big[i].prompt for i in range(len(big))} | {small[i].prompt for i in range(len(small))} == prompts


def test_evaluation_never_repeats_and_keeps_the_ratio(files: tuple[Path, Path]) -> None:
    held_out = load(f"{files[0]}:0.75,{files[1]}:0.25").eval
    assert isinstance(held_out, Mixture)
    tasks = [held_out[i] for i in range(len(held_out))]
    assert len({task.prompt for task in tasks}) == len(tasks) == 4 * len(held_out.parts["small"])
    with pytest.raises(IndexError):
        held_out[len(held_out)]


def test_each_part_judges_its_own_and_is_reported_by_name(files: tuple[Path, Path]) -> None:
    train = load(f"{files[0]}:1,chained_arithmetic:1").train
    by_part = {train[i].id.partition("/")[0]: train[i] for i in range(2)}
    task = by_part["chained_arithmetic"]
    right = Completion(f"#{task.data['answer']}")
    assert train.score(Group(task, [right, Completion("")])) == [
        {"chained_arithmetic.correct": 1.0},
        {"chained_arithmetic.correct": 0.0},
    ]
    assert train.extract(task, right) == task.data["answer"]  # type: ignore[attr-defined]
    task = by_part["big"]
    assert train.score(Group(task, [Completion(task.data["answer"])])) == [{"big.correct": 1.0}]


MIX = """
[[part]]
task = "big.jsonl"
weight = 2
[[part]]
task = "small.jsonl"
name = "hard"
[[stage]]
weights = {big = 1}
until_step = 3
[[stage]]
weights = {big = 1, hard = 1}
until_accuracy = 0.5
[[stage]]
weights = {hard = 1}
"""


def test_a_curriculum_goes_on_by_step_and_by_accuracy(files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(MIX)
    splits = load(str(path))
    train = splits.train
    assert isinstance(train, Mixture)
    assert train.begin_step(2) == {"task/stage": 0.0}
    assert set(parts(train, 100)) == {"big"}
    assert train.begin_step(3) == {"task/stage": 1.0}
    assert parts(train, 100) == {"big": 50, "hard": 50}
    rewards = [[0.0, math.nan]] * (WINDOW // 2 - 1) + [[1.0]] * (WINDOW // 2) + [[math.nan]] * WINDOW
    train.observe([train[0]] * len(rewards), rewards)
    assert train.begin_step(4) == {"task/stage": 1.0}, "half the window is not there yet"
    again = load(str(path)).train
    assert isinstance(again, Mixture)
    again.load_state_dict(json.loads(json.dumps(train.state_dict())))
    for copy in (train, again):  # a resumed run goes on where it stood
        copy.observe([train[0]], [[1.0]])
        assert copy.begin_step(5) == {"task/stage": 2.0}
        assert set(parts(copy, 100)) == {"hard"}
    assert set(parts(splits.eval, len(splits.eval))) == {"hard"}, "evaluation is about the goal"


def test_a_reward_function_judges_each_part_and_the_curriculum_goes_on(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "mix.toml").write_text(MIX)
    (tmp_path / "judge_mix.py").write_text(
        "def pay(completions, trainer_state, **columns): return [0.5 + trainer_state.global_step] * len(completions)"
    )
    train = load(str(tmp_path / "mix.toml"), reward=f"{tmp_path / 'judge_mix.py'}:pay").train
    assert isinstance(train, Mixture)
    assert train.begin_step(3) == {"task/stage": 1.0}
    assert train.score(Group(train[0], [Completion("")])) == [{"big.pay": 3.5}]
    for i in range(WINDOW):
        train.observe([train[i]], [[sum(row.values()) for row in train.score(Group(train[i], [Completion("")]))]])
    assert train.begin_step(4) == {"task/stage": 2.0}


def test_shares_are_kept_where_they_do_not_divide_evenly() -> None:
    task = load("chained_arithmetic", options={"train_size": 50, "eval_size": 50})
    weights = {"a": Fraction(1), "b": Fraction(1), "c": Fraction(1)}
    mixture = Mixture(dict.fromkeys("abc", task.train), [Stage(weights, until_step=1), Stage(weights)], repeat=True)
    assert sorted(parts(mixture, 100).values()) == [33, 33, 34]
    assert len({mixture[i].id for i in range(len(mixture))}) == 150


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MIX.replace("weight = 2", "wait = 2"), "Did you mean 'weight'"),
        (MIX.replace("hard = 1}", "hart = 1}"), "Did you mean 'hard'"),
        (MIX.replace("weight = 2", 'weight = "many"'), "weight of part 1 is 'many'; it must be a number of at least 0"),
        (MIX.replace("until_step = 3", ""), "needs until_step or until_accuracy"),
        (MIX.replace('name = "hard"', 'name = "big"'), "named 'big'"),
        (MIX.replace("{big = 1}", "{big = 0}"), "gives weight to no part"),
        (MIX.replace('task = "small.jsonl"', ""), "part 2 names no task"),
        ("[[part", "not valid TOML"),
        ("", "has no parts"),
        ("parts = []", "Did you mean 'part'"),
    ],
)
def test_refused(files: tuple[Path, Path], tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load(str(path))
    assert message in str(error.value)


def test_parts_too_small_for_their_ratio_and_options_of_no_part_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="too small for one round"):
        load(f"{files[0]}:1,{files[1]}:100")
    with pytest.raises(InputError, match="belongs to a part"):
        load(f"{files[0]}:1,{files[1]}:1", options={"min_digits": 2})
