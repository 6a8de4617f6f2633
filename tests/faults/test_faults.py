"""A sample of `make faults`, and that what it compares can differ."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def harness(*words):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "COLUMNS")}
    return subprocess.run(
        [sys.executable, str(HERE / "run.py"), *map(str, words)], capture_output=True, text=True, env=env
    )


def test_a_few_faults_of_each_kind_are_survived(tmp_path):
    done = harness("--sample", 5, "--jobs", 1, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 5 and len({r["kind"] for r in found}) >= 4 and not any(r["failed"] for r in found)


@pytest.mark.slow
def test_a_run_that_goes_on_otherwise_is_seen():
    """Planted: what is written anew is one bit other than it was."""
    done = harness("--only", "kill", "--case", "plain: at", "--jobs", 1, "--plant")
    assert done.returncode == 1 and "other than undisturbed: checkpoints/step_000004/" in done.stdout, done.stdout


def test_the_page_has_every_kind_with_its_counts_and_none_that_failed():
    kinds = {line.split(": ")[0] for line in harness("--list").stdout.splitlines()}
    page = (HERE.parents[1] / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert {row[0] for row in rows} == kinds | {"all"}, "run `make faults`, which writes the table"
    assert all(int(cases) == int(passed) + int(skipped) for _, cases, passed, skipped in rows)
