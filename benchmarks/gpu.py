"""Sampling and whole steps on a GPU, on models of known shapes with random weights, in bfloat16.

    python benchmarks/gpu.py --tokenizer PATH                             # any checkpoint's directory: its tokenizer is taken
    python benchmarks/gpu.py --tokenizer PATH --shapes qwen3-1.7b --cells 8x8x512

Sampling in turns: with a graph (replay.py), told token by token, and by transformers' generate. A step is that of rung_step.py;
TRL's side of it, on the checkpoint that is left in --out:

    python benchmarks/trl_step.py --device cuda --dtype bf16 --model OUT/SHAPE --prompts 4 --samples 8 --tokens 64 --steps 3

Prints a line of JSON for each measurement. `--device cpu` runs it without a GPU, which says nothing about one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from generation import encoded
from random_model import SHAPES, save
from rung.kernels.device import choose, title
from rung.network.model import Model
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.training.config import TrainConfig
from rung.training.micro import kept_gib
from rung_step import Problems, endless, stepper
from trl_step import done

SAMPLES = 8  # answers to a prompt


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tokenizer", required=True, help="a directory with a tokenizer and its chat template")
    flags.add_argument("--shapes", nargs="+", default=["smollm2-135m", "qwen3-0.6b"], choices=SHAPES)
    flags.add_argument("--batches", nargs="+", type=int, default=[8, 32, 128], help="answers at once")
    flags.add_argument(
        "--cells", nargs="+", default=["4x8x64", "16x8x256"], help="prompts x answers x tokens of a step"
    )
    flags.add_argument("--new-tokens", type=int, default=32, help="of sampling alone")
    flags.add_argument("--rounds", type=int, default=2, help="timed ones, behind one that does not count")
    flags.add_argument("--device", default="cuda")
    flags.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "rung-gpu", help="for the checkpoints")
    args = flags.parse_args()
    device = choose(args.device)
    if wrong := [batch for batch in args.batches if batch < SAMPLES or batch % SAMPLES]:
        flags.error(f"--batches {wrong}: {SAMPLES} answers go to a prompt, so give multiples of {SAMPLES}")

    def clock() -> float:
        done(device.type)
        return time.perf_counter()

    def timed(run: Callable[[int], object]) -> float:
        seconds = []
        for turn in range(args.rounds + 1):
            start = clock()
            run(turn)
            seconds.append(clock() - start)
        return statistics.median(seconds[1:])

    print(json.dumps({"device": title(device), "torch": torch.__version__}), flush=True)
    for shape in args.shapes:
        path = args.out / shape
        if not path.exists():
            save(shape, args.tokenizer, path)
        model = endless(str(path), "bf16", device)
        for batch in args.batches:
            runs = samplers(model, batch, args.new_tokens)
            rates = {name: round(batch * args.new_tokens / timed(run)) for name, run in runs.items()}
            print(json.dumps({"shape": shape, "answers": batch, "tokens_per_s": rates}), flush=True)
        for cell in args.cells:
            P, G, T = map(int, cell.split("x"))
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            step = stepper(model, Problems(P), G, T, clock, kept_gib(TrainConfig(device=args.device)))
            rows = [step(turn) for turn in range(args.rounds + 1)][1:]
            row: dict[str, Any] = {
                k: round(statistics.median(r[k] for r in rows), 3) for k in ("total", "sample", "update")
            }
            if device.type == "cuda":
                row["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
            print(json.dumps({"shape": shape, "cell": cell, **row}), flush=True)
            del step  # with its optimizer, before the next one's


def samplers(model: Model, batch: int, tokens: int) -> dict[str, Callable[[int], object]]:
    """Ways to draw `batch` answers of so many tokens; each takes a seed."""
    prompts = encoded(model, batch // SAMPLES)
    rows = [row for row in prompts for _ in range(SAMPLES)]
    width, replays = max(map(len, rows)), model.replays
    ids = torch.tensor([[0] * (width - len(r)) + r for r in rows], device=model.device)
    seen = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=model.device)
    settings: Any = model.hf.generation_config
    settings.eos_token_id, settings.pad_token_id = None, 0

    def ours(seed: int, graph: bool) -> None:
        model.replays = graph and replays
        TorchSampler(model).sample(prompts, SamplingLaw(max_new_tokens=tokens), Draws.whole(seed, batch))
        model.replays = replays

    @torch.no_grad()
    def theirs(seed: int) -> None:
        torch.manual_seed(seed)
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": tokens}
        model.hf.generate(input_ids=ids, attention_mask=seen, **law)

    ways = {"graph": lambda seed: ours(seed, True)} if replays else {}
    return ways | {"token by token": lambda seed: ours(seed, False), "transformers": theirs}


if __name__ == "__main__":
    main()
