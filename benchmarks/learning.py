"""Accuracy before and after `rung train RECIPE` with its default settings, over seeds, as a Markdown table.

    python benchmarks/learning.py --recipes reinforce grpo dr_grpo --seeds 0 1 2 --out runs/learning

Each run is a process of its own with one thread, `--jobs` of them at a time; a run that is already complete is not
made again. The table goes to standard output: accuracy on 256 held-out problems sampled at temperature 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median

from rung.recipes import LADDER


def run(recipe: str, seed: int, out: Path, extra: list[str]) -> Path:
    """One training in its own process; its directory. The peak memory of the process goes into a file beside it."""
    directory = out / f"{recipe}-{seed}"
    if not (directory / "memory.json").exists():
        if directory.exists():
            directory.rename(directory.with_name(f"{directory.name}.incomplete-{os.getpid()}"))
        code = (
            "import sys, resource, json; from rung.cli import main; s = main(sys.argv[2:]); "
            "json.dump(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, open(sys.argv[1] + '/memory.json', 'w')); sys.exit(s)"
        )
        flags = ["train", recipe, "--seed", str(seed), "--out", str(directory), "--no-save-rollouts", *extra]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(directory), *flags], env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"{recipe} seed {seed} failed:\n{done.stderr[-2000:]}")
    print(f"done {directory.name}", file=sys.stderr, flush=True)
    return directory


def measure(directory: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    evals = [r["eval/accuracy"] for r in rows if "eval/accuracy" in r]
    steps = [r for r in rows if "step_time" in r]
    return {
        "before": evals[0],
        "after": evals[-1],
        "seconds": sum(r["step_time"] for r in steps),
        "step": median(r["step_time"] for r in steps),
        "length": steps[-1]["completions/mean_length"],
        "mb": json.loads((directory / "memory.json").read_text()) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(LADDER))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--jobs", type=int, default=2)
    args, extra = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [(r, s) for r in args.recipes for s in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        done = dict(zip(cells, pool.map(lambda c: measure(run(*c, args.out, extra)), cells), strict=True))
    seeds = ", ".join(map(str, args.seeds))
    print(
        f"| recipe | before | after (seeds {seeds}) | mean | answer length | seconds a step | training, s | peak MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for r in args.recipes:
        rows = [done[r, s] for s in args.seeds]
        after = ", ".join(f"{x['after']:.2f}" for x in rows)
        cols = [mean(x[k] for x in rows) for k in ("before", "after", "length", "step", "seconds", "mb")]
        print(
            f"| {r} | {cols[0]:.2f} | {after} | {cols[1]:.3f} | {cols[2]:.1f} | {cols[3]:.2f} | {cols[4]:.0f} | {cols[5]:.0f} |"
        )


if __name__ == "__main__":
    main()
