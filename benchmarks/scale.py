"""A step of several processes, foretold from what one process takes, against what it then takes (docs/scale.md), in four minutes.

    python benchmarks/scale.py                  predicted and measured for 1 and 2 learners and samplers, with and without staleness
    python benchmarks/scale.py --clusters       the tables of planned clusters of GPUs: nothing of them is measured

From one process: seconds of a step's sampling, judging, learning and rest, each a line through two sizes; of weights on their way
through Ray's store, and of a call to an actor. From two: what FSDP2 over gloo adds to a step that is next to nothing. The learning
rate is 0, so that every run draws the same answers. Every process has one thread; all of them share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import rung
from render import markdown
from rung.errors import typed
from rung.models import starter
from rung.network import model as models
from rung.plan.pipeline import Stage, step_seconds
from rung.plan.rehearsal import Line
from rung.recipe_io import find, override
from rung.settings.cluster import Cluster

PROMPTS, SAMPLES, STEPS, SKIPPED = 64, 8, 9, 2
SPREADS = ((1, 1), (1, 2), (2, 1), (2, 2))
CORRECTED = {"correction": "TokenTIS"}
RUN = {
    "model": "starter", "samples_per_prompt": SAMPLES, "learning_rate": 0.0, "threads": 1, "eval_problems": 1, "eval_every": 0,
    "save_every": 0, "quiet": True, "overrides": CORRECTED,
}  # fmt: skip


class Clock:
    """When each step ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step(self, record: Any) -> None:
        self.at.append(time.perf_counter())

    def seconds(self) -> float:
        """From one step's end to the next one's, the mean of all but the first ones."""
        return (self.at[-1] - self.at[SKIPPED]) / (len(self.at) - 1 - SKIPPED)


