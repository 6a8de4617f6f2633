"""A rule that moves weights by itself in a model of low precision: its work is that of float32, on masters that a run keeps."""

from dataclasses import dataclass, replace

import pytest
import torch

import rung.parts as p
from rung.experiments.variance import gradients
from rung.maths import products
from rung.maths.update import Cost
from rung.models import starter
from rung.network import model as models
from rung.network.float32 import Masters
from rung.recipe_io import find, override
from rung.recipes import GRPO, TRPO
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner
from rung.training.micro import Micro
from rung.training.work import Work

LAW = SamplingLaw(max_new_tokens=16)


@dataclass(frozen=True)
class SmallStep(p.UpdateRule):
    """theta <- theta + 1e-4 grad J."""

    def run(self, work):
        for minibatch in work.cut():
            work.gradient(minibatch)
        g = work.take()
        work.move(1e-4 * g)
        return {"grad_norm": float(g.norm()), "update/steps": 1.0}

    def cost(self):
        return Cost(vectors=2)


NATURAL = override(replace(TRPO, credit=p.GroupMean(), normalize=p.AsIs()), {"update.curvature_tokens": 64})
OWN = replace(GRPO, name="own", kl=p.NoKL(), update=SmallStep())
CRITIC = p.Value(p.MC(), critic=p.Critic(shared=True))
RULES = {
    "natural": NATURAL,
    "own": OWN,
    "leashed": replace(GRPO, name="leashed", correction=p.TokenTIS(), update=SmallStep()),
    "with a critic": replace(find("value_baseline"), name="with a critic", credit=CRITIC, update=SmallStep()),
}


def made(recipe, dtype=torch.bfloat16):
    """A learner of the starter in bfloat16, or of the very same numbers in float32."""
    model = models.load(str(starter.path()), dtype=torch.bfloat16)
    if dtype == torch.float32:
        model.hf.float()
    return LocalLearner(recipe, model, Hyper(max_new_tokens=16))


def answers(learner, step=0):
    env = registry.load("chained_arithmetic").train
    sampler = TorchSampler(learner.model)
    return Collector(env, learner.model.codec, sampler, LAW, learner.recipe.data, 6, 4, step).collect(0, learner.state)


def flat(tensors):
    return torch.cat([x.detach().float().flatten() for x in tensors])


@pytest.mark.parametrize("name", RULES)
def test_a_step_is_that_of_float32_bit_for_bit_and_kept_where_bfloat16_swallows_it(name):
    low, wide = made(RULES[name]), made(RULES[name], torch.float32)
    assert low.masters and wide.masters is None and low.micro.tokens == wide.micro.tokens
    before = flat(low.parameters)
    for number in range(2):  # the second begins where the first ended
        collected = answers(low, number)
        metrics, expected = (learner.step(collected).metrics for learner in (low, wide))
        assert torch.equal(flat(low.masters.weights), flat(wide.parameters))
        assert metrics["grad_norm"] == expected["grad_norm"] > 0
        assert metrics.get("kl") == expected.get("kl") and (number or metrics.get("kl", 0.0) == 0.0)
    if name == "natural":
        assert 0 < metrics["trpo/kl"] == expected["trpo/kl"] <= low.recipe.update.max_kl
    assert {x.dtype for x in low.model.hf.parameters()} == {torch.bfloat16}
    assert all(torch.equal(x, y.bfloat16()) for x, y in zip(low.parameters, low.masters.weights, strict=True))
    moved, shown = flat(low.masters.weights) != before, flat(low.parameters) != before
    assert (moved & ~shown).float().mean() > 0.3, "bfloat16 shows a part of it"


def test_a_measured_gradient_is_that_which_trains():
    low, wide = made(NATURAL), made(NATURAL, torch.float32)
    collected = [answers(low)]
    mine, theirs = (gradients(x.recipe, x.model, x.hyper, [], collected) for x in (low, wide))
    assert torch.equal(mine, theirs) and float(mine.norm()) > 0


