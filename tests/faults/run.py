"""`python tests/faults/run.py`: every fault that a run is promised to survive, and whether it did.

Each case disturbs a real program and then runs the command that goes on, whose files must be those of a run that nothing disturbed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]
import children  # noqa: E402
import hooks  # noqa: E402

SLICE = 8  # cases of a process: they share its undisturbed runs
BEGIN, END = "<!-- faults: begin, written by tests/faults/run.py -->", "<!-- faults: end -->"


@dataclass(frozen=True)
class Result:
    """skipped: why this machine could not be made to do it.  failed: what went wrong.  Empty: it passed."""

    kind: str
    name: str
    seconds: float
    skipped: str = ""
    failed: str = ""


def every_case(seed: int):
    import disk
    import interrupted
    import outside

    return [case for module in (interrupted, disk, outside) for case in module.cases(seed)]


def tried(case, folder: Path, shared) -> Result:
    begun, skipped, failed = time.monotonic(), "", ""
    try:
        case.run(folder, shared)
    except children.Skipped as why:
        skipped = str(why)
    except AssertionError as error:
        failed = str(error) or traceback.format_exc()
    except Exception:  # noqa: BLE001  one more case that failed, and why
        failed = traceback.format_exc()
    return Result(case.kind, case.name, time.monotonic() - begun, skipped, failed)


def process(cases, folder: Path, report: Path) -> None:
    """Some cases one after the other, in a process of their own; a line for each."""
    shared = children.Shared(folder)
    with report.open("a") as file:
        for number, case in enumerate(cases):
            result = tried(case, folder / str(number), shared)
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            if not result.failed:
                shutil.rmtree(folder / str(number), ignore_errors=True)


def run(cases, jobs: int, keep: Path) -> list[Result]:
    """All cases, `jobs` processes at a time, each of a slice of one kind."""
    slices = []
    for _, some in groupby(cases, key=lambda case: case.kind):
        alike = list(some)
        slices += [alike[i : i + SLICE] for i in range(0, len(alike), SLICE)]
    slices.sort(key=len, reverse=True)
    alive: dict[int, Path] = {}
    found: list[Result] = []
    for number, some in enumerate([*slices, *[None] * jobs]):
        while alive and (len(alive) >= jobs or some is None):
            pid, _ = os.waitpid(-1, 0)
            if pid in alive:
                found += told(alive.pop(pid))
                break
        if some is None:
            continue
        folder = keep / str(number)
        folder.mkdir()
        report = keep / f"{number}.jsonl"
        report.touch()
        pid = os.fork()
        if pid == 0:
            try:
                process(some, folder, report)
            finally:
                os._exit(0)
        alive[pid] = report
    return found


def told(report: Path) -> list[Result]:
    results = [Result(**json.loads(line)) for line in report.read_text().splitlines()]
    for result in results:
        mark = "skipped" if result.skipped else "FAILED" if result.failed else "ok"
        print(f"{mark:8}{result.seconds:6.1f} s  {result.kind}: {result.name}", flush=True)
        if result.skipped or result.failed:
            print("    " + (result.skipped or result.failed).strip().replace("\n", "\n    "), flush=True)
    return results


def counts(results: Sequence[Result]) -> list[tuple[str, int, int, int]]:
    """(kind, cases, passed, skipped) for each kind."""
    kinds = list(dict.fromkeys(r.kind for r in results))
    of = {kind: [r for r in results if r.kind == kind] for kind in kinds}
    return [
        (k, len(rs), sum(not r.failed and not r.skipped for r in rs), sum(bool(r.skipped) for r in rs))
        for k, rs in of.items()
    ]


def table(results: Sequence[Result]) -> str:
    lines = ["| what goes wrong | cases | survived | could not be tried |", "|---|---:|---:|---:|"]
    lines += [f"| {kind} | {n} | {passed} | {skipped} |" for kind, n, passed, skipped in counts(results)]
    total = [sum(column) for column in zip(*(row[1:] for row in counts(results)), strict=True)]
    return "\n".join([*lines, f"| all | {total[0]} | {total[1]} | {total[2]} |"])


def write_into(page: Path, results: Sequence[Result], seed: int, seconds: float) -> None:
    """The table, between the two marks of a page of the documentation."""
    text = page.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    said = f"Seed {seed}, {time.strftime('%Y-%m-%d')}, Python {sys.version.split()[0]}, {seconds / 60:.0f} minutes."
    reasons = sorted({r.skipped for r in results if r.skipped})
    notes = "".join(f"\n\nNot tried there: {reason}." for reason in reasons)
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{said}{notes}\n\n{after}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="kinds whose name begins so")
    parser.add_argument("--case", default="", help="cases whose name holds this")
    parser.add_argument("--sample", type=int, default=0, help="so many cases, drawn from all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--markdown", type=Path, help="write the table into this page")
    parser.add_argument("--plant", action="store_true", help="plant a bug, to see that it is seen")
    parser.add_argument("--list", action="store_true", help="name the cases and run none")
    args = parser.parse_args(argv)
    cases = [c for c in every_case(args.seed) if args.case in c.name]
    cases = [c for c in cases if not args.only or any(c.kind.startswith(kind) for kind in args.only)]
    if args.sample:
        cases = [cases[i * len(cases) // args.sample] for i in range(min(args.sample, len(cases)))]
    if args.list or not cases:
        print("\n".join(f"{case.kind}: {case.name}" for case in cases) or "no such case")
        return 0 if cases else 2
    children.warm()
    if args.plant:
        hooks.plant()
    begun, keep = time.monotonic(), Path(tempfile.mkdtemp(prefix="rung-faults-"))
    results = run(cases, args.jobs, keep)
    seconds = time.monotonic() - begun
    print(f"\n{table(results)}\n\n{len(cases)} cases in {seconds:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    if args.markdown:
        write_into(args.markdown, results, args.seed, seconds)
    bad = any(r.failed for r in results) or len(results) < len(cases)
    if bad:
        print(f"what was left is in {keep}")
    else:
        shutil.rmtree(keep, ignore_errors=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
