"""Every mutant still has its place: a line that was rewritten takes its mutants with it (`make mutants` runs them)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("planted", HERE / "mutants.py")
planted = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted)
SOURCE = HERE.parents[1] / "src" / "rung"


@pytest.mark.parametrize("mutant", planted.MUTANTS, ids=lambda m: f"{m.file}: {m.why}")
def test_a_mutants_line_stands_once_in_its_file(mutant):
    assert (SOURCE / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old


def test_who_must_catch_a_mutant_exists():
    root = HERE.parents[1]
    wanted = {pattern for tests in planted.TESTS.values() for pattern in tests} | {
        x for y in planted.KINDS.values() for x in y
    }
    assert [pattern for pattern in sorted(wanted) if not list(root.glob(pattern))] == []
    for mutant in planted.MUTANTS:
        assert planted.rounds(mutant.file)
