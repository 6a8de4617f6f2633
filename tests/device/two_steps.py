"""A recipe's first two steps on a device: the same for the stand-in, for a GPU, and on the CPU, with which they compare."""

import torch

from rung.models import starter
from rung.network import adapter, checkpointing
from rung.network import model as models
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner

CPU = torch.device("cpu")
LAW = SamplingLaw(max_new_tokens=8)
FAR = ("sampled", "grad_norm", "update/steps", "update/changed", "loss_tokens")  # what is compared after a step of Adam


def made(
    recipe,
    device,
    *,
    dtype=torch.float32,
    lora=0,
    checkpoint=False,
    packs=True,
    micro=150,
    prompts=4,
    samples=4,
    law=LAW,
):
    """The starter on `device`: a learner, and a collector of small steps in several micro-batches."""
    torch.manual_seed(0)
    model = models.load(str(starter.path()), dtype=dtype, device=device)
    if not packs:
        model.packs = model.short_steps = False
        model.decodes = "cache"
    if lora:
        adapter.add(model, lora)
    if checkpoint:
        checkpointing.enable(model)
    learner = LocalLearner(recipe, model, Hyper(learning_rate=1e-3, max_new_tokens=law.max_new_tokens))
    learner.micro.tokens = micro
    if learner.critic is not None:
        learner.critic.micro.tokens = micro
    env, greedy = registry.load("chained_arithmetic").train, "greedy" in recipe.needs
    return learner, Collector(
        env, model.codec, TorchSampler(model), law, recipe.data, prompts, samples, 0, greedy=greedy
    )


def two_steps(recipe, device, **settings):
    """The metrics of both steps, and the weights before and after them."""
    learner, collector = made(recipe, device, **settings)
    metrics, before = [], weights(learner)
    for step in range(2):
        collected = collector.collect(step, learner.state)
        metrics.append({"sampled": float(collected.sampled), **learner.step(collected).metrics})
    assert all(p.device == device for p in learner.model.hf.parameters())
    return metrics, before, weights(learner)


def weights(learner):
    return torch.cat([p.detach().cpu().float().flatten() for p in learner.model.hf.parameters()])


def assert_same(host, here, half=False):
    """The same first step, up to rounding; a second one as near as Adam leaves it, which makes steps of rounding errors.

    half: computed in bfloat16, whose rounding shows.
    """
    for step, (one, two) in enumerate(zip(host[0], here[0], strict=True)):
        assert one.keys() == two.keys()
        for name in one.keys() if step == 0 and not half else FAR:
            x, y, rel = one[name], two[name], 1e-3
            if step or half:
                rel = 0.2 if step and half else 0.05
            elif name.startswith("critic/"):  # over a pass of several of Adam's steps
                rel = 0.1
            elif name.startswith("sampling/"):  # two ways to compute one number: nothing but rounding
                rel = 1e3
            assert x == y or abs(x - y) <= rel * abs(x) + 1e-5 or (x != x and y != y), (step, name, x, y)
    (_, start, end), (_, _, other) = host, here
    share = 0.5 if half else 0.1  # a weight of bfloat16 moves by steps as large as its move
    assert (end - other).abs().mean() <= share * (end - start).abs().mean()
