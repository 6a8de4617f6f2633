"""Problems drawn by what their answers earned so far, against each once an epoch, on the starter: does it pay?

    python benchmarks/by_success.py --recipe dr_grpo --size 256 --steps 60 --prompts 16 --seeds 0 1 2

    P(problem i) ~ m_i + 0.02,   m_i <- (m_i + var_i) / 2,   var_i of the rewards of a visit's answers; 0.25 of one never seen

A problem that is always or never solved has no variance and is rarely drawn. No weight undoes that, so the objective is
another one. This is no part of rung: docs/results.md says why.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import rung
from render import markdown
from rung.records import Scored, Task
from rung.rollout import collect
from rung.rollout.draws import mix
from rung.rollout.walk import Walk

FLOOR, UNSEEN = 0.02, 0.25


class BySuccess(Walk):
    """Problems by the variance of their rewards, without repeating one in a step."""

    def __init__(self, n: int, prompts: int, seed: int) -> None:
        super().__init__(n, prompts, seed)
        self.weight = torch.full((n,), UNSEEN, dtype=torch.float64)

    def problems(self, step: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix(self.seed, step, 11))
        keys = torch.rand(self.n, generator=generator, dtype=torch.float64).log() / self.weight
        yield from keys.argsort(descending=True).tolist()  # Efraimidis and Spirakis 2006: weighted, without replacement

    def saw(self, i: int, rewards: Sequence[float]) -> None:
        seen, known = statistics.pvariance(rewards), float(self.weight[i])
        self.weight[i] = seen + FLOOR if known == UNSEEN else (known + seen + FLOOR) / 2


class Told(collect.Collector):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.walk = BySuccess(len(self.env), self.prompts, self.seed)

    def _answers(self, tasks: Sequence[Task], seed: int) -> list[list[Scored]]:
        groups = super()._answers(tasks, seed)
        for task, group in zip(tasks, groups, strict=True):
            assert isinstance(self.walk, BySuccess)
            self.walk.saw(int(task.id.rpartition("-")[2]), [row.task_reward for row in group])
        return groups


def measured(args: argparse.Namespace, seed: int, collector: Any) -> list[float]:
    """(accuracy afterwards, tokens, prompts without signal, rounds of a step) of one run."""
    from rung.training import setup

    plain, setup.Collector = setup.Collector, collector  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as out:
            run = rung.train(
                args.recipe, steps=args.steps, prompts_per_step=args.prompts, samples_per_prompt=8, seed=seed, threads=1,
                eval_problems=500, task_options={"train_size": args.size}, quiet=True, save_rollouts=False,
                out=Path(out) / "run",
            )  # fmt: skip
            rows = [row for row in run.metrics if "step_time" in row]
            means = [statistics.mean(row[k] for row in rows) for k in ("frac_reward_zero_std", "sampling/rounds")]
            return [run.after.accuracy, rows[-1]["num_tokens"], *means]
    finally:
        setup.Collector = plain  # type: ignore[misc]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--recipe", default="dr_grpo")
    for name, value in (("size", 256), ("steps", 60), ("prompts", 16)):
        flags.add_argument(f"--{name}", type=int, default=value)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = flags.parse_args()
    lines: list[list[object]] = []
    for name, collector in (("once an epoch", collect.Collector), ("by success", Told)):
        for seed in args.seeds:
            after, tokens, dull, rounds = measured(args, seed, collector)
            lines.append([name, seed, f"{after:.3f}", f"{tokens:.0f}", f"{dull:.2f}", f"{rounds:.2f}"])
    print(
        markdown(
            f"{args.recipe}, {args.size} problems", ["drawn", "seed", "after", "tokens", "no signal", "rounds"], lines
        )
    )


if __name__ == "__main__":
    main()
