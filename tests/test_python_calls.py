"""Whatever Python is called with: a call that does not fit ends in one sentence that names the argument, in its own words."""

import ast
import inspect
import re
from dataclasses import fields, replace
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch

import rung
from rung import InputError
from rung.cli import main
from rung.errors import setting, typed
from rung.settings.flags import Eval

ROWS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 6) for b in range(1, 6)]
SMALL = {"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1, "quiet": True,
         "max_new_tokens": 4}  # fmt: skip


class Thing:
    """Nothing that any argument could be."""


# What no argument of any public callable takes.
WRONG = {"object": Thing(), "class": int, "bytes": b"x", "complex": 1j, "array": np.zeros((2, 2)), "tensor": torch.zeros(3),
         "table": pandas.DataFrame({"a": [1, 2]}), "generator": (x for x in ROWS), "half": "\ud800"}  # fmt: skip
SETTINGS = list(inspect.signature(rung.train).parameters)
METHODS = [("ask", n) for n in inspect.signature(rung.Run.ask).parameters if n != "self"]
METHODS += [
    ("report", "out"),
    ("push_to_hub", "repo"),
    ("push_to_hub", "private"),
    ("push_to_hub", "token"),
    ("resume", "steps"),
]
TEXTS = {
    "question",
    "system",
    "recipe",
    "prompt_template",
    "reward",
    "environment",
    "token",
}  # another message than of its kind


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rung.train("grpo", out=tmp_path_factory.mktemp("calls") / "run", **SMALL)


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def refused(call, name):
    with pytest.raises(InputError) as caught:
        call()
    said = str(caught.value)
    assert re.search(rf"\b{name}\b", said), f"{name} is not named: {said}"
    assert len(said) < 1500 and not re.search(r"(?<![\w-])--[a-z]", said), f"no flag of the shell in Python: {said}"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_wrong_kind(name):
    for kind, value in WRONG.items():
        if kind == "half" and name in ("task", "system", "tokenizer"):  # of these it is said what it is not
            continue
        more = {"task": ROWS} if name in ("reward", "verifier", "prompt_column", "answer_column") else {}
        refused(lambda: rung.train(**{**SMALL, **more, name: value}), name)  # noqa: B023


@pytest.mark.parametrize(
    "name", [f.name for f in fields(Eval) if f.name not in ("model", "compare", "spec", "out", "json")]
)
def test_a_setting_of_an_evaluation(run, name):
    for kind, value in WRONG.items():
        if kind != "half" or name != "task":
            refused(lambda: rung.evaluate(run, **{name: value}), name)  # noqa: B023


@pytest.mark.parametrize("value", [None, *WRONG.values()], ids=lambda value: type(value).__name__)
def test_a_model_of_the_wrong_kind(value):
    refused(lambda: rung.evaluate(value), "model")
    refused(lambda: rung.evaluate(value, task=ROWS), "model")
    if value is not None:
        refused(lambda: rung.train(model=(value, value)), "model")


@pytest.mark.parametrize(("method", "name"), METHODS)
def test_an_argument_of_a_run(run, method, name):
    how = {"ask": {"question": "1+1="}, "push_to_hub": {"repo": "a/b"}}.get(method, {})
    for kind, value in WRONG.items():
        if kind != "half" or name != "question":
            refused(lambda: getattr(run, method)(**{**how, name: value}), name)  # noqa: B023


@pytest.mark.parametrize(
    "value", [3, None, 0.5, True, [1], {}, *WRONG.values()], ids=lambda value: type(value).__name__
)
def test_where_a_run_lies_and_what_it_wrote(run, value):
    if not isinstance(value, str):
        refused(lambda: rung.load(value), "path")
    if type(value) is not int:
        refused(lambda: run.rollouts[value], "step")
        assert value not in run.rollouts and run.rollouts.get(value, 7) == 7
    if type(value) not in (int, str):
        refused(lambda: run.metrics[value], "metric")
    assert run.rollouts.get(99) is None
    for wrong in ("1", 0, -1, 99):
        refused(lambda: run.rollouts[wrong], "step")  # noqa: B023


