"""docs/audit_yours.md: its examples print what stands there, and its tables are those of the code."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from rung.exact.yours.signature import NAMES

PAGE = (Path(__file__).parents[3] / "docs" / "audit_yours.md").read_text(encoding="utf-8")
spec = importlib.util.spec_from_file_location("bugs_of_the_page", Path(__file__).with_name("history.py"))
history = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = history
spec.loader.exec_module(history)


def rows(heading):
    table = PAGE.split(f"\n{heading}\n")[1].split("\n|---")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in table.splitlines()[1:]]


def test_the_examples_print_what_stands_there(capsys):
    first, second = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(first, "docs/audit_yours.md", "exec", dont_inherit=True), {"__name__": __name__})
    assert capsys.readouterr().out == re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    exec(compile(second, "docs/audit_yours.md", "exec", dont_inherit=True), {"__name__": __name__})


def test_the_names_are_those_that_a_function_may_ask_for():
    want = [[f"`{n}`", what, ", ".join(f"`{a}`" for a in others)] for n, (what, others) in NAMES.items()]
    assert rows("## What a function may ask for") == want


def test_the_bugs_are_those_of_the_tests():
    found = rows("## Bugs that it finds")
    assert [(name, where) for name, where, _ in found] == [(b.name, b.where) for b in history.BUGS]
    for (_, _, says), bug in zip(found, history.BUGS, strict=True):
        pattern = bug.says if "|" in bug.says or ".*" in bug.says else re.escape(bug.says)
        assert re.fullmatch(pattern, says), says
