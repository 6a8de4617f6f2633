"""An error is translated only where its cause is known: whatever else goes wrong inside a call keeps its own words."""

from __future__ import annotations

import ast
import itertools
import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.models.starter import path as starter
from rung.network import adapter
from rung.network import model as models
from rung.plan import memory
from rung.tasks.environments import named
from rung.tasks.problems import load_problems
from rung.tasks.sources import gym, hub

SOURCE = Path(__file__).parents[1] / "src" / "rung"
TRANSLATED = re.compile(r"InputError|unknown\(|TypeError")


def handlers() -> list[tuple[str, ast.ExceptHandler, ast.Raise]]:
    """Every `except` of rung that raises another error than the one it caught."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                place = f"{path.relative_to(SOURCE)}:{node.lineno}"
                found += [(place, node, x) for x in ast.walk(node) if isinstance(x, ast.Raise) and x.exc is not None]
    return found


def test_every_translation_keeps_its_cause_and_says_its_words():
    """`raise ... from error`, and the message holds what was caught, unless what was caught says all by its kind."""
    assert len(handlers()) > 20
    for place, handler, raised in handlers():
        assert handler.name, f"{place} names no error"
        assert isinstance(raised.cause, ast.Name) and raised.cause.id == handler.name, f"{place} hides its cause"
        caught = ast.unparse(handler.type) if handler.type else "everything"
        uses = [n for n in ast.walk(handler) if isinstance(n, ast.Name) and n.id == handler.name]
        telling = caught in ("BlockingIOError", "FileNotFoundError")
        telling |= any(
            isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(handler)
        )  # a check of its own decides
        assert len(uses) > 1 or telling or _one_conversion(place), f"{place} catches {caught} and says nothing of it"


def test_the_words_of_another_library_stand_for_themselves():
    """`{error}` is a sentence or the end of one: "No package metadata was found for x is not installed" says nothing."""
    found, seen = [], 0
    for path in sorted(SOURCE.rglob("*.py")):
        caught = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ExceptHandler) and n.name]
        texts = [(n, x) for n in caught for x in ast.walk(n) if isinstance(x, ast.JoinedStr)]
        for handler, text in texts:
            for said, after in itertools.pairwise(text.values):
                theirs = isinstance(said, ast.FormattedValue) and ast.unparse(said.value) == handler.name
                seen += theirs
                if theirs and isinstance(after, ast.Constant) and re.match(r"\s*[a-z]", str(after.value)):
                    found.append(f"{path.name}:{text.lineno} goes on with {str(after.value)[:30]!r}")
    assert seen > 20 and not found


def _one_conversion(place: str) -> bool:
    """Whether the `try` holds nothing but one conversion of the user's text, which can fail in one way."""
    file, _, line = place.rpartition(":")
    tree = ast.parse((SOURCE / file).read_text())
    tries = [n for n in ast.walk(tree) if isinstance(n, ast.Try) and any(h.lineno == int(line) for h in n.handlers)]
    calls = [n for n in ast.walk(tries[0].body[0]) if isinstance(n, ast.Call)]
    known = {"float", "int", "json.loads", "rows.append", "Fraction", "re.compile", "torch.device"}
    return len(tries[0].body) == 1 and {ast.unparse(c.func) for c in calls} <= known


# -- errors of other people's code, raised where we call it ---------------------------------------------------------
FOREIGN = [
    ValueError("a bug of theirs"),
    AttributeError("'NoneType' object has no attribute 'bug'"),
    TypeError("unsupported operand"),
    OSError(28, "No space left on device"),
    ImportError("cannot import name 'x' from 'y'", name="y"),
    RuntimeError("shape mismatch"),
]


def failing(error):
    def call(*args, **options):
        raise error

    return call


