"""One Dr. GRPO iteration of rung, timed by phase: the same work as trl_step.py, in the same JSON line.

P prompts x G sampled answers of exactly T tokens (nothing ends an answer), one reward each, ONE AdamW step on all.

    python benchmarks/rung_step.py --model PATH --steps 3
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from rung.io.environment import keep_freed_memory
from rung.kernels.device import CPU, choose
from rung.network import model as models
from rung.recipe_io import find
from rung.records import Group, SamplingLaw, Task
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.training.learner import Hyper, LocalLearner
from trl_step import DTYPES, now, peak_gb, prompts

SYSTEM = {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"}


class Problems:
    """The word problems of trl_step.py as an environment. No two rewards are equal, so that no row is skipped."""

    def __init__(self, count: int) -> None:
        self.texts = prompts(count)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> Task:
        return Task(str(i), [SYSTEM, {"role": "user", "content": self.texts[i]}])

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{"noise": sum(t * 0.6180339887 % 1 for t in c.tokens) / len(c.tokens)} for c in group.completions]


def endless(path: str, dtype: str, device: torch.device = CPU) -> models.Model:
    """A model of which nothing ends an answer."""
    model = models.load(path, dtype=getattr(torch, DTYPES[dtype]), device=device)
    model.codec = replace(model.codec, end_ids=frozenset({-1}))
    return model


def stepper(
    model: models.Model,
    problems: Problems,
    samples: int,
    tokens: int,
    clock: Callable[[], float],
    activation_gib: float = 1.25,
) -> Callable[[int], dict[str, float]]:
    """Makes the step of a number on all problems, and says how long it took by the clock: whole, and by phase."""
    recipe, law = find("dr_grpo"), SamplingLaw(max_new_tokens=tokens)
    learner = LocalLearner(recipe, model, Hyper(max_new_tokens=tokens, activation_gib=activation_gib))
    P = len(problems)
    collector = Collector(problems, model.codec, TorchSampler(model), law, recipe.data, P, samples, 0)
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        start = clock()
        yield
        seconds[name] = seconds.get(name, 0.0) + clock() - start

    def step(number: int) -> dict[str, float]:
        seconds.clear()
        start = clock()
        metrics = learner.step(collector.collect(number, learner.state)).metrics
        assert metrics["update/steps"] == 1 and metrics["active_rows"] == P * samples
        return {"total": clock() - start, **seconds}

    learner.phase = collector.phase = phase
    return step


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", required=True, help="a Hugging Face checkpoint, as `rung smollm2` makes")
    flags.add_argument("--prompts", type=int, default=4)
    flags.add_argument("--samples", type=int, default=8, help="answers per prompt")
    flags.add_argument("--tokens", type=int, default=64, help="length of every answer")
    flags.add_argument("--steps", type=int, default=1, help="timed steps, after one warm-up step")
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    flags.add_argument("--activation-gib", type=float, default=1.25)
    flags.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's default")
    flags.add_argument("--device", default="cpu", help="cpu or cuda")
    args = flags.parse_args()
    keep_freed_memory()  # as `rung train` does
    if args.threads:
        torch.set_num_threads(args.threads)

    device = choose(args.device)
    model = endless(args.model, args.dtype, device)
    clock = partial(now, device.type)
    step = stepper(model, Problems(args.prompts), args.samples, args.tokens, clock, args.activation_gib)
    rows = [step(number) for number in range(args.steps + 1)]
    timed = rows[1:]
    phases = {k: round(statistics.median(r.get(k, 0.0) for r in timed), 3) for k in ("sample", "logprob", "update")}
    result = {
        "system": "rung",
        "dtype": args.dtype,
        "prompts": args.prompts,
        "samples": args.samples,
        "tokens": args.tokens,
        "seconds": round(statistics.median(r["total"] for r in timed), 3),
        "phases": phases,
        "all_seconds": [round(r["total"], 3) for r in timed],
        "peak_gb": peak_gb(device.type),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
