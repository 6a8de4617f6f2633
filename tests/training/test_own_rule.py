"""An update rule of the user's own, as one file would hold it: it trains, is planned, has a direction, a sweep, a label, a JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import rung
import rung.parts as p
from rung.errors import InputError
from rung.exact.oracle import expected_gradient, expected_step
from rung.exact.world import Condition, World, scene
from rung.experiments import ladder, runs
from rung.maths.update import Cost, Work
from rung.models import starter
from rung.network import model as models
from rung.plan.estimate import phases
from rung.plan.memory import Shape, Workload, need
from rung.plan.rehearsal import Line, Rates, Timings
from rung.recipe_io import from_dict, override, to_dict
from rung.recipes import GRPO, TRPO
from rung.records import SamplingLaw
from rung.report.charts import Charts
from rung.report.experiments import robustness
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.settings.experiments import Ladder
from rung.settings.ranges import Positive
from rung.tasks import registry
from rung.training.config import TrainConfig
from rung.training.learner import Hyper, LocalLearner

SMALL = {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 2, "eval_every": 0, "threads": 1}


@dataclass(frozen=True)
class SteepestAscent(p.UpdateRule):
    """theta <- theta + rate grad J: one plain step, without any state."""

    rate: Positive = 0.05
    step_size: ClassVar[str] = "update.rate"
    step_name: ClassVar[str] = "rate of descent"

    def run(self, work: Work) -> dict[str, float]:
        for minibatch in work.cut():
            work.gradient(minibatch)
        g = work.take()
        work.move(self.rate * g)
        return {"grad_norm": float(g.norm()), "update/steps": 1.0}

    def cost(self) -> Cost:
        return Cost(vectors=2)

    def direction(self, g: Tensor, product) -> Tensor:
        return self.rate * g


OWN = replace(GRPO, name="own", kl=p.NoKL(), update=SteepestAscent())


def weights(hf) -> Tensor:
    return torch.cat([x.detach().reshape(-1) for x in hf.parameters()])


def test_it_trains_along_the_gradient_that_the_ladder_takes(tmp_path):
    run = rung.train(OWN, out=tmp_path / "run", quiet=True, **SMALL)
    assert [row["update/steps"] for row in run.metrics if "step_time" in row] == [1.0, 1.0]
    plain = torch.cat([x.reshape(-1) for x in models.load(str(starter.path())).hf.parameters()])
    moved = weights(run.load()[0]) - plain.detach()
    assert 0 < float(moved.norm()) < 1


def collected_by(model, learner):
    env, law = registry.load("chained_arithmetic").train, SamplingLaw(max_new_tokens=16)
    return Collector(env, model.codec, TorchSampler(model), law, OWN.data, 4, 4, 0).collect(0, learner.state)


def test_one_step_of_it_is_rate_times_the_gradient():
    model = models.load(str(starter.path()))
    learner = LocalLearner(OWN, model, Hyper(max_new_tokens=16))
    assert learner.optimizer is None, "it holds what its cost says, and that is no optimizer"
    collected = collected_by(model, learner)
    work, before = learner.work(learner.assess(collected)), weights(model.hf)
    for minibatch in work.cut():
        work.gradient(minibatch)
    g = work.take()
    metrics = learner.step(collected).metrics
    assert metrics["grad_norm"] == pytest.approx(float(g.norm())) and "learning_rate" not in metrics
    torch.testing.assert_close(weights(model.hf), before + 0.05 * g)


def test_it_is_planned_and_holds_no_more_than_it_says():
    shape = Shape.of(models.load(str(starter.path())), TrainConfig())
    work = Workload(P=4, G=4, prompt=10, longest=12, answer=16, T=16, eval_rows=8)
    plain, adam = (need(shape, work, recipe, 0) for recipe in (OWN, replace(OWN, update=p.GradientSteps())))
    assert plain.held["optimizer (float32 moments, masters)"] == 0 < adam.held["optimizer (float32 moments, masters)"]
    assert plain.updating["update: vectors"] == 2 * 4 * shape.trainable
    same = Timings(prefill=Line(0, 0), decode=Line(0, 0), forward=Line(0, 1e-3), update=Line(0, 3e-3), head=Line(0, 0))
    update = {r.name: phases(shape, work, r, same, Rates(1e12, 1e12))[-1] for r in (OWN, TRPO)}
    assert update["own"].name == "update" and 0 < update["own"].seconds < update["trpo"].seconds
    with pytest.raises(NotImplementedError):
        replace(OWN, update=p.UpdateRule()).update.cost()


def test_its_expected_step_is_its_own_direction():
    world = scene(World(horizon=2, prompts=1, samples=2), Condition())
    one, step = expected_gradient(OWN, world), expected_step(OWN, world)
    torch.testing.assert_close(step.gradient, 0.05 * one.gradient)
    torch.testing.assert_close(step.target, 0.05 * one.target)
    natural = expected_step(replace(TRPO, credit=OWN.credit, name="n"), world)
    assert float((natural.target - one.target).norm()) > 0, "another rule has another direction"


def test_the_ladder_sweeps_it_over_its_own_step_size_and_the_report_names_it(monkeypatch):
    monkeypatch.setitem(rung.recipes.LADDER, "own", OWN)
    args = Ladder(rates="1e-3,2e-3", bounds="5e-2,6e-2")
    grid = ladder.grid_of(args, OWN)
    configs = [ladder.job_of(args, "own", size, 0).config.resolved() for size in grid]
    assert [c.build_recipe().update.rate for c in configs] == grid == [5e-2, 6e-2]
    assert [runs.step_size(c, c.build_recipe()) for c in configs] == grid
    sweep = [{"recipe": name, "step_size": grid, "accuracy": [0.1, 0.2]} for name in ("own", "grpo")]
    shown = str(robustness({"robustness": sweep}, Charts(), {}))
    assert "rate of descent" in shown and "learning rate" in shown


def test_it_goes_to_json_and_back_and_is_found_by_its_name():
    stored = json.loads(json.dumps(to_dict(OWN)))
    assert stored["update"] == {"part": "SteepestAscent", "rate": 0.05} and from_dict(stored) == OWN
    assert override(GRPO, {"update": "SteepestAscent", "update.rate": 0.5}).update == SteepestAscent(0.5)
    with pytest.raises(InputError, match="NaturalStep"):
        override(GRPO, {"update": "NaturalStp"})
    with pytest.raises(InputError, match="update is"):
        replace(GRPO, update=p.Clip())  # another kind of part is refused as it was


@dataclass(frozen=True)
class HeavyBall(p.UpdateRule):
    """v <- momentum v + grad J, theta <- theta + rate v: what it keeps is in work.memory."""

    rate: Positive = 0.05
    momentum: Positive = 0.9

    def run(self, work: Work) -> dict[str, float]:
        for minibatch in work.cut():
            work.gradient(minibatch)
        g = work.take()
        v = work.memory["velocity"] = self.momentum * work.memory.get("velocity", torch.zeros_like(g)) + g
        work.move(self.rate * v)
        return {"grad_norm": float(g.norm()), "update/steps": 1.0}

    def cost(self) -> Cost:
        return Cost(vectors=3)


def test_what_a_rule_keeps_goes_on_with_the_run(tmp_path):
    recipe = replace(OWN, name="rolling", update=HeavyBall())
    whole = rung.train(recipe, **{**SMALL, "steps": 3}, out=tmp_path / "whole", quiet=True)
    rung.train(recipe, **SMALL, out=tmp_path / "parts", quiet=True)
    gone_on = rung.train(recipe, resume=tmp_path / "parts", steps=3, quiet=True)
    first, second = (weights(run.load()[0]) for run in (whole, gone_on))
    assert torch.equal(first, second)