@pytest.mark.parametrize("error", FOREIGN, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", ["tokenizer", "config", "model", "plan", "adapter", "hub", "environment", "task"])
def test_what_we_do_not_know_is_raised_as_it_is(where, error, monkeypatch, tmp_path):
    call = {
        "tokenizer": lambda: models.load(str(starter())),
        "model": lambda: models.load(str(starter())),
        "config": lambda: memory.sketch(str(starter()), "float32"),
        "plan": lambda: memory.sketch(str(starter()), "float32"),
        "adapter": lambda: adapter.add(TINY, 2, targets="q_proj"),
        "hub": lambda: hub.read(Path("hf:someone/something")),
        "environment": lambda: load_problems(None, environment=f"{tmp_path / 'env.py'}:make"),
        "task": lambda: gym.splits("leg_counting", {}),
    }[where]
    import datasets
    import reasoning_gym

    fail = failing(error)
    monkeypatch.setattr(*{
        "tokenizer": (AutoTokenizer, "from_pretrained", fail),
        "model": (AutoModelForCausalLM, "from_pretrained", fail),
        "config": (AutoConfig, "from_pretrained", fail),
        "plan": (AutoModelForCausalLM, "from_config", fail),
        "adapter": (type(TINY.hf), "add_adapter", fail),
        "hub": (datasets, "load_dataset", fail),
        "environment": (named.python_file, "load_object", lambda *_: lambda: fail()),
        "task": (reasoning_gym, "create_dataset", fail),
    }[where])  # fmt: skip
    with pytest.raises(type(error)) as found:
        call()
    assert found.value is error


TINY = tiny("llama")


def test_targets_that_fit_no_layer_are_named_and_the_layers_with_them():
    with pytest.raises(InputError, match=r"nothing, self_attn fits no layer.*: down_proj, .*v_proj\.") as found:
        adapter.add(tiny("llama"), 2, targets="nothing,self_attn")
    assert isinstance(found.value.__cause__, ValueError) and "lm_head" not in str(found.value)


def test_versions_of_peft_that_do_not_fit_say_so(monkeypatch):
    """transformers 5.24 wanted a peft that was not released; the message was that no layer fits --lora-targets."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "99.0")
    with pytest.raises(InputError, match=r">= 99\.0.* \(transformers 5\.\S+, peft 0\.\S+\).*pip install.*peft"):
        adapter.add(tiny("llama"), 2)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ValueError("BuilderConfig 'x' not found. Available: ['main',\n 'socratic']"),
            r"'socratic'\] .*task_options=.'config'",
        ),
        (ConnectionError("Couldn't reach 'someone/something' on the Hub"), "Check its name; without network"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "x.py Save it on disk"),
    ],
)
def test_what_datasets_says_of_a_dataset_comes_with_what_to_do(error, message, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", failing(error))
    with pytest.raises(InputError, match=message) as found:
        hub.read(Path("hf:someone/something"))
    assert found.value.__cause__ is error


def test_options_of_an_environment_are_checked_before_it_is_made(tmp_path):
    (tmp_path / "env.py").write_text(
        "def make(size): return len(size)\nclass E:\n def reset(self): ...\n def step(self): ...\n"
    )
    load = lambda name, **options: load_problems(None, environment=f"{tmp_path / 'env.py'}:{name}", options=options)  # noqa: E731
    with pytest.raises(InputError, match=r"missing a required argument: 'size'.*task_options="):
        load("make")
    with pytest.raises(InputError, match=r"unexpected keyword argument 'size'.*task_options="):
        load("E", size=1)
    with pytest.raises(TypeError, match="has no len"):
        load("make", size=1)


def test_options_that_only_fail_in_the_making_are_named():
    with pytest.raises(InputError, match="refuses the options"):
        gym.splits("chain_sum", {"min_terms": 5, "max_terms": 2})


def test_a_model_is_refused_in_the_librarys_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(starter(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "none_such"}')
    for load in (models.load, lambda name: memory.sketch(name, "float32")):
        with pytest.raises(InputError, match="none_such"):
            load(str(tmp_path))
        with pytest.raises(InputError, match="a hub id that this machine can reach"):
            load("someone/something-that-is-not-there")
