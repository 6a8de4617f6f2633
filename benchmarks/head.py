"""Steps with what all prompts begin with run once for all, and anew for each, in turns: processor seconds.

    OMP_NUM_THREADS=1 python benchmarks/head.py --dtype bf16 --prompts 8 --samples 16 --tokens 8

The problems are one-digit sums and differences (chain_sum) by the model's chat template; `--examples` puts so many worked
ones in front of each. The model defaults to SmolLM2 from the cache. Nothing ends an answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch

from render import markdown
from rung.io.environment import keep_freed_memory
from rung.kernels import attention
from rung.models import smollm2
from rung.network import model as models
from rung.recipe_io import find
from rung.records import Group, SamplingLaw, Task
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.training.learner import Hyper, LocalLearner
from trl_step import DTYPES

WAYS = {"anew for each prompt": 1 << 30, "once": attention.HEAD}


class Sums:
    """Every answer earns another reward, so that no group is skipped."""

    def __init__(self, count: int, examples: int) -> None:
        ask = "State the final answer to the following arithmetic problem: {} + {} ="
        shown = "".join(f"{ask.format(n, 7)} {n + 7}\n" for n in range(examples))
        self.texts = [shown + ask.format(i % 10, i // 10 % 10) for i in range(count)]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> Task:
        return Task(str(i), [{"role": "user", "content": self.texts[i]}])

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{"noise": sum(t * 0.6180339887 % 1 for t in c.tokens) / len(c.tokens)} for c in group.completions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: SmolLM2 from the cache")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    for name, value in (("prompts", 8), ("samples", 16), ("tokens", 8), ("examples", 0), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    keep_freed_memory()  # as `rung train` does
    path = args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model"))
    model = models.load(path, dtype=getattr(torch, DTYPES[args.dtype]))
    model.codec = replace(model.codec, end_ids=frozenset({-1}))
    problems, recipe, law = Sums(args.prompts, args.examples), find("dr_grpo"), SamplingLaw(max_new_tokens=args.tokens)
    learner = LocalLearner(recipe, model, Hyper(max_new_tokens=args.tokens))
    collector = Collector(problems, model.codec, TorchSampler(model), law, recipe.data, args.prompts, args.samples, 0)
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

    learner.phase = collector.phase = phase
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(2 * (args.rounds + 1)):
        way = list(WAYS)[number % 2]
        attention.HEAD = WAYS[way]
        seconds.clear()
        learner.step(collector.collect(number, learner.state))
        found[way].append({name: seconds[name] for name in ("sample", "update")})
    encoded = [torch.tensor(model.codec.encode(problems[i].prompt)) for i in range(args.prompts)]
    lines: list[list[object]] = [
        [way, *(f"{median(step[name] for step in steps[1:]):.2f}" for name in ("sample", "update"))]
        for way, steps in found.items()
    ]
    title = f"Prompts of {len(encoded[0])} tokens, of which all share the first {attention.common_head(encoded)}"
    print(markdown(title, ["what they share is run", "sample", "update"], lines))


if __name__ == "__main__":
    main()
