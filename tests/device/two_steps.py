"""A recipe's first two steps on a device: the same for the stand-in, for a GPU, and on the CPU, with which they compare."""

import torch

from rung import starter
from rung.records import SamplingLaw
from rung.rollout import adapter, checkpointing
from rung.rollout import model as models
from rung.rollout.collect import Collector
from rung.rollout.sampler import TorchSampler
from rung.tasks import registry
from rung.train.learner import Hyper, Learner

CPU = torch.device("cpu")
LAW = SamplingLaw(max_new_tokens=8)
ROUNDING = {
    "sampling/logp_gap_max",
    "sampling/logp_gap_mean",
}  # of two ways to compute one number: nothing but rounding


def made(recipe, device, *, dtype=torch.float32, lora=0, checkpoint=False, packs=True, micro=150, prompts=4):
    """The starter on `device`: a learner, and a collector of small steps in several micro-batches."""
    torch.manual_seed(0)
    model = models.load(str(starter.path()), dtype=dtype, device=device)
    if not packs:
        model.packs = model.steps = False
    if lora:
        adapter.add(model, lora)
    if checkpoint:
        checkpointing.enable(model)
    learner = Learner(recipe, model, Hyper(learning_rate=1e-3, max_new_tokens=LAW.max_new_tokens))
    learner.micro_tokens = micro
    if learner.critic is not None:
        learner.critic.micro_tokens = micro
    env, greedy = registry.load("chained_arithmetic").train, "greedy" in recipe.needs
    return learner, Collector(env, model, TorchSampler(model), LAW, recipe.data, prompts, 4, 0, greedy=greedy)


def two_steps(recipe, device, **settings):
    """The metrics of both steps, and the weights after them."""
    learner, collector = made(recipe, device, **settings)
    metrics = []
    for step in range(2):
        collected = collector.collect(step, learner.state)
        metrics.append({"sampled": float(collected.sampled), **learner.step(collected).metrics})
    assert all(p.device == device for p in learner.model.hf.parameters())
    return metrics, torch.cat([p.detach().cpu().float().flatten() for p in learner.model.hf.parameters()])


def assert_same(a, b, rel=1e-3):
    """Both steps of two devices: the same numbers, up to the rounding of other batch shapes."""
    for one, two in zip(a[0], b[0], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - ROUNDING:
            x, y = one[name], two[name]
            assert x == y or abs(x - y) <= rel * abs(x) + 1e-5 or (x != x and y != y), (name, x, y)
    torch.testing.assert_close(a[1], b[1], rtol=0, atol=1e-3)
