"""`rung plan` against what is then measured: peak memory and seconds a step of real runs, each in a process of its own.

    python benchmarks/plan.py --runs starter smollm2            prints a Markdown table of predicted / measured

A run's own mean answer length, from its metrics, is what the plan is given: before a run nobody knows it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from render import markdown

SMALL = ["--model", "smollm2", "--steps", "3", "--prompts-per-step", "4", "--eval-problems", "8"]
RUNS = {
    "starter": ["dr_grpo", "--steps", "6"],
    "starter-ppo": ["ppo", "--steps", "6"],
    "smollm2": ["dr_grpo", *SMALL],
    "smollm2-bf16": ["dr_grpo", "--dtype", "bfloat16", *SMALL],
    "smollm2-grpo": ["grpo", *SMALL],
}
MEASURE = """
import json, resource, sys
from rung.cli import main
status = main(sys.argv[1:])
print(json.dumps({"status": status, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), file=sys.stderr)
"""


def measured(flags: list[str], out: Path) -> dict[str, float]:
    """Peak bytes of `rung train`, medians over its steps but the first, the mean length of its answers."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "train", *flags, "--out", str(out)], capture_output=True, text=True
    )
    end = json.loads(done.stderr.strip().splitlines()[-1])
    if end["status"] != 0:
        sys.exit(f"rung train {' '.join(flags)} failed:\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "step_time" in row][1:]
    names = ("time/sample", "time/update", "step_time", "completions/mean_length", "active_rows")
    return {"peak": end["peak"], **{n: statistics.median(row[n] for row in steps) for n in names}}


def planned(flags: list[str], answer: float) -> dict[str, float]:
    """What `rung plan` says for the same flags."""
    command = [sys.executable, "-m", "rung.cli", "plan", *flags, "--answer-tokens", str(answer), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = {(row["part"], row["what"]): row["estimate"] for row in json.loads(done.stdout)}
    update = sum(x for (part, what), x in rows.items() if part == "step" and what.startswith(("update", "critic")))
    sample = rows["step", "sample"]
    seconds = {"time/sample": sample, "time/update": update, "step_time": rows["step", "whole step"]}
    return {"peak": rows["memory", "peak"] * 2**30, **seconds}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    flags.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further flags of every run, last")
    args = flags.parse_args()
    lines: list[list[object]] = []
    for name in args.runs:
        words = [*RUNS[name], *args.more]
        with tempfile.TemporaryDirectory() as folder:
            real = measured(words, Path(folder) / "run")
        plan = planned(words, real["completions/mean_length"])
        for what, unit, scale in (
            ("peak", "GiB", 2**30),
            ("time/sample", "s", 1),
            ("time/update", "s", 1),
            ("step_time", "s", 1),
        ):
            p, m = plan[what] / scale, real[what] / scale
            lines.append([f"`{' '.join(words)}`", f"{what}, {unit}", f"{p:.3g}", f"{m:.3g}", f"{p / m:.2f}"])
            print(lines[-1], file=sys.stderr, flush=True)
    print(markdown("Plan", ["run", "what", "planned", "measured", "planned / measured"], lines))


if __name__ == "__main__":
    main()
