"""Rewards of any size and of none: what a step of the real (tiny) model makes of them."""

from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import all_recipes, find
from rung.records import SamplingLaw, Task
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.training.learner import Hyper, LocalLearner
from rung.training.metrics import reward_metrics

LAW = SamplingLaw(max_new_tokens=8)
WHITENED = [r for r in all_recipes().values() if isinstance(r.normalize, p.Whiten)]


class Paid:
    """Sums whose answers are paid by rule: reward(text)."""

    def __init__(self, reward):
        self.reward = reward

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return Task(str(i), f"{i % 10}+{i // 10}=")

    def score(self, group):
        return [{"r": self.reward(c.text)} for c in group.completions]


def fresh(recipe, reward):
    torch.manual_seed(0)
    model = models.load(str(starter.path()))
    learner = LocalLearner(recipe, model, Hyper(learning_rate=1e-3, max_new_tokens=8))
    collector = Collector(Paid(reward), model.codec, TorchSampler(model), LAW, recipe.data, 4, 4, 0)
    return learner, collector


def weights(learner):
    return torch.cat([x.detach().flatten() for x in learner.model.hf.parameters()]).clone()


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
@pytest.mark.parametrize("recipe", WHITENED, ids=lambda r: r.name)
def test_a_constant_reward_moves_no_policy_that_whitens(recipe, constant):
    """What is left in the advantages is the critic's error, which whitening would make a step of full size."""
    recipe = replace(recipe, kl=p.NoKL()) if recipe.kl.where == "loss" else recipe  # that one may pull
    learner, collector = fresh(recipe, lambda text: constant)
    before = weights(learner)
    for step in range(3):
        metrics = learner.step(collector.collect(step, learner.state)).metrics
        assert metrics["update/skipped"] == 1 and metrics["advantage/abs_mean"] == 0
    assert (weights(learner) == before).all()
    if learner.critic is not None and constant:
        assert metrics["critic/value_mean"] != 0, "the critic learns what the policy cannot"


@pytest.mark.parametrize("recipe", WHITENED, ids=lambda r: r.name)
def test_one_answer_that_is_paid_differently_moves_it(recipe):
    paid = iter([0.0] * 3 + [1.0] + [0.0] * 100)
    learner, collector = fresh(recipe, lambda text: next(paid))
    before = weights(learner)
    learner.step(collector.collect(0, learner.state))
    assert (weights(learner) != before).any()


def test_dynamic_sampling_does_not_train_on_length_alone():
    """Every answer is right; the penalty for length differs. DAPO filters on accuracy (arXiv:2503.14476)."""
    dapo = replace(find("dapo"), data=p.Data(resample=3, overlong=p.Overlong(buffer=1.0)))
    for recipe, moves in ((dapo, False), (replace(dapo, data=replace(dapo.data, resample=0)), True)):
        learner, collector = fresh(recipe, lambda text: 1.0)
        before = weights(learner)
        collected = collector.collect(0, learner.state)
        assert len({row.reward for row in collected.scored}) > 1, "lengths differ, and so do their penalties"
        row = reward_metrics(collected, 4) | learner.step(collected).metrics
        assert row["frac_reward_zero_std"] == row["frac_all_right"] == 1 and row["reward_std"] == 0
        assert bool((weights(learner) != before).any()) == moves, "unfiltered, the penalty is part of the reward"
        assert (row["advantage/abs_mean"] > 0) == moves and row["advantage/lost"] == 0
    assert collected.counters["sampling/rounds"] == 1


@pytest.mark.parametrize("shift", [1e6, -1e8])
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "opo", "reinforce_pp_baseline", "lite_ppo"])
def test_rewards_reach_the_advantages_in_float64(name, shift):
    recipe = find(name)
    learner, collector = fresh(recipe, lambda text: shift + 0.01 * (len(text) % 4))
    collected = collector.collect(0, learner.state)
    got = learner.assess(collected).batch.adv_BT
    again, near = fresh(recipe, lambda text: 0.01 * (len(text) % 4))
    want = again.assess(near.collect(0, again.state)).batch.adv_BT
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-6) and (want != 0).any()


@pytest.mark.parametrize("name", ["grpo", "lite_ppo", "reinforce_pp"])
def test_rewards_beyond_float32_teach_and_are_no_unscored(name):
    learner, collector = fresh(find(name), lambda text: 1e39 if len(text) % 2 else 0.0)
    collected = collector.collect(0, learner.state)
    row = reward_metrics(collected, 4) | learner.step(collected).metrics
    assert row["rewards/unscored"] == 0 and row["reward"] > 1e37
    assert row["update/skipped"] == 0 and row["grad_norm"] > 0


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_is_unscored(bad):
    learner, collector = fresh(find("grpo"), lambda text: bad if len(text) % 2 else 1.0)
    collected = collector.collect(0, learner.state)
    odd = sum(len(row.text) % 2 for row in collected.scored)
    row = reward_metrics(collected, 4) | learner.step(collected).metrics
    assert row["rewards/unscored"] == odd > 0 and row["reward"] == 1.0
    assert row["frac_reward_zero_std"] == 1 and row["advantage/abs_mean"] == 0
