"""What a run costs on actors of Ray, against the same run in one process: overhead of a step, the weights' way, overlap.

    local   this process
    ray     one learner and one sampler, staleness 0: the same run to the byte
    stale   the same with a staleness of 1, which samples the next step's answers while it learns from this one's

    python benchmarks/cluster.py        # SmolLM2-135M (`make smollm2`), float32; five minutes on two cores, 6 GB

Each is a process of its own, in turn, `--rounds` times. Of each run the median step behind the first one counts. The reward is a
coin that each text tosses (is its length even?): a small model rarely earns another, and a step without any learns nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from tempfile import TemporaryDirectory

import rung
from rung.models import smollm2

KINDS = {
    "local": {},
    "ray": {"cluster": "ray"},
    "stale": {"cluster": "ray", "cluster_options": {"staleness": 1}, "overrides": {"correction": "TokenTIS"}},
}
PARTS = ("step_time", "time/sample", "time/update", "time/sync")
SPAN = ("sample_start", "sample_end", "update_start", "update_end")


def coin(completions: list[str], **columns: object) -> list[float]:
    """A reward that differs within every group."""
    return [float(len(text) % 2 == 0) for text in completions]


def one(kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step, and of how many of them sampling and learning went on at once."""
    with TemporaryDirectory() as out:
        run = rung.train(
            "dr_grpo", model=args.model, task="chained_arithmetic", reward=coin, steps=args.steps, prompts_per_step=4,
            samples_per_prompt=args.samples, max_new_tokens=args.tokens, eval_problems=2, eval_samples=1, eval_every=0,
            save_every=args.steps, out=f"{out}/run", quiet=True, **KINDS[kind],
        )  # fmt: skip
        rows = [row for row in run.metrics if "step_time" in row]
    found = {name: statistics.median(row[name] for row in rows[1:]) for name in PARTS}
    spans = [[row[f"cluster/{name}"] for name in SPAN] for row in rows if "cluster/sample_start" in row]
    pairs = list(pairwise(spans))
    found["overlap"] = sum(max(0.0, min(b[1], a[3]) - max(b[0], a[2])) for a, b in pairs)
    found["learning"] = sum(a[3] - a[2] for a, _ in pairs)
    found["tokens"] = rows[-1]["num_tokens"]
    return found


def measured(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The median over the rounds of what each kind of run takes."""
    every: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    environment = os.environ | {"RAY_memory_monitor_refresh_ms": "0"}
    for _ in range(args.rounds):
        for kind in KINDS:
            words = [sys.executable, __file__, *sys.argv[1:], "--model", args.model, "--kind", kind]
            done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            every[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        kind: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for kind, rows in every.items()
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", default=str(smollm2.path() or ""), help="a Hugging Face checkpoint")
    flags.add_argument("--samples", type=int, default=8, help="answers to each of 4 prompts")
    flags.add_argument("--tokens", type=int, default=48, help="of an answer at most")
    flags.add_argument("--steps", type=int, default=4, help="of each run, the first one unmeasured")
    flags.add_argument("--rounds", type=int, default=1)
    flags.add_argument("--kind", choices=KINDS, help="only this run, as a line of JSON")
    args = flags.parse_args()
    if not args.model:
        raise smollm2.absent()
    if args.kind:
        print(json.dumps(one(args.kind, args)))
        return
    found = measured(args)
    print("| run | step | sampling | learning | weights to the sampler |\n|---|---|---|---|---|")
    for kind, row in found.items():
        print(f"| {kind} | " + " | ".join(f"{row[name]:.2f} s" for name in PARTS) + " |")
    assert found["local"]["tokens"] == found["ray"]["tokens"], "the same answers"
    print(f"overhead of a step: {found['ray']['step_time'] / found['local']['step_time'] - 1:+.1%}")
    print(
        f"learning beside which answers were sampled (stale): {found['stale']['overlap'] / found['stale']['learning']:.0%}"
    )


if __name__ == "__main__":
    main()
