"""FILE.py:NAME: read as `python FILE.py` reads it, whatever the file imports or is called, and nobody else sees a difference."""

import importlib
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rung.errors import InputError
from rung.records import Completion, Group
from rung.tasks.problems import load_problems
from rung.tasks.registry import load
from rung.tasks.rewards.python_file import load_object

SIBLING = """
from helpers import WEIGHT
def pay(completions, **columns): return [WEIGHT * (i % 2) for i, _ in enumerate(completions)]
"""
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import NamedTuple
@dataclass
class Score:
    value: float
    parts: list[float] = field(default_factory=list)
class Pair(NamedTuple):
    a: int
def pay(completions, **columns): return [Score(float(i % 2)).value for i, _ in enumerate(completions)]
"""
POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
def one(text): return float(len(text) % 2)
def pay(completions, **columns):
    with ProcessPoolExecutor(1, get_context("KIND")) as pool:
        return list(pool.map(one, completions))
"""
LATER = """
def pay(completions, **columns):
    import late_helpers
    return [late_helpers.WEIGHT] * len(completions)
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Modules and directories of other tests are no neighbours of this one's."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "pytest-of" not in place])
    for name, module in list(sys.modules.items()):
        if "pytest-of" in str(getattr(module, "__file__", "")):
            del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    rows = [{"prompt": f"{i}+2=", "answer": str(i + 2)} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def scores(folder: Path, file: str) -> list[float]:
    task = load(str(folder / "rows.jsonl"), reward=f"{folder / file}.py:pay").train
    return [next(iter(s.values())) for s in task.score(Group(task[0], [Completion("a"), Completion("ab")]))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIBLING, [0.0, 2.0]),
        (DATACLASS, [0.0, 1.0]),
        (POOL.replace("KIND", "fork"), [1.0, 0.0]),
        (POOL.replace("KIND", "spawn"), [1.0, 0.0]),
        (LATER, [3.0, 3.0]),
    ],
    ids=["neighbour", "dataclass", "fork", "spawn", "import-in-function"],
)
def test_what_a_file_may_do(tmp_path, text, expected):
    folder = write(tmp_path / "a", rewards=text, helpers="WEIGHT = 2.0", late_helpers="WEIGHT = 3.0")
    assert scores(folder, "rewards") == expected


def test_all_that_is_named_by_file_is_loaded_alike(tmp_path):
    env = "from helpers import WEIGHT\nclass Env:\n    def reset(self, **row): ...\n    def get_reward(self): return WEIGHT\n"
    folder = write(tmp_path / "a", env=env, helpers="WEIGHT = 2.0")
    splits = load_problems(str(folder / "rows.jsonl"), environment=f"{folder / 'env.py'}:Env")
    assert splits.train.session(splits.train[0]).instance.get_reward() == 2.0


def test_a_file_is_run_once_until_it_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    text = "import helpers\nhelpers.RUNS.append(1)\ndef f(): return 0\ndef g(): ..."
    folder = write(tmp_path / "a", rewards=text)
    (folder / "helpers.py").write_text("RUNS = []")
    spec = f"{folder / 'rewards.py'}:"
    f, g = load_object(spec + "f", "reward"), load_object(spec + "g", "reward")
    assert f.__globals__ is g.__globals__ and len(f.__globals__["helpers"].RUNS) == 1
    assert pickle.loads(pickle.dumps(f)) is f
    (folder / "rewards.py").write_text(text.replace("return 0", "return 1"))  # as long, and within the same second
    assert load_object(spec + "f", "reward")() == 1
    assert not (folder / "__pycache__" / f"rewards.{sys.implementation.cache_tag}.pyc").exists()


@pytest.mark.parametrize("name", ["json", "numpy", "rung", "datasets", "my-rewards", "v1.2"])
def test_a_file_may_be_called_like_anything(tmp_path, name):
    """Also like a module that is installed, imported or not, which then stays what it is, for the file too."""
    text = "import json, numpy, rung\nfrom rung.errors import InputError\nassert json.dumps and numpy.zeros and InputError\n"
    if name == "datasets":
        text += "import datasets\nassert datasets.load_dataset\n"
    folder = write(tmp_path / "a", **{name: text + POOL.replace("KIND", "fork")})
    before = {k: sys.modules.get(k) for k in ("json", "numpy", "rung", "rung.errors")}
    assert scores(folder, name) == [1.0, 0.0]
    assert before == {k: sys.modules.get(k) for k in before}
    if name in ("json", "numpy", "rung", "datasets"):
        assert not Path(importlib.import_module(name).__file__).is_relative_to(folder)


def test_files_of_two_directories_have_neighbours_of_their_own(tmp_path):
    one = write(tmp_path / "one", rewards=SIBLING, helpers="WEIGHT = 2.0")
    two = write(tmp_path / "two", rewards=SIBLING, helpers="WEIGHT = 5.0")
    assert (scores(one, "rewards"), scores(two, "rewards"), scores(one, "rewards")) == ([0, 2], [0, 5], [0, 2])
    assert sys.modules["helpers"].WEIGHT == 2.0, "the first one's stays, as its functions may be pickled by name"


def test_a_neighbour_called_like_an_installed_module_is_seen_by_the_file_alone(tmp_path):
    import packaging

    folder = write(tmp_path / "a", rewards=SIBLING.replace("helpers", "packaging"), packaging="WEIGHT = 7.0")
    assert scores(folder, "rewards") == [0.0, 7.0]
    import packaging.version

    assert sys.modules["packaging"] is packaging and importlib.import_module("packaging") is packaging
    assert sys.path[0] != str(folder) and sys.path[-1] == str(folder)


def test_a_neighbour_does_not_stand_in_for_an_installed_module_that_nobody_has_imported_yet(tmp_path, monkeypatch):
    site = write(tmp_path / "site", installed_here="WHOSE = 'the installed one'")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    text = "import installed_here\ndef pay(completions, **columns): return [float(installed_here.WHOSE == 'mine')] * 2"
    folder = write(tmp_path / "a", rewards=text, installed_here="WHOSE = 'mine'")
    assert scores(folder, "rewards") == [1.0, 1.0]
    assert importlib.import_module("installed_here").WHOSE == "the installed one"


def test_a_file_that_fails_leaves_nothing_behind(tmp_path):
    folder = write(tmp_path / "a", broken_rewards="import helpers\n1 / 0", helpers="")
    path, finders = list(sys.path), list(sys.meta_path)
    with pytest.raises(InputError, match=r"ZeroDivisionError.*broken_rewards\.py:2"):
        load_object(f"{folder / 'broken_rewards.py'}:pay", "reward")
    assert sys.path == path and sys.meta_path == finders and "broken_rewards" not in sys.modules


@pytest.mark.parametrize(
    ("rewards", "helpers", "message"),
    [
        ("import helpers", "x = 1\ny = x +", r"SyntaxError: .*helpers\.py:2"),
        ("from helpers import x", "def x(:", r"SyntaxError: .*helpers\.py:1"),
        ("\nimport no_such_module_here", "", r"No module named 'no_such_module_here'.*rewards\.py:2"),
        ("from helpers import x", "import json\n\nx = json.loads('{')", r"JSONDecodeError.*helpers\.py:3\.$"),
        ("import sys\nsys.exit(0)", "", r"SystemExit: 0.*rewards\.py:2"),
    ],
)
def test_an_error_names_the_users_own_line(tmp_path, rewards, helpers, message):
    folder = write(tmp_path / "a", rewards=rewards, helpers=helpers)
    with pytest.raises(InputError) as error:
        load_object(f"{folder / 'rewards.py'}:pay", "reward")
    assert re.search(message, str(error.value)), error.value


def test_a_line_of_the_users_is_named_where_a_library_raised(tmp_path):
    text = "import json\n\ndef pay(completions, **columns):\n    return [json.loads(c) for c in completions]\n"
    folder = write(tmp_path / "a", rewards=text)
    with pytest.raises(InputError, match=r"rewards\.py:4\."):
        scores(folder, "rewards")


def test_a_name_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    folder = write(tmp_path / "a", rewards=DATACLASS)
    with pytest.raises(InputError, match=r"Did you mean 'pay'\? Known: Pair, Score, pay"):
        load_object(f"{folder / 'rewards.py'}:pays", "reward")


def test_from_the_command_line_a_pool_of_processes_pays(tmp_path):
    kinds = sorted(set(multiprocessing.get_all_start_methods()) & {"forkserver", "spawn"})
    folder = write(tmp_path / "a", rewards=POOL.replace("KIND", kinds[0]))
    words = ["verify", "--task", "a/rows.jsonl", "--reward", "a/rewards.py:pay", "--problems", "1"]
    done = subprocess.run([sys.executable, "-m", "rung", *words], cwd=folder.parent, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "false accepts" in done.stdout, done.stderr
