"""One Dr. GRPO iteration of rung, timed by phase: the same work as trl_step.py, in the same JSON line.

P prompts x G sampled answers of exactly T tokens (nothing ends an answer), one reward each, ONE AdamW step on all.

    python benchmarks/rung_step.py --model PATH --steps 3
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from rung.io.environment import keep_freed_memory
from rung.network import model as models
from rung.recipe_io import find
from rung.records import Group, SamplingLaw, Task
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.training.learner import Hyper, LocalLearner
from trl_step import DTYPES, prompts

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
    args = flags.parse_args()
    keep_freed_memory()  # as `rung train` does
    if args.threads:
        torch.set_num_threads(args.threads)

    recipe = find("dr_grpo")
    model = models.load(args.model, dtype=getattr(torch, DTYPES[args.dtype]))
    model.codec = replace(model.codec, end_ids=frozenset({-1}))  # nothing ends an answer
    law = SamplingLaw(max_new_tokens=args.tokens)
    learner = LocalLearner(recipe, model, Hyper(max_new_tokens=args.tokens, activation_gib=args.activation_gib))
    sampler = TorchSampler(model)
    collector = Collector(Problems(args.prompts), model.codec, sampler, law, recipe.data, args.prompts, args.samples, 0)
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    learner.phase = collector.phase = phase
    rows = []
    for step in range(args.steps + 1):
        seconds.clear()
        start = time.perf_counter()
        collected = collector.collect(step, learner.state)
        metrics = learner.step(collected).metrics
        rows.append({"total": time.perf_counter() - start, **seconds})
        assert metrics["update/steps"] == 1 and metrics["active_rows"] == args.prompts * args.samples
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
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
