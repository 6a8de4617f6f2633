"""What a reward function gives back, and what an environment says, by the hundred: rewards that a run can use, or one message."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from fuzzing import DEEP, cases, dumps, ended, numbers, plain, texts, values
from hypothesis import given
from hypothesis import strategies as st

from rung.records import Completion, Group, Task
from rung.tasks.environments import tools
from rung.tasks.rewards.functions import Rewarded, functions

ODD = st.one_of(
    numbers,
    plain,
    values,
    numbers.map(lambda x: np.array(x) if isinstance(x, float) else x),
    st.floats().map(np.float32),
    st.floats().map(torch.tensor),
    st.sampled_from(
        [
            1j,
            Decimal(1),
            Decimal("sNaN"),
            Decimal("1e400"),
            Fraction(1, 3),
            b"1",
            object(),
            {1},
            float,
            lambda: 1,
            np.array([1.0]),
            np.array("x"),
            torch.ones(2),
            torch.tensor(1, dtype=torch.int64),
            np.float64("inf"),
            np.datetime64("now"),
            range(2),
        ]
    ),
)
GIVEN = st.one_of(
    st.lists(ODD, min_size=2, max_size=2),
    st.lists(ODD, max_size=4),
    ODD,
    st.lists(ODD, min_size=2, max_size=2).map(tuple),
    st.lists(st.floats(), min_size=2, max_size=2).map(np.array),
    st.lists(st.floats(), min_size=2, max_size=2).map(torch.tensor),
    st.lists(ODD, max_size=3).map(iter),
    st.dictionaries(texts, ODD, max_size=2),
    st.lists(st.dictionaries(texts, ODD, max_size=2), min_size=2, max_size=2),
)
ENDLESS = [itertools.count, lambda: (1 / 0 for _ in range(3)), lambda: iter(int, 1), lambda: itertools.repeat(1.0)]
RAISED = [
    ValueError("x"),
    KeyError(),
    RecursionError(),
    MemoryError(),
    SystemExit(3),
    OSError(28, "full"),
    StopIteration(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    AssertionError("a" * 10**6),
    Exception("\x1b[2J\ud800"),
]
TASK = Task("t:1", "1+1=", {"answer": "2", "prompt": "1+1="})
GROUP = Group(TASK, [Completion("2", (1, 2), "stop"), Completion("\ud7ff", (1,), "length")])


class One:
    name = "one"

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return TASK

    def score(self, group):
        raise AssertionError("the function judges")


@pytest.mark.parametrize("made", ENDLESS)
def test_rewards_that_never_end_or_break_off(made):
    assert ended(lambda: scored(lambda completions, **columns: made()))[1]


def scored(function, weight=1.0):
    rows = Rewarded(One(), function, weight=weight).score(GROUP)
    assert len(rows) == 2
    for row in rows:
        (value,) = row.values()
        assert type(value) is float and not math.isinf(value)
    return rows


@cases("rewards", 70)
@given(given_back=GIVEN, weight=st.sampled_from([1.0, -0.5, 1e308]))
def test_whatever_a_reward_function_gives_back(given_back, weight):
    ended(lambda: scored(lambda prompts, completions, **columns: given_back, weight))


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_whatever_a_reward_function_raises(error):
    def raising(prompts, completions, **columns):
        raise error

    assert ended(lambda: scored(raising))[1]


@cases("rewards: by name", 15)
@given(
    spec=texts | st.builds("{}:{}".format, texts | st.just("r.py"), texts) | st.builds("r.py:f*{}".format, texts),
    written=texts,
)
def test_whatever_is_named_as_a_reward(place, spec, written, monkeypatch_here):
    (place / "r.py").write_text("def f(completions, **k): return [1.0] * len(completions)\n" + "# " + repr(written))
    ended(lambda: functions(spec))


@pytest.fixture(scope="module")
def monkeypatch_here(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield


CALLS = st.builds(
    "{}<tool_call>{}</tool_call>{}".format,
    texts,
    st.one_of(
        texts,
        st.sampled_from(
            [
                "[" * DEEP,
                '{"name": "f"}',
                '{"name": "f", "arguments": {"x": ' + "9" * 6000 + "}}",
                '{"name": "f", "name": "g"}',
                '{"name": "' + "a" * 10**6 + '"}',
            ]
        ),
        values.map(dumps),
    ),
    texts,
)


@cases("calls of tools", 15)
@given(text=CALLS | texts)
def test_whatever_a_model_calls(text):
    for call in ended(lambda: tools.parse(text))[0]:
        assert call.error is not None or isinstance(call.name, str)
    ended(lambda: tools.spoken(text))
