"""Scripts written for TRL run with their import lines exchanged, and nothing else; the others are refused in one message.

tests/compat_scripts holds 40 of them, which between them use every argument that public scripts use. A script whose docstring
says REFUSED names what its one message must name.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest

from rung.errors import InputError
from rung.evaluation.conformance import tiny

SCRIPTS = sorted((Path(__file__).parent / "compat_scripts").glob("*.py"))
QUICK = ("unsloth_style", "trl_parser", "callback_stops", "get_peft_model", "gspo", "rloo_earlier_names", "save_model",
         "refused_sampling")  # fmt: skip
MARKED = [pytest.param(p, marks=() if p.stem in QUICK else pytest.mark.slow, id=p.stem) for p in SCRIPTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    ready = tiny("llama")
    ready.hf.config.max_position_embeddings = 2048
    ready.hf.save_pretrained(path)
    ready.codec.tokenizer.save_pretrained(path)
    return str(path)


def ported(path):
    """The script with rung's imports, and the arguments that its docstring gives it."""
    text = path.read_text(encoding="utf-8")
    changed = re.sub(r"^from trl(?=[. ])", "from rung.compat", text, flags=re.MULTILINE)
    assert changed != text and "trl." not in changed.split('"""')[2]
    return compile(changed, str(path), "exec"), text.split('"""')[1]


@pytest.mark.parametrize("path", MARKED)
def test_a_script_runs_or_is_refused_in_one_message(path, model, tmp_path, monkeypatch):
    code, doc = ported(path)
    arguments = [word.replace("MODEL", model) for word in shlex.split(doc.partition("--")[1] + doc.partition("--")[2])]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL", model)
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    names = {"__name__": "__main__", "__file__": str(path)}
    if not doc.startswith("REFUSED: "):
        exec(code, names)
        assert (tmp_path / "out" / "config.toml").is_file()
        return
    with pytest.raises(InputError) as error:
        exec(code, names)
    assert all(word in str(error.value) for word in doc.removeprefix("REFUSED: ").split(", "))
    assert not list(tmp_path.iterdir()), "a start that is refused writes nothing"


def test_the_page_says_how_many_run():
    refused = sum('"""REFUSED' in path.read_text(encoding="utf-8") for path in SCRIPTS)
    page = (Path(__file__).parents[1] / "docs" / "port_from_trl.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) == 40 and f"{40 - refused} of 40" in page
