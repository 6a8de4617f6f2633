"""Reward functions with TRL's signature: what they are given, what they may return, and what is refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.registry import load
from rung.tasks.rewards.functions import Rewarded

REWARDS = """
import asyncio, functools, math
def length(completions, **kwargs): return [len(c) for c in completions]
def columns(prompts, completions, level, answer): return [float(level[0] + len(prompts) + len(answer))] * 3
async def later(completions, **kwargs): return [1.0 for _ in completions]
def unsure(completions, **kwargs): return [None, 1, True][: len(completions)]
def short(completions, **kwargs): return [1.0]
def nothing(completions, **kwargs): pass
def words(completions, **kwargs): return ["good"] * len(completions)
def infinite(completions, **kwargs): return [math.inf] * len(completions)
def broken(completions, **kwargs): return [1 / 0]
def greedy(completions, missing): return [0.0]
def chat(prompts, completions, **kwargs):
    return [float(c[0]["role"] == "assistant" and p[0]["role"] == "user") for p, c in zip(prompts, completions)]
def first(completions, /, **kwargs): return [float("completions" not in kwargs)] * len(completions)
def named(*, completions, answer): return [float(len(answer))] * len(completions)
def usual(completions, missing=2.0, *rest): return [missing] * len(completions)
def weighed(completions, weight, **kwargs): return [weight] * len(completions)
half = functools.partial(weighed, weight=0.5)
class Judge:
    def __call__(self, completions, **kwargs): return [4.0] * len(completions)
class Later:
    async def __call__(self, completions, **kwargs): return [5.0] * len(completions)
judge, later_judge = Judge(), Later()
loops = []
async def looped(completions, **kwargs):
    loops.append(asyncio.get_running_loop())
    return [float(loops[0] is loops[-1])] * len(completions)
def changes(prompts, completions, **kwargs):
    prompts[0].append("more"); prompts[1][0]["content"] += "!"; completions[0][0]["content"] = ""
    return [float(len(c[0]["content"])) for c in completions]
def world(environments, **kwargs): return [0.0] * len(environments)
def logs(completions, log_metric, **kwargs): return [0.0]
def leaves(completions, **kwargs): raise SystemExit(0)
async def leaves_later(completions, **kwargs): raise SystemExit(0)
VALUE = 3
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rewards, rows = tmp_path / "rewards.py", tmp_path / "rows.jsonl"
    rewards.write_text(REWARDS)
    rows.write_text("".join(json.dumps({"prompt": f"Say {i}.", "answer": str(i), "level": 2}) + "\n" for i in range(6)))
    return rewards, rows


def scores(files: tuple[Path, Path], name: str, count: int = 3) -> list[dict[str, float]]:
    environment = load(str(files[1]), reward=f"{files[0]}:{name}").train
    return environment.score(Group(environment[0], [Completion("a" * i) for i in range(count)]))


def test_values(files: tuple[Path, Path]) -> None:
    assert scores(files, "length") == [{"length": 0.0}, {"length": 1.0}, {"length": 2.0}]
    assert scores(files, "columns") == [{"columns": 8.0}] * 3
    assert scores(files, "later", 2) == [{"later": 1.0}] * 2
    first, *others = scores(files, "unsure")
    assert math.isnan(first["unsure"])
    assert others == [{"unsure": 1.0}] * 2


@pytest.mark.parametrize(
    ("name", "reported", "value"),
    [
        ("first", "first", 1.0),
        ("named", "named", 2.0),
        ("usual", "usual", 2.0),
        ("half", "weighed", 0.5),
        ("judge", "Judge", 4.0),
        ("later_judge", "Later", 5.0),
    ],
)
def test_whatever_can_be_called_by_name(files: tuple[Path, Path], name: str, reported: str, value: float) -> None:
    assert scores(files, name, 2) == [{reported: value}] * 2


def test_async_functions_share_one_event_loop(files: tuple[Path, Path]) -> None:
    """A lock, or a client's session, belongs to the loop in which it was used first."""
    assert scores(files, "looped", 2) == scores(files, "looped", 2) == [{"looped": 1.0}] * 2


