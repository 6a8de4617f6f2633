"""From sampled answers to a Batch: masks, places of rewards, validity, truncation. By hand, without a model."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rung.errors import InputError
from rung.parts import Data, Overlong
from rung.records import Rollout, SamplingLaw, Scored, State, Task
from rung.rollout.collect import Collector, differs
from rung.rollout.layout import layout
from rung.text import Codec

NAN = math.nan


class Letters(Codec):
    """A token for each letter, and answers as their numbers."""

    def encode(self, prompt):
        return [7] * len(prompt)

    def decode(self, tokens):
        return str(tokens)


CODEC = Letters(None, frozenset(), 8, context=40)


class Problems:
    """`rewards[i]`: one dict for each answer to problem i, or a rule from its tokens."""

    def __init__(self, count: int, reward: Callable) -> None:
        self.count, self.reward = count, reward

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Task:
        return Task(id=str(i), prompt="x" * (i + 1))

    def score(self, group) -> list[dict[str, float]]:
        return [self.reward(int(group.task.id), c) for c in group.completions]


class Script:
    """A sampler that plays given answers, in turn for each prompt; greedy requests get ten tokens."""

    same_numbers = True

    def __init__(self, *answers: Rollout) -> None:
        self.answers, self.seeds = answers, []

    def sample(self, prompts, law, draws) -> list[Rollout]:
        self.seeds.append(draws.seed)
        if law.temperature == 0:
            return [rollout(10, prompt=tuple(x)) for x in prompts]
        return [replace(self.answers[i], prompt=tuple(x)) for x in prompts for i in range(draws.each(len(prompts)))]

    def load(self, weights, version) -> None: ...


def rollout(n: int, stop: str = "stop", actions=None, prompt=()) -> Rollout:
    return Rollout(
        prompt, tuple(range(1, n + 1)), tuple(-0.1 * t for t in range(1, n + 1)), (0.5,) * n, stop, actions=actions
    )


ANSWERS = (rollout(2), rollout(4, "length"), rollout(3, actions=(True, False, True)), rollout(0, "abort"), rollout(1))


def collector(reward, sampler=None, prompts=2, count=2, data=Data(), **more) -> Collector:  # noqa: B008
    sampler = sampler or Script(*ANSWERS)
    law = SamplingLaw(max_new_tokens=5)
    samples = len(sampler.answers)
    return Collector(Problems(count, reward), CODEC, sampler, law, data, prompts, samples, seed=0, **more)


def by_length(i: int, completion) -> dict[str, float]:
    return {"length": float(len(completion.tokens)), "problem": 10.0 * i}


def test_layout():
    got = collector(by_length).collect(0, State(kl_coef=0.5))
    b, tokens = got.batch, got.batch.tokens
    first = int(got.scored[0].task.id)
    assert b.group_B.tolist() == tokens.group_B.tolist() == [0] * 5 + [1] * 5
    assert tokens.length_B.tolist() == [2, 4, 3, 0, 1] * 2, "observations are tokens"
    assert b.mask_BT[:5].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert tokens.tokens_BT[:5].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [1, 2, 3, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    base = 10.0 * first
    want = [[0, base + 2, 0, 0], [0, 0, 0, base + 4], [0, 0, base + 3, 0], [0, 0, 0, 0], [base + 1, 0, 0, 0]]
    assert b.reward_BT[:5].tolist() == want, "on the last action, the end token included"
    assert b.valid_B[:5].tolist() == [True, True, True, False, True], "an answer without a token is not valid"
    assert b.truncated_B[:5].tolist() == [False, True, False, False, False], "the sampler says so, not the last token"
    assert b.keep_B.all()
    torch.testing.assert_close(b.behavior_logp_BT[0], torch.tensor([-0.1, -0.2, 0.0, 0.0]))
    assert torch.equal(b.old_logp_BT, b.behavior_logp_BT)
    assert [len(x) for x in tokens.prompts] == [first + 1, 2 - first]
    assert b.greedy_B is None
    assert b.state == State(kl_coef=0.5)


def test_truncated_answers_leave_the_loss_only_if_asked():
    b = collector(by_length, data=Data(drop_truncated=True)).collect(0, State()).batch
    assert b.keep_B[:5].tolist() == [True, False, True, True, True]
    assert b.valid_B[1]


@pytest.mark.parametrize(
    ("rewards", "total", "valid", "why"),
    [
        ({"a": 1.0, "b": 0.5}, 1.5, True, "the sum"),
        ({"a": 1.0, "b": NAN}, 1.0, True, "of the known ones"),
        ({"a": NAN}, 0.0, False, "nothing is known"),
        ({"a": math.inf}, 0.0, False, "infinity is no reward"),
        ({}, 0.0, False, "nothing was said"),
    ],
)
def test_unknown_rewards(rewards, total, valid, why):
    b = collector(lambda i, c: rewards, Script(rollout(1), rollout(2))).collect(0, State()).batch
    assert b.reward_BT.sum(1).tolist() == [total] * 4, why
    assert b.valid_B.tolist() == [valid] * 4, why


def test_overlong_answers_pay_and_stay_unknown_if_they_were():
    data = Data(overlong=Overlong(buffer=0.4, factor=2.0))  # limit 5: free up to 3, half way at 4, -2 at 5
    known = collector(lambda i, c: {"a": 1.0}, Script(rollout(3), rollout(4), rollout(5, "length")), data=data).collect(
        0, State()
    )
    assert known.batch.reward_BT.sum(1)[:3].tolist() == [1.0, 0.0, -1.0]
    assert known.scored[2].rewards == {"a": 1.0, "overlong": -2.0}
    unknown = collector(lambda i, c: {"a": NAN}, Script(rollout(5), rollout(5)), data=data).collect(0, State())
    assert not unknown.batch.valid_B.any()


def test_greedy_rewards_belong_to_their_prompt():
    b = collector(by_length, greedy=True).collect(0, State()).batch
    order = [10.0 + b.reward_BT[row].sum().item() - 2 for row in (0, 5)]  # ten greedy tokens + 10 i
    assert b.greedy_B.tolist() == [order[0]] * 5 + [order[1]] * 5


def test_dull_prompts_are_replaced_as_often_as_allowed():
    def mixed_if_even(i, completion):
        return {"a": float(len(completion.tokens)) if i % 2 == 0 else 1.0}

    two = (rollout(1), rollout(2))
    for resample, rounds in ((0, 1), (3, 4)):
        sampler = Script(*two)
        got = collector(mixed_if_even, sampler, prompts=3, count=8, data=Data(resample=resample)).collect(0, State())
        assert got.counters["sampling/rounds"] <= rounds
        assert (got.counters["sampling/rounds"] > 1) == (resample > 0)
        assert len(got.scored) == 6, "the batch is full in any case"
        assert len(set(sampler.seeds)) == len(sampler.seeds), "another round draws other answers"
    assert all(int(x.task.id) % 2 == 0 for x in got.scored[:6])


def test_differs():
    rows = lambda *r: [SimpleNamespace(task_reward=x) for x in r]  # noqa: E731
    assert differs(rows(0.0, 1.0))
    assert not differs(rows(0.1 + 0.2, 0.3)) and differs(rows(1.0, 1.0 + 1e-9)) and differs(rows(0.0, 1e-300))
    assert not differs(rows(1.0, NAN))
    assert differs(rows(1.0, NAN, 2.0))
    assert not differs(rows(NAN, NAN))


def test_problems_do_not_repeat_before_all_were_seen():
    c = collector(by_length, prompts=2, count=7)
    seen = [x.task.id for step in range(3) for x in c.collect(step, State()).scored[::5]]
    assert len(set(seen)) == 6
    assert [x.task.id for x in c.collect(1, State()).scored] == [x.task.id for x in c.collect(1, State()).scored]


def test_too_few_problems_are_refused_and_too_long_prompts_counted():
    with pytest.raises(InputError, match="the task has only 2"):
        collector(by_length, prompts=3)
    collected = collector(by_length, prompts=36, count=36).collect(0, State())
    assert collected.counters["sampling/prompts_too_long"] == 1, "prompt of 36 tokens, answer of 5, context of 40"
    assert len(collected.batch.tokens.prompts) == 35, "there is no other problem to take its place"
    c = collector(by_length)
    c.env.score = lambda group: [{}]
    with pytest.raises(InputError, match="returned 1 rewards for 5 answers"):
        c.collect(0, State())


def test_a_steps_own_reward_lies_on_the_token_that_ends_it():
    row = Scored(Task("0", "x"), rollout(4), "", {}, 1.0)
    batch = layout([[row, row]], State(), ends=lambda row: [(1, 0.25)])
    assert batch.reward_BT.tolist() == [[0.0, 0.25, 0.0, 1.0]] * 2
    assert batch.step_end_BT.tolist() == [[False, True, False, True]] * 2