@pytest.mark.parametrize(
    "name", [f.name for f in fields(rung.recipes.GRPO) if f.name not in ("name", "parent", "paper", "why")]
)
def test_a_field_of_a_recipe(name):
    for kind, value in WRONG.items():
        if kind != "half":
            refused(lambda: replace(rung.recipes.GRPO, **{name: value}), name)  # noqa: B023
    if name in ("credit", "ratio", "correction", "surrogate", "kl", "aggregate"):
        with pytest.raises(InputError, match=rf"Recipe\.{name} is 'GroupMean'; it must be \w+: \w+, \w+"):
            replace(rung.recipes.GRPO, **{name: "GroupMean"})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda run: rung.train("grpo", "starter"),
            r"rung\.train takes recipe by place, and 'starter' is one more\. .*model",
        ),
        (lambda run: rung.evaluate("starter", "gsm8k"), r"rung\.evaluate takes model by place, and 'gsm8k' .*task"),
        (lambda run: rung.evaluate(), "missing a required argument: 'model'"),
        (lambda run: rung.load(), "missing a required argument: 'path'"),
        (lambda run: rung.load("a", "b"), r"rung\.load takes path by place, and 'b' is one more"),
        (lambda run: run.ask("1+1=", 1, True), "takes question and samples by place, and True is one more"),
        (lambda run: run.ask("1+1=", sample=2), r"unknown argument of Run\.ask: 'sample'. Did you mean 'samples'"),
        (lambda run: run.report(outt="x"), "Did you mean 'out'"),
        (lambda run: run.resume(2, 3), "takes steps by place, and 3 is one more"),
        (lambda run: run.push_to_hub("a", True), "takes repo by place, and True is one more"),
    ],
)
def test_a_call_that_does_not_fit(run, call, said):
    with pytest.raises(TypeError, match=said):
        call(run)


def test_empty_text_is_no_setting():
    for name in (
        "task",
        "model",
        "out",
        "reward",
        "environment",
        "system",
        "prompt_column",
        "trainable",
        "resume",
        "task_path",
    ):
        with pytest.raises(InputError, match=rf"{name}=?.* is empty"):
            rung.train(**{**SMALL, name: ""})


# -- rows of other libraries ---------------------------------------------------------------------------------------
class Mapped(torch.utils.data.Dataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return ROWS[index % len(ROWS)]  # never an IndexError


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(ROWS)


NUMBERS = [{**row, "answer": np.int64(row["answer"])} for row in ROWS]


@pytest.mark.parametrize(
    "task",
    [Mapped(), torch.utils.data.Subset(Mapped(), range(25)), np.array(ROWS), pandas.DataFrame(ROWS).to_dict("records"), NUMBERS,
     datasets.Dataset.from_list(ROWS).with_format("torch"), datasets.Dataset.from_list(ROWS).with_format("numpy")],
    ids=lambda t: type(t).__name__,
)  # fmt: skip
def test_rows_of_other_libraries_are_problems(task):
    measured = rung.evaluate("starter", task=task, max_new_tokens=4, problems=3, temperature=0)
    assert measured.reward == rung.evaluate("starter", task=ROWS, max_new_tokens=4, problems=3, temperature=0).reward


@pytest.mark.parametrize(
    ("task", "do"),
    [
        (pandas.DataFrame(ROWS), r'task=table\.to_dict\("records"\)'),
        (pandas.DataFrame(ROWS).to_numpy(), "task, row 1 is array.*Each row must be a dict"),
        (pandas.DataFrame(ROWS)["prompt"], "task, row 1 is '1.1='"),
        (Streamed(), r"task=list\(rows\)"), (iter(ROWS), r"task=list\(rows\)"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), r"task=list\(rows\)"),
        (torch.utils.data.TensorDataset(torch.zeros(4, 2)), "task, row 1 is .*, of type tuple"),
        ({"prompt": ["1+1="], "answer": ["2"]}, r"columns prompt, answer.*zip\(\*task\.values"), (np.array(3), "task is array"),
    ],
)  # fmt: skip
def test_rows_that_are_none_say_what_to_do(task, do):
    with pytest.raises(InputError, match=re.compile(do, re.DOTALL)):
        rung.train(task=task, **SMALL)


def test_all_that_is_missing_is_one_message(tmp_path_factory):
    def pays(completions, **columns):
        return [0.5 for _ in completions]

    path = tmp_path_factory.mktemp("lost") / "run"
    rung.train(task=ROWS, reward=pays, out=path, **SMALL)
    for again in (rung.load(path).evaluate, lambda: rung.evaluate(str(path)), lambda: rung.load(path).resume(2)):
        with pytest.raises(
            InputError, match=r"task \(?rows\)? and .*reward \(?pays\)? came from Python.*task=\.\.\., reward=\.\.\."
        ):
            again()
    assert rung.load(path).evaluate(task=ROWS, reward=pays).reward == 0.5
    with pytest.raises(InputError, match=r"^the task rows came from Python, and no file holds it"):
        rung.load(path).evaluate(reward=pays)


