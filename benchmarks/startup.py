"""How long a user waits: `import rung`, the help of every command, the first output of a training and its first step.

    python benchmarks/startup.py [--repeat 5]

A table in Markdown: the median of wall seconds and of processor seconds of each, with what it should be below. On a busy
machine only the second says what the program itself takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rung.cli import COMMANDS

RUNG = (sys.executable, "-m", "rung")
Seconds = tuple[float, float]  # of wall and of processor


def timed(*words: str) -> Seconds:
    """A program from its start to its end."""
    before, begun = os.times(), time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, os.times()
    return wall, after.children_user - before.children_user + after.children_system - before.children_system


def until(sign: str) -> Seconds:
    """A training on the starter from its start to the first line that begins with `sign`."""
    with tempfile.TemporaryDirectory() as home:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*RUNG, "train", "--steps", "100000", "--out", str(Path(home) / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(sign):
                break
        wall = time.perf_counter() - begun
        used = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        process.kill()
        process.communicate()
        return wall, used / os.sysconf("SC_CLK_TCK")


def median(measure: Callable[[], Seconds], repeat: int) -> Seconds:
    wall, cpu = zip(*(measure() for _ in range(repeat)), strict=True)
    return statistics.median(wall), statistics.median(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    python = median(lambda: timed(sys.executable, "-c", "pass"), repeat)
    imported = median(lambda: timed(sys.executable, "-c", "import rung"), repeat)
    helped = {name: median(lambda name=name: timed(*RUNG, name, "--help"), repeat) for name in COMMANDS}
    slowest = max(helped, key=lambda name: helped[name])
    rows = [
        ("`import rung`, beyond Python's own start", tuple(b - a for a, b in zip(python, imported, strict=True)), 0.05),
        (f"`--help` of the slowest command, {slowest}", helped[slowest], 0.5),
        ("`rung train`: first output", median(lambda: until("loading"), repeat), 0.5),
        ("`rung train`: first step", median(lambda: until("step "), repeat), 6.0),
    ]
    print(f"median of {repeat}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| from return to | wall s | processor s | below |\n|---|---|---|---|")
    for name, (wall, cpu), limit in rows:
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {limit} |")


if __name__ == "__main__":
    main()
