"""The instrument finds the bugs that this field had: the wrong formula is named, its repaired form passes."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from rung.exact import audit_function
from rung.exact.world import World

spec = importlib.util.spec_from_file_location("history_of_bugs", Path(__file__).with_name("history.py"))
history = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = history
spec.loader.exec_module(history)
BUGS = history.BUGS
WORLD = World(vocabulary=2, horizon=3, prompts=2, samples=2)


@lru_cache
def audited(loss, advantages):
    return audit_function(loss, advantages=advantages, world=WORLD)


@pytest.mark.parametrize("bug", BUGS, ids=[b.name for b in BUGS])
def test_the_wrong_formula_is_named_and_the_repaired_one_passes(bug):
    wrong, right = (audited(f.get("loss"), f.get("advantages")) for f in (bug.wrong, bug.right))
    says = bug.says if "|" in bug.says or ".*" in bug.says else re.escape(bug.says)
    assert re.search(says, str(wrong)), str(wrong)
    assert not re.search(says, str(right)), str(right)
    assert not right.failed, str(right)
    assert right.right or bug.biased_by_design, str(right)
