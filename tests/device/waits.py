"""How often the host waits for the device in one training step, and how often it copies to it, counted on the stand-in.

python tests/device/waits.py            the table of docs/devices.md
python tests/device/waits.py --lines    where, line by line
"""

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from second_device import DEVICE, waits
from two_steps import made

from rung.kernels.attention import Packed
from rung.network.streams import PackedStream
from rung.recipe_io import find
from rung.records import SamplingLaw

KINDS = ("dr_grpo", "ppo", "trpo")  # a single update; a critic, several epochs and minibatches; a linear system
LAW = SamplingLaw(max_new_tokens=16)
HEAD = ("recipe", "phase", "runs of the model", "waits", "copies there")


@dataclass(frozen=True)
class Row:
    """One phase of a step. runs: how often the model runs, a micro-batch or a decoded token each time."""

    recipe: str
    phase: str
    runs: int
    waits: int
    copies: int


def counted(name, samples=4, micro=70):
    """The second step of 4 x `samples` answers of up to 16 tokens: its rows, and {(phase, operation, line): times}."""
    learner, collector = made(find(name), DEVICE, law=LAW, micro=micro, samples=samples)
    lines, runs, inside = Counter(), Counter(), ["between"]

    @contextmanager
    def phase(name):
        inside.append(name)
        with waits("rung", through=("kernels/device.py",)) as counts:
            yield
        inside.pop()
        lines.update({(name, *key): n for key, n in counts.items()})

    def run(function):
        def counting(*args, **kwargs):
            runs[inside[-1]] += 1
            return function(*args, **kwargs)

        return counting

    learner.step(collector.collect(0, learner.state))
    learner.phase = collector.phase = phase
    with (
        patch.object(Packed, "place", run(Packed.place)),
        patch.object(PackedStream, "next", run(PackedStream.next)),
        waits("rung", through=("kernels/device.py",)) as whole,
    ):
        learner.step(collector.collect(1, learner.state))
    for (_, *key), n in tuple(lines.items()):
        whole[tuple(key)] -= n
    lines.update({("between", *key): n for key, n in whole.items() if n})
    rows = []
    for phase_name in dict.fromkeys(["sample", "logprob", "update", "between"]):
        found = {key: n for key, n in lines.items() if key[0] == phase_name}
        copies = sum(n for (_, operation, _), n in found.items() if operation == "upload")
        rows.append(Row(name, phase_name, runs[phase_name], sum(found.values()) - copies, copies))
    assert not any(key[0] == "reward" for key in lines)
    return rows, lines


def table(rows):
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|---:|---:|---:|"]
    return "\n".join([*lines, *(f"| `{r.recipe}` | {r.phase} | {r.runs} | {r.waits} | {r.copies} |" for r in rows)])


def main():
    torch.set_num_threads(1)
    found = [counted(name) for name in KINDS]
    print(table([row for rows, _ in found for row in rows]))
    for name, (_, lines) in zip(KINDS, found, strict=True):
        if "--lines" in sys.argv:
            print(f"\n{name}\n" + "\n".join(f"{n:5}  {' '.join(key)}" for key, n in sorted(lines.items())))


if __name__ == "__main__":
    main()
