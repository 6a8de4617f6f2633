"""docs/export.md: every command on it prints what stands there, and its tables are the code's."""

import difflib

from page import PAGE, blocks, executed


def test_the_page_is_what_its_commands_print(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = PAGE.read_text(encoding="utf-8")
    now = executed(written)
    differ = "\n".join(
        difflib.unified_diff(written.splitlines(), now.splitlines(), "written", "printed now", lineterm="")
    )
    assert now == written, f"run `python tests/export/page.py`\n{differ}"


def test_the_page_runs_something():
    commands = [
        line for language, body in blocks(PAGE.read_text()) if language == "console" for line in body.splitlines()
    ]
    assert sum(line.startswith("$ rung export") for line in commands) >= 4
    assert sum(line.startswith("$ rung import") for line in commands) >= 2