@dataclass(frozen=True)
class BrokenOff(SmallStep):
    """Ends in the middle of the first step that is made by it, before its move or behind it."""

    moves: bool = False

    def run(self, work):
        if work.memory.pop("broken", False):
            if self.moves:
                super().run(work)
            raise KeyboardInterrupt
        return super().run(work)


@pytest.mark.parametrize("moves", [False, True])
def test_a_step_that_is_broken_off_has_changed_nothing_or_says_so(moves):
    learner, other = (made(replace(OWN, update=BrokenOff(moves=moves))) for _ in range(2))
    collected, marks = answers(learner), learner.marks()
    learner.memory["broken"] = True
    with pytest.raises(KeyboardInterrupt):
        learner.step(collected)
    assert {x.dtype for x in learner.model.hf.parameters()} == {torch.bfloat16}
    assert (learner.marks() == marks) is not moves
    if not moves:
        for one in (learner, other):
            one.step(collected)
        assert torch.equal(flat(learner.masters.weights), flat(other.masters.weights))
        assert learner.marks() != marks


def test_a_checkpoint_keeps_the_masters_and_its_size_is_known(tmp_path):
    learner, again = made(NATURAL), made(NATURAL)
    first, second = answers(learner), answers(learner, 1)
    learner.step(first)
    learner.save(tmp_path)
    assert learner.size() == pytest.approx(sum(x.stat().st_size for x in tmp_path.glob("*.safetensors")), rel=0.05)
    again.restore(tmp_path)
    for one in (learner, again):
        one.step(second)
    assert torch.equal(flat(again.masters.weights), flat(learner.masters.weights))
    assert torch.equal(flat(again.parameters), flat(learner.parameters))
    again.masters.load(None)  # of a checkpoint before there were any
    assert torch.equal(flat(again.masters.weights), flat(again.parameters))


@pytest.mark.parametrize("moves", [False, True])
def test_work_that_breaks_off_leaves_the_model_in_its_precision_and_says_whether_it_moved(moves):
    torch.manual_seed(0)
    hf = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).bfloat16()
    hf[1].requires_grad_(False)
    hf[0].weight.grad = torch.ones_like(hf[0].weight)
    masters, before = Masters(hf), [x.detach().clone() for x in hf.parameters()]
    marks = [(x.data_ptr(), x._version) for x in hf.parameters()]

    @torch.no_grad()
    def broken_off():
        with masters.at_work():
            assert {x.dtype for x in hf.parameters()} == {torch.float32} == {hf[0].weight.grad.dtype}
            for x in masters.parameters if moves else []:
                x.add_(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert {x.dtype for x in hf.parameters()} == {torch.bfloat16} == {hf[0].weight.grad.dtype}
    changed = [not torch.equal(x, y) for x, y in zip(hf.parameters(), before, strict=True)]
    marked = [a != (x.data_ptr(), x._version) for a, x in zip(marks, hf.parameters(), strict=True)]
    assert changed == marked == [moves, moves, False, False]


def test_large_layers_multiply_as_in_a_model_that_was_loaded_in_float32(monkeypatch):
    monkeypatch.setattr(products, "onednn_pays", lambda: True)
    hf = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(8, 8)).bfloat16()
    with Masters(hf).at_work():
        assert [type(layer) for layer in hf] == [products.Linear, torch.nn.Linear]


def test_a_rule_that_steps_by_adamw_moves_its_masters():
    learner = made(GRPO)
    assert learner.masters is None, "AdamW has its own"
    batch, rows = answers(learner).batch, torch.arange(24)
    work = Work(GRPO, learner.policy, batch, rows, 16, Micro(10_000), optimizer=learner.optimizer)
    before = flat(learner.parameters)
    work.move(torch.full_like(before, 1e-6))
    assert torch.equal(flat(learner.optimizer.masters), before + 1e-6)
    assert all(torch.equal(x, y.bfloat16()) for x, y in zip(work.parameters, learner.optimizer.masters, strict=True))
