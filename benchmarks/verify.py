"""Seconds that the rewards of 256 answers take: 10 ms each of waiting, 10 ms each of computing, and math-verify's own.

    python benchmarks/verify.py [--answers 256] [--workers 1 2 8 16]

Each row is one `Pool.map` of all answers; the second column makes one call a group of 8, as training does. Workers are
started before the clock. Waiting scales with workers, computing with processors; the table says how many there are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from rung.tasks.sandbox.pool import Pool
from rung.tasks.verify import verifiers as verify
from rung.tasks.verify.code import Code

FUNCTIONS = """
import time
def wait(seconds):
    time.sleep(seconds)
    return 1.0
def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 1.0
"""
GROUP = 8


def seconds(work: object, *arguments: object) -> float:
    began = time.perf_counter()
    work(*arguments)  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--answers", type=int, default=256)
    flags.add_argument("--milliseconds", type=float, default=10.0)
    flags.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8, 16])
    args = flags.parse_args()
    print(f"{args.answers} answers, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print("| work | workers | one call: s | groups of 8: s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "functions.py"
        file.write_text(FUNCTIONS)
        calls = [(args.milliseconds / 1000,)] * args.answers
        for name in ("wait", "compute"):
            for size in args.workers:
                pool = Pool(file, name, size=size)
                pool.map([(0.05,)] * size * 2)  # starts every worker
                once = seconds(pool.map, calls)
                began = time.perf_counter()
                for at in range(0, len(calls), GROUP):
                    pool.map(calls[at : at + GROUP])
                print(f"| {name} {args.milliseconds:g} ms | {size} | {once:.2f} | {time.perf_counter() - began:.2f} |")
                pool.close()
    judge = verify.Math()
    judge.correct([f"x+{i}" for i in range(8)], "x^2+1")  # starts the processes
    formulas = [f"\\frac{{x+{i}}}{{2}}" for i in range(args.answers)]
    print(f"| math-verify, all different | {judge.pool.size} | {seconds(judge.correct, formulas, 'x^2+1'):.2f} | |")
    numbers = [str(i) for i in range(args.answers)]
    print(f"| numeric | - | {seconds(verify.Numeric().correct, numbers, '9'):.4f} | |")
    programs = [f"def f(x): return x + {i}" for i in range(32)]
    code = Code()
    each = seconds(code.correct, programs, "assert f(1) == 2") / len(programs)
    print(f"| code, one program | {os.cpu_count()} | {each:.3f} | |")


if __name__ == "__main__":
    main()
