"""What waits for others is asked all at once: rewards of a step, tools of a turn. What does not keeps its order, call by call."""

import asyncio
import json
import random
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import pytest

from rung.errors import InputError
from rung.evaluation.conformance import TURN, tiny
from rung.records import Rollout, SamplingLaw, Step, Task
from rung.rollout.ask import ask
from rung.rollout.conversation import Talk
from rung.rollout.draws import Draws
from rung.tasks.environments.protocol import Splits
from rung.tasks.environments.tool_class import ToolEnvironment
from rung.tasks.rewards import deadline
from rung.tasks.rewards.coroutines import settled
from rung.tasks.rewards.functions import judged
from rung.tasks.sources.mixture import Mixture, Stage

CODEC = tiny("llama").codec
LAW = SamplingLaw(max_new_tokens=8, max_turns=2)
PATIENCE = 20  # seconds until a test gives up on a meeting


class Problems:
    def __init__(self, chat=False):
        self.chat = chat

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return Task(str(i), [{"role": "user", "content": f"w{i + 5}"}] if self.chat else f"w{i + 5}", {"i": i})

    def score(self, group):
        return [{"own": 1.0} for _ in group.completions]


@dataclass
class Says:
    """Each row says its own word."""

    same_numbers = True

    def sample(self, prompts, law, draws):
        rows = list(draws.rows)
        samples = draws.each(len(prompts))
        one = [
            Rollout(tuple(prompts[n // samples]), (5 + row % 20, TURN), (0.0, 0.0), (0.0, 0.0), "stop")
            for n, row in enumerate(rows)
        ]
        return one


class Meeting:
    """Coroutines that go on only when all of them have come; `order`: in which they came."""

    def __init__(self, of):
        self.of, self.order, self.all = of, [], asyncio.Event()

    async def come(self, who):
        self.order.append(who)
        if len(self.order) >= self.of:
            self.all.set()
        await asyncio.wait_for(self.all.wait(), PATIENCE)


def scored(*rewards, problems=8, samples=2, **options):
    env = judged(
        Splits("p", Problems(), Problems()), [(f, 1.0) for f in rewards], options.pop("on_error", "stop"), **options
    ).train
    tasks = [env[i] for i in range(problems)]
    return ask(env, CODEC, Says(), LAW, tasks, Draws.whole(0, problems * samples))


# -- rewards ----------------------------------------------------------------------------------------------------------
def test_coroutines_of_a_whole_step_wait_together_and_begin_in_the_groups_order():
    meeting = Meeting(8)

    async def judge(prompts, completions, i, **more):
        await meeting.come(i[0])
        return [float(i[0])] * len(completions)

    for _ in range(5):
        meeting.__init__(8)
        rows = scored(judge)
        assert meeting.order == list(range(8)), "whichever thread is faster"
        assert [[row.reward for row in group] for group in rows] == [[float(i)] * 2 for i in range(8)]


def test_two_coroutines_wait_together_as_well_and_plain_functions_are_called_in_order_and_one_at_a_time():
    meeting, plain, inside = Meeting(16), [], threading.Lock()

    async def one(completions, i, **more):
        await meeting.come((0, i[0]))
        return [1.0] * len(completions)

    async def other(completions, i, **more):
        await meeting.come((1, i[0]))
        return [2.0] * len(completions)

    def form(completions, i, **more):
        assert inside.acquire(blocking=False), "two at a time"
        time.sleep(0.002)
        plain.append((i[0], random.random()))
        inside.release()
        return [0.0] * len(completions)

    random.seed(3)
    rows = scored(one, form, other)
    random.seed(3)
    assert plain == [(i, random.random()) for i in range(8)]
    assert meeting.order == [(k, i) for i in range(8) for k in (0, 1)]
    assert all(row.rewards == {"one": 1.0, "form": 0.0, "other": 2.0} for group in rows for row in group)


def test_a_coroutine_that_hangs_is_late_by_itself_and_is_cancelled():
    gone = []

    async def judge(completions, i, **more):
        if i[0] == 3:
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                gone.append(i[0])
                raise
        return [1.0] * len(completions)

    begun = time.monotonic()
    with pytest.warns(UserWarning, match=r"'judge' for 3 has not answered within 0.3 s"):
        rows = scored(judge, deadline=0.3, on_error="skip")
    assert [group[0].reward == 1.0 for group in rows] == [i != 3 for i in range(8)]
    settled(asyncio.sleep(0.05))
    assert gone == [3] and time.monotonic() - begun < PATIENCE / 2


def test_the_first_group_that_raises_is_named_and_what_waits_is_cancelled():
    begun, gone = [], []

    async def judge(completions, i, **more):
        begun.append(i[0])
        if i[0] in (2, 5):
            raise ValueError(f"no {i[0]}")
        try:
            await asyncio.sleep(0.2 if i[0] < 2 else PATIENCE)
        except asyncio.CancelledError:
            gone.append(i[0])
            raise
        return [1.0] * len(completions)

    with pytest.raises(InputError, match="'judge' for 2 raised ValueError: no 2"):
        scored(judge)
    settled(asyncio.sleep(0.05))
    assert set(gone) == {i for i in begun if i > 2 and i != 5}


def test_after_a_plain_function_has_raised_no_other_group_is_asked():
    asked = []

    async def judge(completions, **more):
        return [1.0] * len(completions)

    def form(completions, i, **more):
        asked.append(i[0])
        raise ValueError("no")

    with pytest.raises(InputError, match="'form' for 0 raised ValueError"):
        scored(form, judge)
    assert asked == [0]


def test_one_that_says_that_it_waits_is_asked_at_once_in_threads():
    together = threading.Barrier(8, timeout=PATIENCE)

    def judge(completions, **more):
        together.wait()
        return [1.0] * len(completions)

    judge.waits = True
    assert len(scored(judge)) == 8
    assert deadline.side_by_side([partial(int, 1), partial(int, 2)], in_order=True) == [1, 2]


def test_which_functions_wait():
    async def coroutine(completions):
        return []

    class Object:
        async def __call__(self, completions):
            return []

    def plain(completions):
        return []

    def says(completions):
        return []

    says.waits = True
    env = Problems()
    of = lambda *f: judged(Splits("p", env, env), [(x, 1.0) for x in f], "stop").train  # noqa: E731
    assert [of(f).waits for f in (coroutine, partial(coroutine), Object(), plain, says)] == ["in order"] * 3 + [
        False,
        True,
    ]
    assert [of(plain, coroutine).waits, of(coroutine, says).waits, of(plain, plain).waits] == ["in order", True, False]

    def mixed(*f):
        parts = {str(n): of(x) for n, x in enumerate(f)}
        return Mixture(parts, [Stage(dict.fromkeys(parts, Fraction(1)))], repeat=True).waits

    assert [mixed(coroutine), mixed(coroutine, says), mixed(coroutine, plain)] == ["in order", True, False]


# -- tools ------------------------------------------------------------------------------------------------------------
def talks(make, problems=4, samples=2, judge=None, text=None):
    """Conversations in which every row says `text` in its first turn and nothing that is a call in its second."""
    env = ToolEnvironment(judge or Problems(chat=True), make, judged=judge is not None)
    plain = Talk.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Talk, "text", lambda talk, codec: text if len(talk.stops) == 1 else plain(talk, codec))
        tasks = [env[i] for i in range(problems)]
        return ask(env, CODEC, Says(), LAW, tasks, Draws.whole(0, problems * samples))


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


class Base:
    number = 0

    def reset(self, i, **row):
        self.i, self.me, Base.number = i, Base.number, Base.number + 1
        return None


def heard(rows):
    return [[m["content"] for m in row.episode.messages if m["role"] == "tool"] for group in rows for row in group]


def test_tools_of_a_turn_that_are_coroutines_run_together_and_plain_ones_in_order():
    meeting, plain = Meeting(16), []

    class Shop(Base):
        async def ask(self, n: int):
            await meeting.come((self.me, n))
            return f"{self.me}.{n}"

        def look(self):
            plain.append((self.me, random.random()))
            return "seen"

    Base.number = 0
    random.seed(5)
    rows = talks(Shop, text=call("ask", n=0) + call("look") + call("ask", n=1))
    random.seed(5)
    assert meeting.order == [(me, n) for me in range(8) for n in (0, 1)]
    assert plain == [(me, random.random()) for me in range(8)]
    assert heard(rows) == [[f"{me}.0", "seen", f"{me}.1"] for me in range(8)]


def test_a_class_that_says_that_it_waits_runs_its_tools_in_threads():
    together = threading.Barrier(16, timeout=PATIENCE)

    class Shop(Base):
        waits = True

        def ask(self, n: int):
            together.wait()
            return n

        def get_reward(self):
            return 1.0

    rows = talks(Shop, text=call("ask", n=0) + call("ask", n=1))
    assert heard(rows) == [["0", "1"]] * 8 and all(row.reward == 1 for group in rows for row in group)


def test_a_tool_that_raises_is_told_by_its_name_and_no_other_result_is_lost():
    class Shop(Base):
        async def ask(self, n: int):
            await asyncio.sleep(0)
            if n == 1:
                raise LookupError("sold out")
            return n

    rows = talks(Shop, text=call("ask", n=0) + call("ask", n=1) + call("ask", n=2))
    assert heard(rows) == [["0", '{"error": "LookupError: sold out"}', "2"]] * 8
    assert all(row.episode.counters == {"calls": 3.0, "failures": 1.0} for group in rows for row in group)


def test_instances_that_pay_as_coroutines_wait_together():
    meeting = Meeting(8)

    class Shop(Base):
        async def get_reward(self):
            await meeting.come(self.me)
            return float(self.me)

    Base.number = 0
    rows = talks(Shop, text="done")
    assert meeting.order == list(range(8)) and [row.reward for group in rows for row in group] == [
        float(i) for i in range(8)
    ]


@pytest.mark.parametrize("how", ["threads", "coroutines"])
def test_sessions_of_ones_own_that_wait_are_asked_together_and_all_end_before_an_error_is_raised(how):
    together, meeting, ended, closed = threading.Barrier(8, timeout=PATIENCE), Meeting(8), [], []

    class Session:
        def __init__(self, task):
            self.task = task

        def reset(self):
            return self.task.prompt

        def close(self):
            closed.append(len(ended))

        def end(self):
            if self.task.id == "1":
                raise LookupError("torn")
            time.sleep(0.05)
            ended.append(self.task.id)
            return Step([], done=True, reward=1.0)

    class Threads(Session):
        waits = True

        def step(self, completion):
            together.wait()
            return self.end()

    class Coroutines(Session):
        async def step(self, completion):
            await meeting.come(self.task.id)
            return self.end()

    env = Problems(chat=True)
    env.session = Threads if how == "threads" else Coroutines
    with pytest.raises(InputError, match=r"step for problem '1' raised LookupError: torn"):
        ask(env, CODEC, Says(), LAW, [env[i] for i in range(4)], Draws.whole(0, 8))
    assert sorted(ended) == sorted("002233") and closed == [6] * 8, "none is closed while another one is at work"


def test_conversations_are_judged_together():
    meeting = Meeting(4)

    async def judge(completions, i, **more):
        await meeting.come(i[0])
        return [1.0] * len(completions)

    class Shop(Base):
        def look(self):
            return "seen"

    problems = judged(Splits("p", Problems(True), Problems(True)), [(judge, 1.0)], "stop").train
    assert len(talks(Shop, judge=problems, text="done")) == 4 and meeting.order == [0, 1, 2, 3]
