"""Steps to be taken by one process and by several: `python cluster_steps.py RANK SIZE FOLDER` is one of several.

FOLDER/cases.pt says what to train on what; what a process found goes into FOLDER/RANK.pt.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rung.cluster.group import Group, fair, leave, meet
from rung.cluster.learner import DistributedLearner
from rung.models import starter
from rung.network import model as models
from rung.recipes import Recipe
from rung.records import SamplingLaw
from rung.rollout.collect import Collected, Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, Learner, LocalLearner

LAW = SamplingLaw(max_new_tokens=12)
# An epsilon this large keeps AdamW's step smooth in the gradient: at 1e-8 rounding decides the sign of what is nearly 0.
HYPER = Hyper(learning_rate=1e-3, epsilon=1e-4, max_new_tokens=12, clip_norm=0.5)


def lopsided(tokens: Any, rows: Tensor, size: int) -> Tensor:
    """Most rows to the first process, groups split over all."""
    return torch.where(torch.arange(len(rows)) % 5 < 3, 0, torch.arange(len(rows)) % size)


def idle(tokens: Any, rows: Tensor, size: int) -> Tensor:
    """No row to the first process, of several."""
    return (1 + torch.arange(len(rows)) % max(size - 1, 1)).clamp(max=size - 1)


OWNERS = {"fair": fair, "lopsided": lopsided, "idle": idle}


@dataclass(frozen=True)
class Case:
    recipe: Recipe
    owners: str = "fair"
    steps: int = 2
    hyper: Hyper = HYPER

    def __str__(self) -> str:
        return f"{self.recipe.name}: {self.owners}"


@dataclass(frozen=True)
class Found:
    """start, weights: all of them before and behind the steps.  metrics: of each.  Advantages and ratios of the last."""

    start: Tensor
    weights: Tensor
    metrics: list[dict[str, float]]
    adv_BT: Tensor
    ratio_BT: Tensor | None
    clip_BT: Tensor | None


def model() -> models.Model:
    torch.manual_seed(0)
    return models.load(str(starter.path()))


def collected(recipe: Recipe, steps: int, prompts: int = 4, samples: int = 4) -> list[Collected]:
    """All sampled by the weights of the start, so that the later ones are off-policy."""
    one, env = model(), registry.load("chained_arithmetic").train
    greedy, stages = "greedy" in recipe.needs, "steps" in recipe.needs
    collector = Collector(
        env, one.codec, TorchSampler(one), LAW, recipe.data, prompts, samples, 0, greedy=greedy, steps=stages
    )
    return [collector.collect(i, recipe.initial_state()) for i in range(steps)]


def flat(learner: Learner) -> Tensor:
    return torch.cat([x.detach().flatten().clone() for _, x in learner.weights()])


def train(learner: Learner, steps: list[Collected]) -> Found:
    start = flat(learner)
    results = [learner.step(x) for x in steps]
    last = results[-1]
    return Found(start, flat(learner), [x.metrics for x in results], last.adv_BT, last.ratio_BT, last.clip_BT)


def alone(case: Case, steps: list[Collected]) -> Found:
    return train(LocalLearner(case.recipe, model(), case.hyper), steps)


def together(case: Case, steps: list[Collected]) -> Found:
    return train(DistributedLearner(case.recipe, model(), case.hyper, Group(owners=OWNERS[case.owners])), steps)


def start(size: int, folder: Path, script: str = __file__) -> list[subprocess.Popen[bytes]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen([sys.executable, script, str(r), str(size), str(folder)], env=environment) for r in range(size)
    ]


def finish(processes: list[subprocess.Popen[bytes]], seconds: float = 600) -> None:
    """All of them end well, or all are ended."""
    end = time.monotonic() + seconds
    try:
        while any(p.poll() is None for p in processes):
            assert time.monotonic() < end and not any(p.poll() for p in processes), "a process failed or hangs"
            time.sleep(0.1)
    finally:
        for p in processes:
            p.kill()
    assert [p.wait() for p in processes] == [0] * len(processes)


def compared(size: int, cases: list[Case], folder: Path) -> dict[str, tuple[Found, list[Found]]]:
    """Of each case: what one process finds, and what each of several does."""
    work = [(case, collected(case.recipe, case.steps)) for case in cases]
    torch.save(work, folder / "cases.pt")
    processes = start(size, folder)
    one = [alone(case, steps) for case, steps in work]
    finish(processes)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
    return {str(case): (one[i], [part[i] for part in found]) for i, case in enumerate(cases)}


def main() -> None:
    torch.set_num_threads(1)
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    meet(rank, size, f"file://{folder / 'meeting'}", timeout=120)
    work = torch.load(folder / "cases.pt", weights_only=False)
    found = [together(case, steps) for case, steps in work]
    torch.save(found if rank == 0 else [replace(x, start=x.start[:0]) for x in found], folder / f"{rank}.pt")
    leave()


if __name__ == "__main__":
    from cluster_steps import main  # what is stored names this file's classes as the tests do

    main()
