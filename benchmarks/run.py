"""Speed and memory against TRL and transformers on one machine, in turns (A B A B), every cell a process of its own.

    make bench ARGS="--trl-python PATH/python --out FILE.jsonl"             everything; stop it and start it again at will
    make bench ARGS="--tables step --cells 8x64 8x256 --dtypes fp32 --out FILE.jsonl"
    make bench ARGS="--render --out FILE.jsonl --bars step.svg --plot scaling.svg"      tables and pictures of what was measured

    step         one training step, rung and TRL (its default, and tuned from outside): seconds and tokens/s by phase, peak memory
    generation   rung's sampler against transformers' generate by batch size, in turns in one process
    tiny         the same on the starter model
    roofline     rates of matrix products and memory, and the bound for each phase that follows
    gradient     rung's packed gradient against the plain padded forward and backward in float32 on the same batch

TRL is no dependency; give a Python that has it (`pip install trl`). Without one only rung is measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cells import Cells
from render import SYSTEMS, render
from rung.models import smollm2, starter

TABLES = ("roofline", "gradient", "tiny", "generation", "step")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tables", type=lambda s: s.split(","), default=list(TABLES), help="comma-separated")
    flags.add_argument(
        "--out", type=Path, default=Path("bench.jsonl"), help="measurements; cells in it are not repeated"
    )
    flags.add_argument("--render", action="store_true", help="only print the tables of --out")
    flags.add_argument("--plot", type=Path, help="seconds against T and G as an .svg or .png file")
    flags.add_argument("--bars", type=Path, help="a bar a system for each cell as an .svg or .png file")
    flags.add_argument("--trl-python", help="a Python that can import trl")
    flags.add_argument("--model", help="a Hugging Face checkpoint; default: SmolLM2 from the cache")
    flags.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS, help="of the step table")
    flags.add_argument("--cells", nargs="+", default=["8x64", "8x256", "8x512", "4x64", "16x64", "32x64"], help="GxT")
    flags.add_argument("--prompts", type=int, default=4, help="per step")
    flags.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    flags.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    flags.add_argument("--tiny-batches", type=int, nargs="+", default=[8, 64, 256])
    flags.add_argument("--new-tokens", type=int, default=24, help="of generation and tiny")
    flags.add_argument("--rounds", type=int, default=2)
    flags.add_argument("--steps", type=int, default=1, help="timed steps per process, after one warm-up step")
    flags.add_argument("--threads", type=int, default=0, help="torch threads of every process; 0: torch's default")
    args = flags.parse_args()
    if wrong := set(args.tables) - set(TABLES):
        sys.exit(f"--tables {','.join(wrong)}: known are {', '.join(TABLES)}")
    cells = Cells(args.out)
    if not args.render:
        args.model = args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model"))
        for name in (t for t in TABLES if t in args.tables):
            MEASURE[name](args, cells)
    print(render(cells, args.tables, args.plot, args.bars))


def step(args: argparse.Namespace, cells: Cells) -> None:
    systems = {"rung": (sys.executable, "rung_step.py", {})}
    if args.trl_python:
        systems["TRL"] = (args.trl_python, "trl_step.py", {})
        systems["TRL tuned"] = (args.trl_python, "trl_step.py", {"best": True})
    systems = {name: how for name, how in systems.items() if name in args.systems}
    for cell in args.cells:
        G, T = map(int, cell.split("x"))
        for dtype in args.dtypes:
            for turn in range(args.rounds):
                for name, (python, script, more) in systems.items():
                    key = {
                        "table": "step",
                        "system": name,
                        "dtype": dtype,
                        "P": args.prompts,
                        "G": G,
                        "T": T,
                        "round": turn,
                    }
                    flags = {"model": args.model, "prompts": args.prompts, "samples": G, "tokens": T, "dtype": dtype}
                    cells.measure(key, python, script, {**flags, "steps": args.steps, "threads": args.threads, **more})


def generation(args: argparse.Namespace, cells: Cells) -> None:
    _generation(args, cells, "generation", args.model, args.batches, args.dtypes)


def tiny(args: argparse.Namespace, cells: Cells) -> None:
    _generation(args, cells, "tiny", str(starter.path()), args.tiny_batches, ["fp32"])


def _generation(
    args: argparse.Namespace, cells: Cells, table: str, model: str, batches: list[int], dtypes: list[str]
) -> None:
    for dtype in dtypes:
        for batch in batches:
            key = {"table": table, "dtype": dtype, "batch": batch, "tokens": args.new_tokens}
            flags = {"model": model, "dtype": dtype, "batch": batch, "tokens": args.new_tokens, "rounds": args.rounds}
            cells.measure(key, sys.executable, "generation.py", {**flags, "threads": args.threads})


def roofline(args: argparse.Namespace, cells: Cells) -> None:
    for dtype in args.dtypes:
        key = {"table": "roofline", "dtype": dtype, "P": args.prompts, "cells": args.cells}
        flags = {"model": args.model, "dtype": dtype, "prompts": args.prompts, "cells": args.cells}
        cells.measure(key, sys.executable, "roofline.py", {**flags, "threads": args.threads})


def gradient(args: argparse.Namespace, cells: Cells) -> None:
    for dtype in args.dtypes:
        flags = {"model": args.model, "dtype": dtype, "threads": args.threads}
        cells.measure({"table": "gradient", "dtype": dtype}, sys.executable, "gradient.py", flags)


MEASURE = {"step": step, "generation": generation, "tiny": tiny, "roofline": roofline, "gradient": gradient}

if __name__ == "__main__":
    main()
