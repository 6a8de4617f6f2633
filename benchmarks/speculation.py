"""What speculation would save in decoding: answers that were drawn are drawn again with drafts from what the run knows.

    python benchmarks/speculation.py --task gsm8k --task-path FOLDER --prompts 10 --tokens 256 --dtype bf16

A draft is what followed the longest repeated end of a row, `--shortest` to 4 tokens, in the row itself (own), in any answer to
its prompt so far (group), or also in other answers to it by the same weights (visit). Each position has a chance of its own,
so a draft is right where the model draws just that token: the answers stay what they are, token by token, and a replay counts
exactly. A step costs what a decoding step of as many rows as it has tokens costs, by the processor, behind a prompt alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from render import markdown
from rung.kernels.attention import packed_attention
from rung.kernels.packed_weights import packed_weights
from rung.models import smollm2
from rung.network import model as models
from rung.network.streams import begin, takes_short_steps
from rung.records import Rollout, SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from trl_step import DTYPES

LONGEST, LENGTHS, SAMPLES = 4, (1, 2, 4, 8), 8
SIZES = (1, 8, 16, 24, 40, 72)  # tokens of the steps that are timed; between them a straight line
ROUNDS = 20


@dataclass
class Seen:
    """What followed each few tokens when they were seen last."""

    shortest: int
    after: dict[tuple[int, ...], tuple[list[int], int]] = field(default_factory=dict)

    def say(self, row: list[int], token: int) -> None:
        for n in range(self.shortest, min(LONGEST, len(row)) + 1):
            self.after[tuple(row[-n:])] = row, len(row)
        row.append(token)

    def draft(self, row: list[int], most: int) -> list[int]:
        for n in range(LONGEST, self.shortest - 1, -1):
            if (found := self.after.get(tuple(row[-n:]))) is not None:
                return found[0][found[1] : found[1] + most]
        return []


@dataclass
class Count:
    """steps, tokens and drafts are counted row by row; seconds by the step of all rows."""

    steps: int = 0
    tokens: int = 0
    drafted: int = 0
    right: int = 0
    seconds: float = 0.0


def replay(answers: Sequence[Rollout], seen: list[Seen], most: int, cost: Callable[[int], float], into: Count) -> None:
    """The answers to one prompt again, with drafts of at most `most` tokens from what each of them has `seen`."""
    rows: list[list[int]] = [[] for _ in answers]
    for row, known, answer in zip(rows, seen, answers, strict=True):
        for token in answer.prompt:
            known.say(row, token)
    at, first = [0] * len(rows), len(answers[0].prompt)
    while alive := [i for i, answer in enumerate(answers) if at[i] < len(answer.tokens)]:
        said, fed = {}, 0
        for i in alive:
            left = answers[i].tokens[at[i] :]
            draft = seen[i].draft(rows[i], min(most, len(left) - 1)) if most else []
            right = next((n for n, (x, y) in enumerate(zip(draft, left, strict=False)) if x != y), len(draft))
            said[i], fed = left[: right + 1], fed + 1 + len(draft)
            into.drafted, into.right = into.drafted + len(draft), into.right + right
        for i, tokens in said.items():
            for token in tokens:
                seen[i].say(rows[i], token)
            at[i] = len(rows[i]) - first
        into.steps, into.tokens = into.steps + len(alive), into.tokens + sum(map(len, said.values()))
        into.seconds += cost(fed)


@torch.no_grad()
def costs(model: models.Model, prompt: tuple[int, ...]) -> Callable[[int], float]:
    """Processor seconds of a decoding step by its tokens, the least of some: other work may run beside."""
    seconds = []
    for rows in SIZES:
        head = model.hf.get_output_embeddings() if takes_short_steps(model) else model.hf
        with packed_weights(head, rows), packed_attention(model.hf):
            stream, token_B, seen = begin(model, [prompt], rows, ROUNDS), torch.randint(8, (rows,)), []
            stream.first()
            for _ in range(ROUNDS):
                start = time.process_time()
                stream.next(token_B)
                seen.append(time.process_time() - start)
        seconds.append(min(seen))
    print("tokens of a step, ms:", {n: round(1e3 * s, 1) for n, s in zip(SIZES, seconds, strict=True)}, file=sys.stderr)

    def cost(n: int) -> float:
        i = min(max(bisect(SIZES, n), 1), len(SIZES) - 1)
        share = (n - SIZES[i - 1]) / (SIZES[i] - SIZES[i - 1])
        return seconds[i - 1] + share * (seconds[i] - seconds[i - 1])

    return cost


def known(source: str, shortest: int, earlier: Sequence[Rollout]) -> list[Seen]:
    """What each answer to one prompt has seen before its first token."""
    if source == "own":
        return [Seen(shortest) for _ in range(SAMPLES)]
    every = Seen(shortest)
    for answer in earlier if source == "visit" else ():
        row: list[int] = []
        for token in (*answer.prompt, *answer.tokens):
            every.say(row, token)
    return [every] * SAMPLES


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", help="default: SmolLM2 from the cache")
    flags.add_argument("--task", default="chained_arithmetic")
    flags.add_argument("--task-path", type=Path, help="where a task's data lies that has none of its own")
    flags.add_argument("--dtype", choices=DTYPES, default="fp32")
    for name, value in (("prompts", 10), ("tokens", 256), ("shortest", 2)):
        flags.add_argument(f"--{name}", type=int, default=value)
    flags.add_argument("--temperature", type=float, default=1.0)
    args = flags.parse_args()
    name = args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model"))
    model = models.load(name, dtype=getattr(torch, DTYPES[args.dtype]))
    env = registry.load(args.task, path=args.task_path).train
    prompts = [model.codec.encode(env[i].prompt) for i in range(args.prompts)]
    law, rows = SamplingLaw(max_new_tokens=args.tokens, temperature=args.temperature), SAMPLES * len(prompts)
    earlier, drawn = (TorchSampler(model).sample(prompts, law, Draws.whole(seed, rows)) for seed in (7, 8))
    cost = costs(model, tuple(prompts[0]))
    groups = [slice(i, i + SAMPLES) for i in range(0, rows, SAMPLES)]

    def counted(source: str, most: int) -> Count:
        out = Count()
        for group in groups:
            replay(drawn[group], known(source, args.shortest, earlier[group]), most, cost, out)
        return out

    plain, lines = counted("own", 0).seconds, list[list[object]]()
    for source in ("own", "group", "visit"):
        for most in LENGTHS:
            c = counted(source, most)
            shares = [c.drafted / c.steps, c.right / max(c.drafted, 1), c.tokens / c.steps, c.seconds / plain]
            lines.append([source, most, *(f"{x:.2f}" for x in shares)])
    nats = -sum(sum(r.logp) for r in drawn) / sum(len(r.tokens) for r in drawn)
    columns = ["drafts from", "of at most", "drafted a step", "of them right", "tokens a step", "time, of that without"]
    print(markdown(f"Drafts, temperature {args.temperature:g}, {nats:.2f} nats a token, {args.dtype}", columns, lines))


if __name__ == "__main__":
    main()
