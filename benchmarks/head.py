"""Steps with what all prompts begin with run once for all, and anew for each, in turns: processor seconds.

    OMP_NUM_THREADS=1 python benchmarks/head.py --dtype bf16 --prompts 8 --samples 16 --tokens 8

The problems are sums of one digit in chain_sum's words, by the model's chat template; `--examples` puts so many worked ones
in front of each. The model defaults to SmolLM2 from the cache. Nothing ends an answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import torch

from render import markdown
from rung.io.environment import keep_freed_memory
from rung.kernels import attention
from rung.models import smollm2
from rung.records import Task
from rung_step import Problems, endless, stepper
from trl_step import DTYPES

WAYS = {"anew for each prompt": 1 << 30, "once": attention.HEAD}


class Sums(Problems):
    """Sums of one digit, of which all begin alike."""

    def __init__(self, count: int, examples: int) -> None:
        ask = "State the final answer to the following arithmetic problem: {} + {} ="
        shown = "".join(f"{ask.format(n, 7)} {n + 7}\n" for n in range(examples))
        self.texts = [shown + ask.format(i % 10, i // 10 % 10) for i in range(count)]

    def __getitem__(self, i: int) -> Task:
        return Task(str(i), [{"role": "user", "content": self.texts[i]}])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: SmolLM2 from the cache")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    for name, value in (("prompts", 8), ("samples", 16), ("tokens", 8), ("examples", 0), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    keep_freed_memory()  # as `rung train` does
    path = args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model"))
    model, problems = endless(path, args.dtype), Sums(args.prompts, args.examples)
    step = stepper(model, problems, args.samples, args.tokens, time.process_time)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(2 * (args.rounds + 1)):
        way = list(WAYS)[number % 2]
        attention.HEAD = WAYS[way]
        found[way].append(step(number))
    encoded = [torch.tensor(model.codec.encode(problems[i].prompt)) for i in range(args.prompts)]
    lines: list[list[object]] = [
        [way, *(f"{median(step[name] for step in steps[1:]):.2f}" for name in ("sample", "update"))]
        for way, steps in found.items()
    ]
    title = f"Prompts of {len(encoded[0])} tokens, of which all share the first {attention.common_head(encoded)}"
    print(markdown(title, ["what they share is run", "sample", "update"], lines))


if __name__ == "__main__":
    main()
