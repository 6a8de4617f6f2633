"""rung against TRL on the same machine: one step, in turns (A B A B), each in a process of its own.

    make bench ARGS="--trl-python /path/to/venv/bin/python"

TRL is no dependency; give a Python that has it (`pip install trl psutil`). Without one only rung is measured. Prints
a Markdown table of medians and the ratio of each pair of neighboring runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rung.io import smollm2

HERE = Path(__file__).parent


def measure(python: str, script: str, flags: list[str]) -> dict[str, Any]:
    done = subprocess.run([python, str(HERE / script), *flags], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{script} {' '.join(flags)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--trl-python", help="a Python that can import trl")
    flags.add_argument("--model", default=None, help="a Hugging Face checkpoint; default: SmolLM2 from the cache")
    flags.add_argument("--shapes", nargs="+", default=["4x8x64"], help="prompts x samples x tokens")
    flags.add_argument("--dtypes", nargs="+", default=["fp32"], choices=("fp32", "bf16"))
    flags.add_argument("--rounds", type=int, default=2)
    flags.add_argument("--steps", type=int, default=2, help="timed steps per process")
    flags.add_argument("--best", action="store_true", help="TRL with its tuned settings as well")
    args = flags.parse_args()
    model = args.model or str(
        smollm2.path() or sys.exit("SmolLM2 is not in the cache: run `make smollm2`, or give --model")
    )
    print("| P x G x T | dtype | system | seconds a step | by phase | peak GB | times rung |")
    print("|---|---|---|---|---|---|---|")
    for shape in args.shapes:
        P, G, T = shape.split("x")
        for dtype in args.dtypes:
            common = [
                "--model",
                model,
                "--prompts",
                P,
                "--samples",
                G,
                "--tokens",
                T,
                "--dtype",
                dtype,
                "--steps",
                str(args.steps),
            ]
            systems = {"rung": (sys.executable, "rung_step.py", common)}
            if args.trl_python:
                systems["TRL"] = (args.trl_python, "trl_step.py", common)
                if args.best:
                    systems["TRL tuned"] = (args.trl_python, "trl_step.py", [*common, "--best"])
            rounds = [{name: measure(*call) for name, call in systems.items()} for _ in range(args.rounds)]
            for name in systems:
                mine = [r[name] for r in rounds]
                ratio = statistics.median(r[name]["seconds"] / r["rung"]["seconds"] for r in rounds)
                phases = {k: statistics.median(m["phases"][k] for m in mine) for k in mine[0]["phases"]}
                shown = ", ".join(f"{k} {v:.1f}" for k, v in phases.items() if v >= 0.05)
                seconds = statistics.median(m["seconds"] for m in mine)
                memory = max(m["peak_rss_gb"] for m in mine)
                print(
                    f"| {shape} | {dtype} | {name} | {seconds:.1f} | {shown} | {memory:.1f} | {ratio:.2f} |", flush=True
                )


if __name__ == "__main__":
    main()
