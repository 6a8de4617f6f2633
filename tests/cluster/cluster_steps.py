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

import rung
import rung.parts as p
from rung.cluster.group import Group, fair, leave, meet
from rung.cluster.learner import DistributedLearner
from rung.maths.update import Cost, Work
from rung.models import starter
from rung.network import adapter, checkpointing
from rung.network import model as models
from rung.recipes import Recipe
from rung.records import SamplingLaw
from rung.rollout.collect import Collected, Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.settings.ranges import Positive
from rung.tasks import registry
from rung.training import needs
from rung.training.learner import Hyper, Learner, LocalLearner
from rung.training.setup import train_only

LAW = SamplingLaw(max_new_tokens=12)
# An epsilon this large keeps AdamW's step smooth in the gradient: at 1e-8 rounding decides the sign of what is nearly 0.
HYPER = Hyper(learning_rate=1e-3, epsilon=1e-4, max_new_tokens=12, clip_norm=0.5)


@dataclass(frozen=True)
class Momentum(p.UpdateRule):
    """v <- 0.9 v + grad J;  theta <- theta + rate v / |v|: a user's rule, which keeps a vector from step to step."""

    rate: Positive = 0.01

    def run(self, work: Work) -> dict[str, float]:
        (whole,) = work.cut()
        work.gradient(whole)
        g = work.take()
        v = work.memory["v"] = 0.9 * work.memory["v"] + g if "v" in work.memory else g
        work.move(self.rate / float(v.norm()) * v)
        return {"grad_norm": float(g.norm()), "update/steps": 1.0, "learning_rate": float((g * v).sum())}

    def cost(self) -> Cost:
        return Cost(vectors=3)


def lopsided(tokens: Any, rows: Tensor, size: int) -> Tensor:
    """Most rows to the first process, groups split over all."""
    return torch.where(torch.arange(len(rows)) % 5 < 3, 0, torch.arange(len(rows)) % size)


def idle(tokens: Any, rows: Tensor, size: int) -> Tensor:
    """No row to the first process, of several."""
    return (1 + torch.arange(len(rows)) % max(size - 1, 1)).clamp(max=size - 1)


OWNERS = {"fair": fair, "lopsided": lopsided, "idle": idle}


@dataclass(frozen=True)
class Case:
    """kind: of model (`model`).  save, restore: folders, of a checkpoint before the last step."""

    recipe: Recipe
    owners: str = "fair"
    steps: int = 2
    kind: str = "starter"
    save: str = ""
    restore: str = ""

    def __str__(self) -> str:
        return f"{self.recipe.name}: {self.owners}" + (f", {self.kind}" if self.kind != "starter" else "")


@dataclass(frozen=True)
class Found:
    """start, weights: all of them before and behind the steps.  metrics: of each.  The others: of the last, at its tokens."""

    start: Tensor
    weights: Tensor
    metrics: list[dict[str, float]]
    adv_n: Tensor
    ratio_n: Tensor | None
    clip_n: Tensor | None


def model(kind: str = "starter") -> models.Model:
    torch.manual_seed(0)
    one = models.load(str(starter.path()), dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
    if kind == "lora":
        adapter.add(one, 4)
        for name, p in one.hf.named_parameters():
            if "lora_B" in name:  # as if it had been trained before: at zero nothing else of it has a gradient
                torch.nn.init.normal_(p, std=0.02)
    elif kind == "padded":
        one.packs = False
    elif kind == "checkpointing":
        checkpointing.enable(one)
    elif kind == "half frozen":
        train_only(one, "layers.1|lm_head")
    return one


def collected(recipe: Recipe, steps: int, prompts: int = 4, samples: int = 4) -> list[Collected]:
    """All sampled by the weights of the start, so that the later ones are off-policy."""
    one, env = model(), registry.load("chained_arithmetic").train
    more = needs.collected(recipe.needs)
    collector = Collector(env, one.codec, TorchSampler(one), LAW, recipe.data, prompts, samples, 0, **more)
    return [collector.collect(i, recipe.initial_state()) for i in range(steps)]


def flat(learner: Learner) -> Tensor:
    return torch.cat([x.detach().flatten().clone() for _, x in learner.weights()])


def train(learner: Learner, case: Case, steps: list[Collected]) -> Found:
    begin = flat(learner)
    *before, last = steps
    results = [learner.step(x) for x in before] if not case.restore else []
    if case.restore:
        learner.restore(Path(case.restore))
    if case.save:
        Path(case.save).mkdir(exist_ok=True)
        learner.save(Path(case.save))
    results.append(learner.step(last))
    said = (results[-1].adv_BT, results[-1].ratio_BT, results[-1].clip_BT)
    at_tokens = (None if x is None else x[last.batch.mask_BT] for x in said)
    return Found(begin, flat(learner), [x.metrics for x in results], *at_tokens)


def alone(case: Case, steps: list[Collected]) -> Found:
    return train(LocalLearner(case.recipe, model(case.kind), HYPER), case, steps)


def together(case: Case, steps: list[Collected]) -> Found:
    ranks = Group(owners=OWNERS[case.owners])
    return train(DistributedLearner(case.recipe, model(case.kind), HYPER, ranks), case, steps)


def start(size: int, folder: Path, script: str = __file__) -> list[subprocess.Popen[bytes]]:
    source = str(Path(rung.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    return [
        subprocess.Popen([sys.executable, script, str(r), str(size), str(folder)], env=environment) for r in range(size)
    ]


def finish(processes: list[subprocess.Popen[bytes]], seconds: float = 3000) -> None:
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


def compared(sizes: list[int], cases: list[Case], folder: Path) -> dict[str, tuple[Found, dict[int, list[Found]]]]:
    """Of each case: what one process finds, and for each size what each of so many does. One size after the other."""
    work = [(case, collected(case.recipe, case.steps)) for case in cases]
    found: dict[int, list[list[Found]]] = {}
    one: list[Found] = []
    for size in sizes:
        here = folder / f"{len(list(folder.iterdir()))}-{size}"
        here.mkdir()
        torch.save(work, here / "cases.pt")
        processes = start(size, here)
        try:
            one = one or [alone(replace(case, save="", restore=""), steps) for case, steps in work]
        finally:
            finish(processes)
        found[size] = [torch.load(here / f"{rank}.pt", weights_only=False) for rank in range(size)]
    return {
        str(case): (one[i], {size: [part[i] for part in found[size]] for size in sizes}) for i, case in enumerate(cases)
    }


def main() -> None:
    torch.set_num_threads(1)
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    meet(rank, size, f"file://{folder / 'meeting'}", timeout=600)
    work = torch.load(folder / "cases.pt", weights_only=False)
    found = [together(case, steps) for case, steps in work]
    torch.save(found if rank == 0 else [replace(x, start=x.start[:0]) for x in found], folder / f"{rank}.pt")
    leave()


if __name__ == "__main__":
    from cluster_steps import main  # what is stored names this file's classes as the tests do

    main()
