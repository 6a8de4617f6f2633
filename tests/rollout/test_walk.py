"""The order in which a run meets its problems: each once an epoch, none twice in a step, and resumed where it stood."""

import json
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.rollout.draws import mix
from rung.rollout.walk import Walk


def take(walk, step, count):
    return list(islice(walk.problems(step), count))


def of_old(n, prompts, seed, step):
    """The order before resampled problems were walked past: a function of the step alone."""
    epoch, inside = divmod(step * prompts, n - n % prompts)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, epoch, 7))).tolist()
    return order[inside : inside + prompts]


@pytest.mark.parametrize(("n", "prompts"), [(12, 4), (13, 4), (5, 5), (7, 2), (100, 32)])
def test_without_resampling_the_order_is_what_it_was(n, prompts):
    walk = Walk(n, prompts, seed=3)
    assert [take(walk, step, prompts) for step in range(40)] == [of_old(n, prompts, 3, step) for step in range(40)]


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 30), data=st.data())
def test_each_problem_comes_once_an_epoch_and_never_twice_in_a_step(n, data):
    prompts = data.draw(st.integers(1, n))
    walk = Walk(n, prompts, seed=data.draw(st.integers(0, 5)))
    seen = {}  # epoch -> what was drawn of it
    for step in range(20):
        drawn = []
        for i in islice(walk.problems(step), data.draw(st.integers(prompts, n))):
            drawn.append(i)
            seen.setdefault(walk.epoch, []).append(i)
        assert len(set(drawn)) == len(drawn), "none twice in a step"
    for problems in seen.values():
        assert len(set(problems)) == len(problems), "none twice in an epoch"
    for epoch in list(seen)[:-1]:
        assert len(seen[epoch]) > n - prompts, "and none left out but fewer than a step's own at its end"


def test_a_step_goes_on_after_what_the_one_before_has_drawn():
    walk = Walk(20, 4, seed=0)
    first, second = take(walk, 0, 7), take(walk, 1, 4)
    assert not set(first) & set(second)


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8])
def test_a_restored_walk_goes_on_as_if_nothing_had_happened(stop):
    whole = Walk(11, 3, seed=1)
    steps = [take(whole, step, 3 + step % 4) for step in range(12)]
    walk = Walk(11, 3, seed=1)
    for step in range(stop):
        take(walk, step, 3 + step % 4)
    again = Walk(11, 3, seed=1)
    again.load_state_dict(json.loads(json.dumps(walk.state_dict())))
    assert [take(again, step, 3 + step % 4) for step in range(stop, 12)] == steps[stop:]


def test_a_step_out_of_turn_stands_where_no_step_took_more_than_its_own():
    assert take(Walk(11, 3, seed=1), 5, 3) == of_old(11, 3, 1, 5)
