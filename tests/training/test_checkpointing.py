"""Gradient checkpointing takes the very same step, with a critic of its own weights and through TRPO's double backward."""

import pytest
import torch

from rung.models import starter
from rung.network import adapter, checkpointing
from rung.network import model as models
from rung.recipe_io import find
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner

torch.set_num_threads(1)
LAW = SamplingLaw(max_new_tokens=12)


def after_a_step(name: str, *, on: bool, lora: bool) -> tuple[torch.Tensor, dict[str, float]]:
    torch.manual_seed(0)
    model = models.load(str(starter.path()))
    if lora:
        adapter.add(model, 2)
    if on:
        checkpointing.enable(model)
    recipe = find(name)
    learner = LocalLearner(recipe, model, Hyper(learning_rate=1e-3, max_new_tokens=12))
    learner.micro.tokens = 10_000
    env = registry.load("chained_arithmetic").train
    collected = Collector(env, model.codec, TorchSampler(model), LAW, recipe.data, 3, 4, 0).collect(0, learner.state)
    metrics = learner.step(collected).metrics
    return torch.cat([p.detach().flatten() for p in learner.parameters]), metrics


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["grpo", "ppo", "trpo"])
def test_the_step_is_the_same(name, lora):
    (plain, metrics), (kept, again) = (after_a_step(name, on=on, lora=lora) for on in (False, True))
    assert metrics["update/steps"] >= 1 and metrics["update/changed"] > 0
    torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-7)
    assert again["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-4)
