"""What an actor is told: which model to build, on which settings, as the driver's own would be built."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from rung import __version__
from rung.errors import InputError
from rung.network.model import Model
from rung.recipes import Recipe
from rung.rollout.samplers import SAMPLERS, USUAL
from rung.settings.paths import path_of
from rung.training.config import TrainConfig
from rung.training.setup import load_weights, ready


@dataclass(frozen=True)
class Order:
    """config, recipe: settled.  where: the directory or hub id of the weights.  longest: tokens of a row, where that matters.
    threads: of the CPU, for each process.  versions: of the process that was started."""

    config: TrainConfig
    recipe: Recipe
    where: str
    longest: int
    threads: int
    versions: Mapping[str, str]

    def refuse_others(self, sampler: str = USUAL) -> None:
        """Raises: InputError: this process runs other versions than the one that was started. sampler: what it draws with."""
        for name, own in versions(sampler).items():
            if own != self.versions[name]:
                raise InputError(
                    f"{name} is {self.versions[name]} where the run was started and {own} on {socket.gethostname()}, a machine of "
                    "its cluster. Install the same everywhere."
                )

    def model(self) -> Model:
        """The model as it is before the first step, every random number of it drawn as in one process."""
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.config.seed)
        model = load_weights(self.where, self.config, self.config.device)
        ready(model, self.config, self.config)
        if self.longest:
            model.reach(self.longest)
        return model


def ordered(config: TrainConfig, recipe: Recipe, where: str, longest: int, threads: int) -> Order:
    """Paths made whole: an actor has another working directory."""
    whole = str(path_of(where).resolve()) if path_of(where).exists() else where
    return Order(replace(config, out=None), recipe, whole, longest, threads, versions(config.sampler))


def versions(sampler: str = USUAL) -> dict[str, str]:
    """What must be the same in every process of a run that draws with this sampler."""
    return {"rung": __version__, "torch": torch.__version__.partition("+")[0], **SAMPLERS[sampler].engine()}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