# -- one text, two surfaces ----------------------------------------------------------------------------------------
REFUSALS = {  # settings that are refused, and which of them the message names
    "samples_per_prompt": {"samples_per_prompt": 1}, "temperature": {"temperature": 0.0}, "top_p": {"top_p": 0.5},
    "update": {"recipe": "ppo", "prompts_per_step": 1}, "task_path": {"task": "gsm8k"}, "trainable": {"trainable": "("},
    "nothing": {"trainable": "nothing"}, "slot": {"prompt_template": "no place"}, "reward": {"reward": "nowhere"},
    "file": {"reward": "gone.py:f"}, "environment": {"environment": "nowhere"}, "device": {"device": "cuda:77"},
    "prompts": {"prompts_per_step": 10**6}, "room": {"max_new_tokens": 10**6}, "decay": {"decay_steps": 50},
    "ends": {"decay_steps": 5, "tokens": 100}, "targets": {"lora_rank": 2, "lora_targets": "nope"},
    "head": {"lora_rank": 2, "lora_targets": "lm_head"}, "path": {"task": "chained_arithmetic", "task_path": "gone"},
    "template": {"template_options": {"a": 1}}, "field": {"overrides": {"nope": 1}}, "part": {"overrides": {"kl": "Clip"}},
    "inner": {"overrides": {"kl.nope": 1}}, "plain": {"overrides": {"entropy.x": 1}},
    "column": {"verifier": "x", "task_options": {"verifier": "y"}},
    "memory": {"prompts_per_step": 5000, "max_new_tokens": 100, "samples_per_prompt": 1000, "activation_gib": 1e6},
}  # fmt: skip


def words(settings):
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        inner = {"overrides": "--recipe"}.get(name, flag)
        yield from (
            (x for k, v in value.items() for x in (f"{inner}.{k}", str(v)))
            if isinstance(value, dict)
            else (flag, str(value))
        )


@pytest.mark.parametrize("settings", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_speaks_as_one_writes(settings, capsys):
    with pytest.raises(InputError) as caught:
        rung.train(**{"steps": 3, "threads": 1, "quiet": True, **settings})
    assert main(["train", "--steps", "3", "--threads", "1", *words(settings)]) == 2
    here, shell = str(caught.value), capsys.readouterr().err
    assert not re.search(r"(?<![\w-])--[a-z]", here), here
    if re.search(r"\w=", here):
        assert "--" in shell and not re.search(r"\b[a-z]\w+=(?!\d|None)", shell), shell


def test_a_setting_is_spelled_for_its_reader():
    cases = [("eval_problems", 32), ("ignore_memory", True), ("out", ...), ("task", "FILE.jsonl"), ("trainable", "a b"),
             ("task_options.drop", True), ("recipe.kl.coef", 0.1), ("task_options.config", ...),
             ("task_path", Path("x"))]  # fmt: skip
    assert [setting(*case) for case in cases] == [
        "eval_problems=32", "ignore_memory=True", "out=...", "task='FILE.jsonl'", "trainable='a b'",
        "task_options={'drop': True}", "overrides={'kl.coef': 0.1}", "task_options={'config': ...}", "task_path='x'",
    ]  # fmt: skip
    with typed():
        assert [setting(*case) for case in cases] == [
            "--eval-problems 32", "--ignore-memory", "--out", "--task FILE.jsonl", "--trainable 'a b'",
            "--task-options.drop true", "--recipe.kl.coef 0.1", "--task-options.config", "--task-path x",
        ]  # fmt: skip
    assert setting("out") == "out=...", "and as before behind it"
    with typed():
        assert setting("chat", False) == "--no-chat" and setting("recipe.debias", False) == "--recipe.debias false"


# Rooms that only a command reaches, and flags that only a command has; everything else may be refused in Python, too.
SHELL = ("cli.py", "flags.py", "tables.py", "make.py", "scripts.py", "shell/", "experiments/", "exact/audit.py", "export/")
SHELL += ("evaluation/asking.py", "evaluation/verification.py", "evaluation/rows.py")
ONLY = {"--spec", "--json", "--compare", "--markdown", "--recipes"}
SAYS = ("InputError", "unknown", "need", "refuse")


def texts(node):
    """The texts in a call but for those of a whole command, which is for the shell."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "command":
        return []
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    return [text for child in ast.iter_child_nodes(node) for text in texts(child)]


def test_no_message_is_written_for_the_shell_alone():
    """The text of every error names settings by `setting(...)`: no flag stands in it."""
    home, found = Path(rung.__file__).parent, []
    for path in sorted(home.rglob("*.py")):
        where = path.relative_to(home).as_posix()
        if where.startswith(SHELL) or path.name in SHELL:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        for call in calls:
            if getattr(call.func, "id", "") in SAYS:
                flags = {f for text in texts(call) for f in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)} - ONLY
                found += [f"{where}:{call.lineno} {flag}" for flag in flags]
    assert not found
