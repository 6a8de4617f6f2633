"""`python tests/faults/long.py`: 5,000 steps of the starter with a fault every 50, beside the same steps undisturbed.

Killed, told to end, or given a reward that raises, in turn; each time the run goes on, by the printed command where there is one.
Said at the end: whether both runs are the same byte for byte, accuracy, memory (slope with its interval), disk against what was
predicted. Figures go to --json, and with --markdown into a page between two marks.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import run as harness  # first: the environment and the paths of every program here

# isort: split
from children import HERE, Ended, compare, quiet, rung, warm, whole

WORDS = [
    "dr_grpo", "--prompts-per-step", "8", "--samples-per-prompt", "4", "--eval-problems", "500", "--eval-every", "0",
    "--threads", "1", "--save-every", "25", "--keep-last", "2", "--reward", f"{HERE / 'problems.py'}:right",
]  # fmt: skip
FAULTS = ("kill -9", "SIGTERM", "a reward that raises")
BEGIN, END = "<!-- long: begin, written by tests/faults/long.py -->", "<!-- long: end -->"
T_95 = 1.96


def last_row(path: Path) -> dict:
    """The newest whole row of metrics, read from the end of the file."""
    try:
        with (path / "metrics.jsonl").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 20_000, 0))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    return json.loads(lines[-1]) if lines else {}


def reached(path: Path, step: int, pid: int, number: int) -> None:
    """Send the signal once the step is done, or nothing if the program ends before."""
    while last_row(path).get("step", 0) < step:
        time.sleep(0.02)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
    os.kill(pid, number)


def disturb(folder: Path, command: list[str], kind: str, step: int) -> tuple[Ended, list[str]]:
    """One fault after `step`, and the command that goes on."""
    path = folder / "run"
    if kind == "a reward that raises":
        ended = rung(command, folder, partial(os.environ.update, {"FAULT_STEP": str(step)}), patience=1e5)
    else:
        number = signal.SIGKILL if kind == "kill -9" else signal.SIGTERM
        ended = rung(command, folder, during=lambda pid: reached(path, step, pid, number), patience=1e5)
    quiet(ended)
    wanted = {"kill -9": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM, "a reward that raises": 2}[kind]
    assert ended.status == wanted, (kind, ended.status, ended.out[-2000:])
    return ended, ["train", "--resume", "run"] if kind == "kill -9" else ended.go_on()


def used(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def disturbed(folder: Path, steps: int, every: int) -> dict:
    """All faults, and what each cost. disk: the largest use that was seen."""
    command, found, disk = ["train", *WORDS, "--steps", str(steps), "--out", "run"], [], 0
    for n, step in enumerate(range(every, steps, every)):
        kind = FAULTS[n % len(FAULTS)]
        _, command = disturb(folder, command, kind, step)
        newest = max((folder / "run" / "checkpoints").glob("step_*"), default=Path("step_0"))
        found.append(
            {"kind": kind, "at": step, "again": last_row(folder / "run").get("step", 0) - int(newest.name[5:])}
        )
        disk = max(disk, used(folder / "run"))
        print(
            f"{time.strftime('%H:%M:%S')} {kind} after step {step}: {found[-1]['again']} steps to be done again",
            flush=True,
        )
    ended = rung(command, folder, patience=1e5)
    quiet(ended)
    assert ended.status == 0, ended.out[-2000:]
    return {"faults": found, "disk": max(disk, used(folder / "run"))}


def slope(steps: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Of a line through the values, and half of its 95 % interval. From 40 means, since neighbours are alike."""
    n = max(len(steps) // 40, 1)
    x, y = ([statistics.fmean(z[i : i + n]) for i in range(0, len(z) - n + 1, n)] for z in (steps, values))
    line = statistics.linear_regression(x, y)
    rest = [b - line.slope * a - line.intercept for a, b in zip(x, y, strict=True)]
    spread = sum((a - statistics.fmean(x)) ** 2 for a in x)
    return line.slope, T_95 * (sum(r * r for r in rest) / max(len(x) - 2, 1) / spread) ** 0.5


def figures(folder: Path, other: dict, steps: int) -> dict:
    """What both runs came to."""
    run, calm = folder / "run", folder / "calm" / "run"
    lines = [json.loads(line) for line in (calm / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in lines if "step_time" in row]
    later = rows[len(rows) // 5 :]  # what is loaded and cached at first is no leak
    memory = [max(v for k, v in row.items() if k.startswith("memory/")) * 1024 for row in later]
    slopes = slope([row["step"] for row in later], memory)
    (newest,) = (calm / "checkpoints").glob(f"step_{steps:06d}")
    rest = used(calm) - used(calm / "checkpoints")
    accuracy = {}
    for name, path in (("undisturbed", calm), ("disturbed", run)):
        evals = [
            row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if "eval/accuracy" in row
        ]
        accuracy[name] = [evals[-1][f"eval/accuracy{x}"] for x in ("", "_ci_low", "_ci_high")]
        accuracy["before"] = [evals[0][f"eval/accuracy{x}"] for x in ("", "_ci_low", "_ci_high")]
    compare(run, whole(calm))
    return {
        "steps": steps, "faults": other["faults"], "accuracy": accuracy,
        "memory_mib": statistics.fmean(memory), "slope_mib_per_1000_steps": [1000 * x for x in slopes],
        "disk": other["disk"], "disk_predicted": 3 * used(newest) + rest, "rest": rest,
    }  # fmt: skip


def table(found: dict, seconds: float) -> str:
    kinds = {kind: [f["again"] for f in found["faults"] if f["kind"] == kind] for kind in FAULTS}
    slope_, half = found["slope_mib_per_1000_steps"]
    lines = ["| what | measured |", "|---|---|", f"| steps, faults | {found['steps']:,}, {len(found['faults'])} |"]
    for kind, again in kinds.items():
        mean = statistics.fmean(again) if again else 0
        lines.append(
            f"| {kind} | {len(again)} times; steps to be done again: {mean:.1f} on average, {max(again, default=0)} at most |"
        )
    told = {k: f"{v[0]:.3f} (95% CI {v[1]:.3f} to {v[2]:.3f})" for k, v in found["accuracy"].items()}
    lines += [
        "| files at the end | the same byte for byte as of the undisturbed run |",
        f"| held-out accuracy before | {told['before']} |", f"| disturbed | {told['disturbed']} |",
        f"| undisturbed | {told['undisturbed']} |",
        f"| memory of the undisturbed process | {found['memory_mib']:.0f} MiB, {slope_:+.2f} MiB in 1,000 steps (95% CI "
        f"{slope_ - half:+.2f} to {slope_ + half:+.2f}) |",
        f"| disk at most | {found['disk'] / 2**20:.1f} MiB; predicted, with three checkpoints and what an undisturbed run writes: "
        f"{found['disk_predicted'] / 2**20:.1f} MiB |",
        f"| time | {seconds / 60:.0f} minutes for both, on a machine that did other things |",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    warm()
    begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="rung-long-"))
    (folder / "calm").mkdir()
    print(f"in {folder}", flush=True)
    words = ["train", *WORDS, "--steps", str(args.steps), "--out", "run"]
    other = os.fork()
    if other == 0:
        ended = rung(words, folder / "calm", patience=1e5)
        os._exit(0 if ended.status == 0 else 1)
    found = disturbed(folder, args.steps, args.every)
    _, status = os.waitpid(other, 0)
    assert status == 0, "the undisturbed run has failed"
    result, seconds = figures(folder, found, args.steps), time.monotonic() - begun
    print(table(result, seconds))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.markdown:
        text = args.markdown.read_text()
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        args.markdown.write_text(f"{before}{BEGIN}\n\n{table(result, seconds)}\n\n{after}")
    return 0


if __name__ == "__main__":
    assert harness.HERE == HERE
    sys.exit(main())
