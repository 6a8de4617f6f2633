"""Collecting a step: no problem twice, dynamic sampling with a cap, and what a reward that is not a number does."""

import math
from dataclasses import replace

import pytest
import torch

from rung.errors import InputError
from rung.models import starter
from rung.network import model as models
from rung.parts import Data, Overlong
from rung.records import SamplingLaw, State, Task
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler

torch.set_num_threads(1)
LAW = SamplingLaw(max_new_tokens=8)


class Dice:
    """Problems with rewards by rule: `rule(task, answers)` gives the reward of each answer."""

    def __init__(self, size, rule):
        self.size, self.rule = size, rule

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return Task(str(i), f"{i % 10}+1=")

    def score(self, group):
        return [{"r": x} for x in self.rule(int(group.task.id), len(group.completions))]


@pytest.fixture(scope="module")
def model():
    return models.load(str(starter.path()))


def collector(model, env, data=Data(), prompts=4, samples=2, **more):  # noqa: B008
    return Collector(env, model.codec, TorchSampler(model), LAW, data, prompts, samples, 0, **more)


def mixed(_, n):
    return [1.0, 0.0] * (n // 2)


def test_no_problem_comes_twice_before_all_were_seen(model):
    c = collector(model, Dice(12, mixed))
    seen = [s.task.id for step in range(3) for s in c.collect(step, State()).scored[::2]]
    assert sorted(seen, key=int) == [str(i) for i in range(12)]


def test_the_same_step_draws_the_same_answers(model):
    c = collector(model, Dice(12, mixed))
    a, b, other = (c.collect(step, State()).scored for step in (1, 1, 2))
    assert [x.rollout for x in a] == [x.rollout for x in b] != [x.rollout for x in other]


def test_dynamic_sampling_replaces_dull_problems_and_never_repeats_one(model):
    c = collector(model, Dice(12, lambda i, n: mixed(i, n) if i % 2 else [1.0] * n), Data(resample=3))
    collected = c.collect(0, State())
    ids = [s.task.id for s in collected.scored[::2]]
    assert all(int(i) % 2 for i in ids) and len(set(ids)) == 4
    assert 1 < collected.counters["sampling/rounds"] <= 4


def test_dynamic_sampling_gives_up_when_nothing_differs(model):
    collected = collector(model, Dice(6, lambda i, n: [0.0] * n), Data(resample=5)).collect(0, State())
    assert len(collected.scored) == 8, "the batch keeps its size"
    assert len({s.task.id for s in collected.scored}) == 4
    assert collected.counters["sampling/prompts_drawn"] == 6, "each problem was tried once, then it stops"


class Uneven(Dice):
    """Every third prompt is longer than the others."""

    def __getitem__(self, i):
        return Task(str(i), "1+1+1=" if i % 3 == 0 else "1+1=")


def test_a_prompt_that_is_too_long_is_passed_over_and_counted(model):
    env = Uneven(12, mixed)
    room = len(model.codec.encode("1+1=")) + LAW.max_new_tokens
    tight = replace(model, codec=replace(model.codec, context=room))
    collected = collector(tight, env, prompts=8).collect(0, State())
    assert {s.task.id for s in collected.scored} == {str(i) for i in range(12) if i % 3}
    assert 0 < collected.counters["sampling/prompts_too_long"] <= 4
    tight = replace(model, codec=replace(model.codec, context=room - 1))
    with pytest.raises(InputError, match="context holds"):
        collector(tight, env).collect(0, State())


def test_an_unknown_reward_is_no_zero(model):
    collected = collector(model, Dice(4, lambda i, n: [math.nan, 1.0])).collect(0, State())
    assert collected.batch.valid_B.tolist() == [False, True] * 4
    assert (collected.batch.reward_BT.sum(1) == torch.tensor([0.0, 1.0] * 4)).all()


def test_a_verifier_that_returns_another_number_of_rewards_is_named(model):
    with pytest.raises(InputError, match="returned 1 rewards for 2 answers"):
        collector(model, Dice(4, lambda i, n: [1.0])).collect(0, State())


def test_more_prompts_than_problems_are_refused(model):
    with pytest.raises(InputError, match="prompts_per_step=3"):
        collector(model, Dice(3, mixed))


def test_overlong_shaping_is_a_reward_of_its_own(model):
    data = Data(overlong=Overlong(buffer=1.0))
    for row in collector(model, Dice(4, mixed), data).collect(0, State()).scored:
        assert row.rewards["overlong"] == pytest.approx(-len(row.rollout.tokens) / 8)
        assert row.reward == pytest.approx(row.rewards["r"] + row.rewards["overlong"])


def test_truncated_answers_can_stay_out_of_the_loss_but_in_the_statistics(model):
    law = SamplingLaw(max_new_tokens=3)
    c = Collector(Dice(4, mixed), model.codec, TorchSampler(model), law, Data(drop_truncated=True), 4, 8, 0)
    batch = c.collect(0, State()).batch
    assert batch.truncated_B.any() and (batch.keep_B == ~batch.truncated_B).all() and batch.valid_B.all()


def test_process_rewards_lie_on_the_token_that_ends_their_step(model):
    from rung.tasks import registry

    env = registry.load("chained_arithmetic").train
    collected = Collector(
        env, model.codec, TorchSampler(model), SamplingLaw(max_new_tokens=16), Data(), 4, 4, 0, steps=True
    ).collect(0, State())
    for b, row in enumerate(collected.scored):
        ends = collected.batch.step_end_BT[b].nonzero()[:, 0].tolist()
        assert ends[-1] == len(row.rollout.tokens) - 1
        assert [row.text[t] for t in ends[:-1]] == [">"] * row.text.split("#")[0].count(">")
        assert float(collected.batch.reward_BT[b, ends[-1]]) == row.reward


def test_dynamic_sampling_leaves_the_next_steps_their_own_problems(model):
    """Two of three problems have no signal, so that a step draws up to 12 of them."""
    c = collector(model, Dice(60, lambda i, n: mixed(i, n) if i % 3 == 0 else [1.0] * n), Data(resample=3))
    drawn, before = [], c._answers

    def remember(tasks, seed):
        drawn[-1] += [task.id for task in tasks]
        return before(tasks, seed)

    c._answers = remember
    for step in range(5):
        drawn.append([])
        c.collect(step, State())
    first = [i for ids in drawn for i in ids][:60]
    assert len(drawn[0]) > 4 and len(set(first)) == len(first), "each once before any comes again"


def test_prompts_without_room_are_not_met_again_in_the_next_step(model):
    room = len(model.codec.encode("1+1=")) + LAW.max_new_tokens
    tight = replace(model, codec=replace(model.codec, context=room))
    c = collector(tight, Uneven(30, mixed), prompts=4)
    seen = [s.task.id for step in range(5) for s in c.collect(step, State()).scored[::2]]
    assert len(seen) == len(set(seen)) == 20


class Course(Dice):
    """Remembers what a curriculum is told."""

    def __init__(self, *args):
        super().__init__(*args)
        self.told = []

    def observe(self, tasks, rewards):
        self.told += rewards


@pytest.mark.parametrize("greedy", [False, True])
def test_a_curriculum_is_told_of_training_answers_alone(model, greedy):
    env = Course(12, lambda i, n: [0.25] * n if n == 1 else [1.0, math.nan])
    c = collector(model, env, Data(overlong=Overlong(buffer=1.0)), greedy=greedy)
    collected = c.collect(0, State())
    assert (collected.batch.greedy_B is not None) == greedy
    assert [group[0] for group in env.told] == [1.0] * 4, "what the task pays, of no greedy answer"
    assert all(len(group) == 2 and math.isnan(group[1]) for group in env.told)