def run(prompts: int, **settings: Any) -> tuple[float, dict[str, float]]:
    """(seconds of a step, its phases' means) of a real run."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        steps = STEPS + settings.get("cluster_options", {}).get("staleness", 0)
        done = rung.train("dr_grpo", out=out, steps=steps, prompts_per_step=prompts, callbacks=[clock], **RUN, **settings)
        rows = [row for row in done.metrics if "step_time" in row][SKIPPED + 1 : STEPS]
    return clock.seconds(), {name: statistics.fmean(row[name] for row in rows) for name in rows[0] if name.startswith("time/")}


# -- what is measured of one process ----------------------------------------------------------------------------------
def lines() -> dict[str, Line]:
    """Seconds of a step's parts by its problems, in one process."""
    found: list[dict[str, float]] = []
    for prompts in (PROMPTS // 2, PROMPTS):
        whole, phases = run(prompts)
        parts = {name: phases[f"time/{name}"] for name in ("sample", "reward")}
        parts["learn"] = phases["time/update"] + phases["time/logprob"]
        found.append({**parts, "rest": max(whole - sum(parts.values()) - phases["time/sync"], 0.0)})
    return {name: Line.through((PROMPTS // 2, found[0][name]), (PROMPTS, found[1][name])) for name in found[0]}


def through_ray() -> dict[str, float]:
    """Seconds of a call to an actor, and of the weights' way: packed, into the store, out of it, into a model."""
    import ray

    from rung.cluster import connect
    from rung.cluster.weights import pack, put

    class Echo:
        def say(self, x: Any) -> Any:
            return x

    connect.join(200 * 2**20)
    try:
        actor = ray.remote(Echo).options(num_cpus=1).remote()
        state = models.load(str(starter.path())).hf.state_dict()

        def call() -> None:
            ray.get(actor.say.remote(0))

        def ship() -> None:
            packed = ray.get(actor.say.remote(pack(state.items())))
            ray.get(actor.say.remote([ray.put(packed)]))
            put(packed, state)

        call()
        return {"call": shortest(call), "ship": shortest(ship)}
    finally:
        connect.leave()


def shortest(f: Callable[[], object], times: int = 15) -> float:
    """Seconds: whatever else runs only adds to them."""
    seen = []
    for _ in range(times):
        start = time.perf_counter()
        f()
        seen.append(time.perf_counter() - start)
    return min(seen)


# -- what is measured of two ------------------------------------------------------------------------------------------
def tiny() -> Any:
    """A step of two short answers."""
    from rung.records import Rollout, Scored, State, Task
    from rung.rollout.collect import Collected
    from rung.rollout.layout import layout

    def scored(reward: float) -> Scored:
        rollout = Rollout((1, 2), (3, 4), (-1.0, -1.0), None, "stop")
        return Scored(Task("t", "2+3="), rollout, "5", {"correct": reward}, reward)

    rows = [scored(0.0), scored(1.0)]
    return Collected(rows, layout([rows], State()), 4)


def one_of_two(rank: int, meeting: str) -> None:
    """One of two processes over gloo: the first prints seconds of a tiny step, and of one by one process."""
    from rung.cluster.group import Group, leave, meet
    from rung.cluster.learner import DistributedLearner
    from rung.training.learner import Hyper, LocalLearner

    torch.set_num_threads(1)
    recipe, hyper, batch = override(find("dr_grpo"), CORRECTED), Hyper(learning_rate=0.0), tiny()
    own, dealt = (models.load(str(starter.path())) for _ in range(2))
    alone = LocalLearner(recipe, own, hyper)
    meet(rank, 2, meeting)
    together = DistributedLearner(recipe, dealt, hyper, ranks=Group())
    alone.step(batch), together.step(batch)
    found = {"alone": shortest(lambda: alone.step(batch)), "together": shortest(lambda: together.step(batch))}
    if rank == 0:
        print(json.dumps(found))
    leave()


def over_gloo() -> float:
    """Seconds that two learners add to a step."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--meeting", f"file://{folder}/meeting", "--rank"]
        both = [subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
        said = [process.communicate()[0] for process in both]
    found = json.loads(said[0].strip().splitlines()[-1])
    return max(float(found["together"] - found["alone"]), 0.0)


# -- foretold and measured --------------------------------------------------------------------------------------------
def foretold(parts: dict[str, Line], ray: dict[str, float], gloo: float, learners: int, samplers: int, stale: int) -> float:
    """Seconds of a step, by the schedule of rung.plan.pipeline on this machine's cores."""
    drawing = (
        Stage("draw", parts["sample"](PROMPTS / samplers) + ray["call"], samplers),
        Stage("judge", parts["reward"](PROMPTS)),
    )  # fmt: skip
    learning = (
        Stage("learn", parts["learn"](PROMPTS / learners) + ray["call"] + gloo * (learners > 1), learners),
        Stage("weights", ray["ship"]), Stage("rest", parts["rest"](PROMPTS)),
    )  # fmt: skip
    return step_seconds(drawing, learning, stale, places=len(os.sched_getaffinity(0)))


def measure() -> None:
    parts, ray, gloo = lines(), through_ray(), over_gloo()
    told = {name: [f"{line(PROMPTS):.3f}", f"{line(PROMPTS / 2):.3f}"] for name, line in parts.items()}
    told |= {name: [f"{seconds:.4f}", ""] for name, seconds in {**ray, "two learners": gloo}.items()}
    print(markdown("Measured of one process", ["part", "seconds", "of half"], [[k, *v] for k, v in told.items()]), flush=True)
    table: list[list[object]] = []
    for n, m in SPREADS:
        for stale in (0, 1):
            before = foretold(parts, ray, gloo, n, m, stale)
            spread = {"learners": n, "samplers": m, "staleness": stale}
            after, _ = run(PROMPTS, cluster="ray", cluster_options=spread)
            table.append([n, m, stale, f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}"])
            print(table[-1], file=sys.stderr, flush=True)
    columns = ["learners", "samplers", "staleness", "predicted, s", "measured, s", "predicted / measured"]
    print(markdown("A step", columns, table))


# -- clusters of GPUs -------------------------------------------------------------------------------------------------
BATCH = {"prompts_per_step": 512, "samples_per_prompt": 16, "max_new_tokens": 8192, "dtype": "bfloat16", "sampler": "vllm"}
GPUS = (8, 16, 32, 64, 128, 256, 512)


def clusters() -> None:
    """What `rung plan --gpu h100 --gpus N` proposes for a model of 7 thousand million parameters, and says of one of 70."""
    from rung.plan.planned import Planned
    from rung.plan.room import why_not
    from rung.plan.several import SPLIT, Asked, planned, split_row
    from rung.training.config import TrainConfig

    def crew(model: str, gpu: str, gpus: int, **other: Any) -> Planned:
        config = TrainConfig(model=model, recipe="dr_grpo", cluster="ray", **{**BATCH, **other})
        return planned(Asked(config, 2048.0, None, gpu, gpus, lambda recipe, spread, env: None))[0]

    rows: list[list[object]] = []
    first = crew("qwen2.5-7b", "h100", 8)
    with typed():  # settings as flags
        for gpus in GPUS:
            for stale in (0, 1):
                best = replace(first, gpus=gpus).splits(Cluster(staleness=stale))
                assert best is not None
                rows.append([gpus, *split_row(best)])
        print(markdown("Qwen2.5-7B on H100 SXM 80 GB", ["GPUs", *SPLIT], rows), "\n")
        for gpu in ("h100", "h200", "b200"):
            large = crew("llama-3.1-70b", gpu, 64)
            print(f"Llama-3.1-70B does not fit: {why_not(large)}.\n")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--clusters", action="store_true")
    flags.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    flags.add_argument("--meeting", help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.rank is not None:
        one_of_two(args.rank, args.meeting)
    elif args.clusters:
        clusters()
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        measure()


if __name__ == "__main__":
    main()
