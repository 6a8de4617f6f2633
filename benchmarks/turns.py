"""Conversations with and without keys kept between turns: tokens read, and processor seconds of sampling, in turns.

    python benchmarks/turns.py --model MODEL --turns 5 --prompts 4 --samples 8 --words 40

The model defaults to SmolLM2 from the cache. Each turn says `--tokens` tokens and is told about `--words` more.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from render import markdown
from rung.models import smollm2
from rung.network import model as models
from rung.records import Rollout, SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.sampler import Sampler, keeping
from rung.rollout.torch_sampler import TorchSampler


@dataclass
class Anew:
    """A sampler that keeps nothing."""

    inner: Sampler

    def sample(self, prompts: list[list[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        return self.inner.sample(prompts, law, draws)


def converse(sampler: Sampler, args: argparse.Namespace, seed: int) -> tuple[float, int, int]:
    """(processor seconds, tokens read ahead of turns, tokens of the conversations at their end)."""
    generator = torch.Generator().manual_seed(seed)
    words = lambda n: torch.randint(args.vocabulary // 2, args.vocabulary, (n,), generator=generator).tolist()  # noqa: E731
    first, draws = [words(args.words) for _ in range(args.prompts)], Draws.whole(seed, args.prompts * args.samples)
    law, read, start = SamplingLaw(max_new_tokens=args.tokens), 0, time.process_time()
    with keeping(sampler) as keeper:
        for turn in range(args.turns):
            said = keeper.sample(first, law, draws.turn(turn))
            read += sum(r.read or 0 for r in said)
            first = [[*r.prompt, *r.tokens, *words(args.words)] for r in said]
    return time.process_time() - start, read, sum(len(r.prompt) + len(r.tokens) for r in said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: SmolLM2 from the cache")
    for name, value in (("turns", 5), ("prompts", 4), ("samples", 8), ("words", 40), ("tokens", 16), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    model = models.load(args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model")))
    model.codec = replace(model.codec, end_ids=frozenset({-1}))
    args.vocabulary = len(model.hf.get_input_embeddings().weight)
    kept = TorchSampler(model)
    ways: dict[str, Sampler] = {"kept": kept, "read anew": Anew(kept)}  # type: ignore[dict-item]
    found = [{name: converse(way, args, seed) for name, way in ways.items()} for seed in range(args.rounds)]
    lines: list[list[object]] = []
    for name in ways:
        _, read, whole = found[0][name]
        lines.append([name, read, f"{read / whole:.2f}", f"{median(each[name][0] for each in found):.2f}"])
    print(markdown("Turns", ["keys between turns", "tokens read", "of the final length", "processor seconds"], lines))


if __name__ == "__main__":
    main()
