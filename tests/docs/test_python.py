"""The notebook of the first hour and the page on Python run from top to bottom, and show what they say."""

import ast
import inspect
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import rung

ROOT = Path(__file__).parents[2]
NOTEBOOK, PAGE = ROOT / "examples" / "first_hour.ipynb", ROOT / "docs" / "python.md"


def executed(folder):
    """One output text a cell of code, HTML where there is any."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [said(cell) for cell in notebook.cells if cell.cell_type == "code"]


def said(cell):
    out = []
    for output in cell.outputs:
        data = output.get("data", {})
        out.append(output.get("text") or data.get("text/html") or data.get("text/plain") or "")
    return "\n".join(out)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands_and_both_models_learn(folder):
    cells = executed(folder)
    assert "<svg" in cells[1] and "better" in cells[1]
    before, now = (re.findall(rf"^{name} +(\S+)$", cells[2], re.MULTILINE) for name in ("before", "now"))
    assert len(before) == len(now) == 3 and "8>6#6" in now
    accuracy = [float(x) for x in re.findall(r"accuracy (\d\.\d+)", cells[7])]
    assert len(accuracy) == 3 and accuracy[0] < 0.5 < accuracy[1] and accuracy[0] < 0.5 < accuracy[2]


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    """Without a kernel, in seconds: the last value of each cell shows itself as a notebook would ask it to."""
    monkeypatch.chdir(tmp_path)
    scope, shown = {}, []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            value = value_of(re.sub(r"^STEPS = \d+", "STEPS = 3", cell.source, flags=re.MULTILINE), scope)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    assert "<svg" in shown[1] and "<script" not in shown[1]
    assert shown[2].startswith("4*7-2=\nbefore ") and shown[4].count("<tr>") == 1 + 5
    printed = capsys.readouterr().out
    assert printed.count("held-out reward") >= 2 and len(re.findall("(accuracy|mean reward) 0", printed)) >= 3
    assert "LlamaForCausalLM" in printed and "report.html" in printed


def value_of(source, scope):
    """Run the source in the scope; what its last line is worth, if that is an expression."""
    tree = ast.parse(source)
    if isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
    scope["_"] = None
    exec(compile(ast.fix_missing_locations(tree), "example", "exec"), scope)
    return scope["_"]


def plain(text):
    """Without what depends on the machine: numbers, and what an untrained model says."""
    text = re.sub(r"'[\d>#<]*'", "'...'", re.sub(r"(before|now)( +)\S+", r"\1\2...", text))
    return re.sub(r"[-+]?\d+(\.\d+)?", "0", text).strip()


def test_the_page_does_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    scope = {"__name__": "page"}
    for (kind, source), (following, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "text":
            continue
        value = value_of(source, scope)
        printed = capsys.readouterr().out + ("" if value is None else repr(value))
        if following == "text":
            assert plain(printed) == plain(shown), source
    assert len(blocks) > 20 and list(tmp_path.iterdir()) == [tmp_path / "runs"]


def test_the_page_names_everything_that_can_be_called():
    text = PAGE.read_text(encoding="utf-8")
    run = [name for name in vars(rung.Run) if not name.startswith("_") and name != "open"]
    assert len(run) > 12
    for name in [*(f"rung.{x}" for x in rung.__all__), *(f"run.{x}" for x in run)]:
        assert name in text, f"{name} is not on the page"
    for name in list(inspect.signature(rung.train).parameters)[:8]:
        assert f"**{name}**" in text or name == "tokenizer", name
