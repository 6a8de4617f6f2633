"""Sampling speed at one batch size: rung's sampler and transformers' generate on the same weights, in turns.

    python benchmarks/generation.py --model PATH --batch 32 --tokens 24

Both draw exactly `--tokens` new tokens for the same prompts at temperature 1 from the full vocabulary; nothing ends an
answer. Eight answers to a prompt (fewer in a batch below 8); seconds include prefill. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from rung.kernels.device import choose
from rung.network import model as models
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung_step import endless
from trl_step import done, peak_gb, prompts


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", required=True, help="a Hugging Face checkpoint")
    flags.add_argument("--batch", type=int, required=True, help="answers at once")
    flags.add_argument("--tokens", type=int, default=24, help="new tokens of every answer")
    flags.add_argument("--samples", type=int, default=8, help="answers per prompt")
    flags.add_argument("--rounds", type=int, default=3, help="timed turns, after one that does not count")
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    flags.add_argument("--threads", type=int, default=0)
    flags.add_argument("--device", default="cpu", help="cpu or cuda")
    args = flags.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose(args.device)
    model = endless(args.model, args.dtype, device)
    samples = min(args.samples, args.batch)
    if args.batch % samples:
        raise SystemExit(f"--batch {args.batch} is not a multiple of {samples} answers per prompt")
    ours, theirs = samplers(model, args.batch // samples, samples, args.tokens)
    seconds: dict[str, list[float]] = {"rung": [], "transformers": []}
    for turn in range(args.rounds + 1):
        for name, run in (("rung", ours), ("transformers", theirs)):
            start = time.perf_counter()
            drawn = run(turn)
            done(device.type)
            if turn:
                seconds[name].append(time.perf_counter() - start)
            if drawn != args.batch * args.tokens:
                raise SystemExit(f"{name} drew {drawn} tokens, not {args.batch} x {args.tokens}")
    rates = {name: round(args.batch * args.tokens / statistics.median(s), 2) for name, s in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["rung"], seconds["transformers"], strict=True))
    print(
        json.dumps(
            {"tokens_per_s": rates, "ratio": round(ratio, 3), "seconds": seconds, "peak_gb": peak_gb(device.type)}
        )
    )


def samplers(
    model: models.Model, prompts: int, samples: int, tokens: int
) -> tuple[Callable[[int], int], Callable[[int], int]]:
    """rung's sampler and transformers' generate on the same prompts: each takes a seed and says how many tokens it drew."""
    rows = encoded(model, prompts)
    repeated = [row for row in rows for _ in range(samples)]
    width = max(map(len, repeated))
    ids = torch.tensor([[0] * (width - len(r)) + list(r) for r in repeated], device=model.device)
    seen = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in repeated], device=model.device)
    settings: Any = model.hf.generation_config
    settings.eos_token_id, settings.pad_token_id = None, 0

    def ours(seed: int) -> int:
        law = SamplingLaw(max_new_tokens=tokens)
        return sum(len(r.tokens) for r in TorchSampler(model).sample(rows, law, Draws.whole(seed, samples * prompts)))

    @torch.no_grad()
    def theirs(seed: int) -> int:
        torch.manual_seed(seed)
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": tokens}
        out: Any = model.hf.generate(input_ids=ids, attention_mask=seen, **law)
        return int((out.shape[1] - width) * out.shape[0])

    return ours, theirs


def encoded(model: models.Model, count: int) -> list[list[int]]:
    """Word problems by the chat template; for a model without one (the starter) its own task's problems."""
    if model.codec.chats:
        return [model.codec.encode([{"role": "user", "content": text}]) for text in prompts(count)]
    env = registry.load("chained_arithmetic").train
    return [model.codec.encode(env[i].prompt) for i in range(count)]


if __name__ == "__main__":
    main()
