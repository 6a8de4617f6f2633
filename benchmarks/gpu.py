"""Sampling and whole steps on a GPU, on models of known shapes with random weights.

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from generation import samplers
from random_model import SHAPES, save
from rung.kernels.device import choose, title
from rung.network.model import Model
from rung.training.config import TrainConfig
from rung.training.micro import kept_gib
from rung_step import Problems, endless, stepper
from trl_step import now, peak_gb

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
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    flags.add_argument("--activation-gib", type=float, help="default: what a run takes there")
    flags.add_argument("--device", default="cuda")
    flags.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "rung-gpu", help="for the checkpoints")
    args = flags.parse_args()
    device = choose(args.device)
    if wrong := [batch for batch in args.batches if batch < SAMPLES or batch % SAMPLES]:
        flags.error(f"--batches {wrong}: {SAMPLES} answers go to a prompt, so give multiples of {SAMPLES}")
    clock = partial(now, device.type)
    gib = kept_gib(TrainConfig(device=args.device, activation_gib=args.activation_gib))

    def timed(run: Callable[[int], object]) -> float:
        seconds = []
        for turn in range(args.rounds + 1):
            start = clock()
            run(turn)
            seconds.append(clock() - start)
        return statistics.median(seconds[1:])

    about: dict[str, Any] = {"device": title(device), "torch": torch.__version__, "dtype": args.dtype}
    if device.type == "cuda":
        about["product_tflops"] = round(product_rate(device, clock))
    print(json.dumps(about), flush=True)
    for shape in args.shapes:
        path = args.out / shape
        if not path.exists():
            save(shape, args.tokenizer, path)
        model = endless(str(path), args.dtype, device)
        for batch in args.batches:
            runs = ways(model, batch // SAMPLES, args.new_tokens)
            rates = {name: round(batch * args.new_tokens / timed(run)) for name, run in runs.items()}
            print(json.dumps({"shape": shape, "answers": batch, "tokens_per_s": rates}), flush=True)
        for cell in args.cells:
            P, G, T = map(int, cell.split("x"))
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            step = stepper(model, Problems(P), G, T, clock, gib)
            rows = [step(turn) for turn in range(args.rounds + 1)][1:]
            row: dict[str, Any] = {
                k: round(statistics.median(r[k] for r in rows), 3) for k in ("total", "sample", "update")
            }
            row["peak_gb"] = peak_gb(device.type)
            print(json.dumps({"shape": shape, "cell": cell, **row}), flush=True)
            del step  # with its optimizer, before the next one's


def ways(model: Model, prompts: int, tokens: int) -> dict[str, Callable[[int], int]]:
    """How answers are drawn; each takes a seed."""
    ours, theirs = samplers(model, prompts, SAMPLES, tokens)
    replays = model.replays

    def plain(seed: int) -> int:
        model.replays = False
        try:
            return ours(seed)
        finally:
            model.replays = replays

    return ({"graph": ours} if replays else {}) | {"token by token": plain, "transformers": theirs}


def product_rate(device: torch.device, clock: Callable[[], float]) -> float:
    """TFLOP/s of products of 8192 x 8192 in bfloat16: what nothing here exceeds."""
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    _ = x @ x
    start = clock()
    for _turn in range(10):
        _ = x @ x
    return 10 * 2 * 8192**3 / (clock() - start) / 1e12


if __name__ == "__main__":
    main()