def test_a_function_may_change_what_it_is_given(files: tuple[Path, Path]) -> None:
    rows = [{"prompt": [{"role": "user", "content": str(i)}]} for i in range(4)]
    files[1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load(str(files[1]), reward=f"{files[0]}:changes").train
    group = Group(task[0], [Completion("aa"), Completion("bbb")])
    before = json.dumps(task[0].prompt)
    assert [s["changes"] for s in task.score(group)] == [0.0, 3.0] == [s["changes"] for s in task.score(group)]
    assert json.dumps(task[0].prompt) == before


def test_chat_prompts_get_chat_completions(files: tuple[Path, Path]) -> None:
    files[1].write_text("".join(json.dumps({"prompt": [{"role": "user", "content": str(i)}]}) + "\n" for i in range(4)))
    assert scores(files, "chat", 2) == [{"chat": 1.0}] * 2  # and no answer column is needed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "returned 1 rewards for 3 completions"),
        ("nothing", "returned None"),
        ("words", "must return a list of numbers, and there is the text"),
        ("infinite", "returned an infinite reward"),
        ("greedy", "unknown argument of the reward function 'greedy'"),
        ("world", "asks for 'environments', but there is none"),
        ("logs", "asks for 'log_metric', but rung logs rewards, and nothing for them. Give the parameter the default"),
        ("leaves", "SystemExit: 0. See"),
        ("leaves_later", "SystemExit: 0. See"),
        ("lenght", "Did you mean 'length'?"),
        ("VALUE", "which cannot be called"),
    ],
)
def test_refused(files: tuple[Path, Path], name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        scores(files, name)
    assert message in str(error.value)


def test_a_function_that_raises_is_named_with_its_row(files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"'broken' for rows.jsonl:\d raised ZeroDivisionError.*rewards.py:11"):
        scores(files, "broken")
    splits = load(str(files[1]), reward=f"{files[0]}:broken")
    assert isinstance(splits.train, Rewarded)
    forgiving = Rewarded(splits.train.environment, splits.train.function, on_error="skip")
    with pytest.warns(UserWarning, match=r"'broken' for rows.jsonl:\d raised ZeroDivisionError.*Not scored"):
        assert math.isnan(forgiving.score(Group(forgiving[0], [Completion("a")]))[0]["broken"])


def test_on_error_is_a_setting_of_the_task(files: tuple[Path, Path]) -> None:
    task = load(str(files[1]), reward=f"{files[0]}:broken", options={"on_error": "skip"}).train
    with pytest.warns(UserWarning, match="Not scored"):
        assert math.isnan(task.score(Group(task[0], [Completion("a")]))[0]["broken"])
    with pytest.raises(InputError, match="Did you mean 'skip'"):
        load(str(files[1]), reward=f"{files[0]}:broken", options={"on_error": "skp"})


def test_several_functions_with_weights(files: tuple[Path, Path]) -> None:
    task = load(str(files[1]), reward=f"{files[0]}:length*0.5, {files[0]}:unsure").train
    first, second = task.score(Group(task[0], [Completion("aaa"), Completion("a")]))
    assert first["length"] == 1.5 and math.isnan(first["unsure"])
    assert second == {"length": 0.5, "unsure": 1.0}
    for spec, message in (
        (f"{files[0]}:length*x", "is no weight"),
        (f"{files[0]}:length,{files[0]}:length", "two functions"),
    ):
        with pytest.raises(InputError, match=message):
            load(str(files[1]), reward=spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rewards.py", "Write FILE.py:NAME"),
        ("gone.py:f", "gone.py does not exist"),
        ("{broken}:f", "cannot be imported: SyntaxError"),
    ],
)
def test_bad_files(tmp_path: Path, spec: str, message: str) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    with pytest.raises(InputError) as error:
        load("chained_arithmetic", reward=spec.format(broken=broken))
    assert message in str(error.value)


def test_tasks_load_no_torch() -> None:
    code = (
        "import sys; from rung.tasks import registry, verify; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
