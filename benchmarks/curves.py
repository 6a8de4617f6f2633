"""Held-out accuracy and answer length over a training, seeds as a band, from the runs of learning.py.

    python benchmarks/curves.py runs/smollm2 runs/smollm2-shuffled --out docs/pictures/smollm2.svg

One line for each recipe of each directory (their runs are DIR/RECIPE-SEED): the mean over seeds, and a band from the
lowest to the highest. A directory but the first is named in the legend: "dr_grpo (smollm2-shuffled)".
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Curve = dict[int, float]
PANELS = (
    ("eval/accuracy", "held-out accuracy"),
    ("completions/mean_length_wrong", "tokens of a wrong answer"),
    ("entropy", "entropy, nats a token"),
)


def curves(directory: Path, metric: str) -> dict[str, list[Curve]]:
    """Recipe -> one curve {step: value} for each seed."""
    found: dict[str, list[Curve]] = defaultdict(list)
    for run in sorted(directory.glob("*-*")):
        recipe, _, seed = run.name.rpartition("-")
        if seed.isdigit() and (run / "metrics.jsonl").exists():
            rows: list[dict[str, Any]] = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
            found[recipe].append({int(r["step"]): float(r[metric]) for r in rows if r.get(metric) is not None})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="an .svg or .png file")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rung"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 3.6))
    for panel, (metric, title) in zip(panels, PANELS, strict=True):
        for directory in args.directories:
            for recipe, runs in curves(directory, metric).items():
                steps = sorted(set.intersection(*(set(run) for run in runs)))
                values = [[run[step] for run in runs] for step in steps]
                label = recipe if directory == args.directories[0] else f"{recipe} ({directory.name})"
                (line,) = panel.plot(steps, [sum(x) / len(x) for x in values], label=label, linewidth=1.6)
                panel.fill_between(
                    steps, [min(x) for x in values], [max(x) for x in values], alpha=0.15, color=line.get_color()
                )
        panel.set(title=title, xlabel="training step", ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(0, 1)
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
