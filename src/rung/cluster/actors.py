"""What runs in the other processes: one that draws answers, and one that learns, alone or as one of several.

Plain classes, of which Ray makes actors (engine.py). Every call may be made again: what it does depends on its arguments alone.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rung.cluster.order import Order
from rung.cluster.weights import Packed, pack, put, repeated
from rung.errors import InputError, setting
from rung.kernels.device import choose
from rung.maths.assess import Assessed
from rung.network.model import Model
from rung.records import Batch, Rollout, SamplingLaw, State, StepResult
from rung.rollout.collect import Collected
from rung.rollout.draws import Draws
from rung.rollout.sampler import Sampler
from rung.rollout.samplers import make_sampler
from rung.training.learner import LocalLearner
from rung.training.setup import hyper

Box = Sequence[Any]  # one reference to packed weights in Ray's store: inside a list it is not read before it is wanted


class SamplerActor:
    """A whole model that draws answers. It begins with the weights of version 0, also when it begins again.

    Built by the first call, whose error is one of ours and not of an actor that could not be made. alone: nobody learns on its GPU.
    """

    def __init__(self, order: Order, alone: bool = False) -> None:
        self.order, self.alone, self.version = order, alone, 0

    @cached_property
    def model(self) -> Model:
        self.order.refuse_others(self.order.config.sampler)
        return self.order.model()

    @cached_property
    def sampler(self) -> Sampler:
        return make_sampler(self.model, self.order.config.sampler, alone=self.alone)

    def same_numbers(self) -> bool:
        """Whether it has the trainer's numbers, once it is ready."""
        return self.sampler.same_numbers

    def load(self, version: int, box: Box) -> None:
        """The weights of this version, if it has others."""
        if version == self.version:
            return
        import ray

        state = self.model.hf.state_dict()
        put(ray.get(box[0]), state)
        self.sampler.load(state.items(), version)
        self.version = version

    def generate(
        self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws, version: int, box: Box
    ) -> list[Rollout]:
        """Answers by the weights of this version, and of no other: an actor that began again has forgotten them."""
        self.load(version, box)
        return self.sampler.sample(prompts, law, draws)


class LearnerActor:
    """One process of those that learn. All are asked the same in the same order; the first one's answer counts."""

    def __init__(self, order: Order, rank: int, size: int) -> None:
        self.order, self.rank, self.of = order, rank, size

    def address(self) -> str:
        """Where the processes may meet: this machine, at a port that is free."""
        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((host, 0))
            return f"tcp://{host}:{free.getsockname()[1]}"

    def begin(self, where: str) -> None:
        """Build the learner."""
        self.order.refuse_others()
        config, recipe = self.order.config, self.order.recipe
        if self.of > 1:
            from rung.cluster.group import Group, meet
            from rung.cluster.learner import DistributedLearner

            meet(self.rank, self.of, where, choose(config.device))
        model = self.order.model()
        self.tied = repeated(model.hf)
        self.learner: LocalLearner
        if self.of > 1:
            self.learner = DistributedLearner(recipe, model, hyper(config), ranks=Group(choose(config.device)))
        else:
            self.learner = LocalLearner(recipe, model, hyper(config))

    def step(self, batch: Batch) -> tuple[StepResult, State, int] | None:
        """Result, what the recipe remembers, the version."""
        result = self.learner.step(_answers(batch))
        return (result, self.learner.state, self.learner.version) if self.rank == 0 else None

    def assess(self, batch: Batch) -> Assessed | None:
        assessed = self.learner.assess(_answers(batch))
        return assessed if self.rank == 0 else None

    def weights(self) -> list[Packed]:
        packed = pack((name, weight) for name, weight in self.learner.weights() if name not in self.tied)
        return packed if self.rank == 0 else []

    def save(self, directory: Path) -> None:
        if not directory.is_dir():
            raise InputError(
                f"{directory} is not there on {socket.gethostname()}, where a learner would write its checkpoint. Put the run's "
                f"folder ({setting('out')}) on a file system that all machines share under one path."
            )
        self.learner.save(directory)

    def size(self) -> int:
        return self.learner.size()

    def restore(self, directory: Path) -> tuple[State, int]:
        self.learner.restore(directory)
        return self.learner.state, self.learner.version


def _answers(batch: Batch) -> Collected:
    """What a learner reads of a step's answers."""
    return Collected([], batch, 0)
