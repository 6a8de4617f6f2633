"""Several processes take the step of one: weights, advantages, metrics, for every kind of recipe and any split of the rows."""

from __future__ import annotations

import math

import pytest
import torch
from cluster_steps import Case, compared

from rung.recipe_io import find

torch.set_num_threads(1)
QUICK = [Case(find("reinforce_pp"), "lopsided"), Case(find("a2c"), "fair"), Case(find("ppo"), "idle")]
NAMES = [str(case) for case in QUICK]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return compared(2, QUICK, tmp_path_factory.mktemp("ranks"))


def same(one, others):
    """Every process holds what one process would, within the rounding of float32."""
    moved = (one.weights - one.start).norm()
    for found in others:
        assert torch.equal(found.weights, others[0].weights), "all processes are one model bit for bit"
        assert float((found.weights - one.weights).norm()) <= 3e-5 * float(moved)
        torch.testing.assert_close(found.adv_BT, one.adv_BT, rtol=1e-3, atol=1e-5)
        for mine, theirs in ((one.ratio_BT, found.ratio_BT), (one.clip_BT, found.clip_BT)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-4, equal_nan=True)
        for mine, theirs in zip(one.metrics, found.metrics, strict=True):
            assert mine.keys() == theirs.keys()
            far = {k: (mine[k], theirs[k]) for k in mine if not near(mine[k], theirs[k])}
            assert not far


def near(x, y):
    return math.isclose(x, y, rel_tol=2e-3, abs_tol=1e-4) or (x != x and y != y)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_take_the_step_of_one(quick, name):
    one, both = quick[name]
    assert float((one.weights - one.start).norm()) > 1e-3
    same(one, both)
