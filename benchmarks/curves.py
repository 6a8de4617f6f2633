"""Held-out accuracy and answer length over a training, seeds as a band, from the runs of learning.py.

    python benchmarks/curves.py runs/smollm2 runs/smollm2-shuffled --out docs/pictures/smollm2.svg

One line for each recipe of each directory (their runs are DIR/RECIPE-SEED): the mean over seeds, and a band from the
lowest to the highest. A directory but the first is named in the legend: "dr_grpo (smollm2-shuffled)". As wide as a
page on a telephone can be read: two panels beside each other, and the legend in the place of a fourth.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Line:
    """A recipe's mean over seeds at each step, and the lowest and the highest of them."""

    label: str
    steps: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def lines(directories: Sequence[Path], metric: str) -> list[Line]:
    """One for each recipe of each directory."""
    found = []
    for directory in directories:
        for recipe, runs in curves(directory, metric).items():
            steps = sorted(set.intersection(*(set(run) for run in runs)))
            values = [[run[step] for run in runs] for step in steps]
            label = recipe if directory == directories[0] else f"{recipe} ({directory.name})"
            means = [sum(x) / len(x) for x in values]
            found.append(Line(label, steps, means, [min(x) for x in values], [max(x) for x in values]))
    return found


def draw(panels: Mapping[str, Sequence[Line]], path: Path) -> None:
    """panels: the lines of each, by its title."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rung"
    import matplotlib.pyplot as plt

    figure, ((first, second), (third, rest)) = plt.subplots(2, 2, figsize=(6.4, 5.6))
    for panel, (title, shown) in zip((first, second, third), panels.items(), strict=True):
        for one in shown:
            (line,) = panel.plot(one.steps, one.mean, label=one.label, linewidth=1.6)
            panel.fill_between(one.steps, one.low, one.high, alpha=0.15, color=line.get_color())
        panel.set(xlabel="training step", ylim=(0, None))
        panel.set_title(title, fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    first.set_ylim(0, 1)
    rest.axis("off")
    rest.legend(*first.get_legend_handles_labels(), fontsize=10, loc="center", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="an .svg or .png file")
    args = parser.parse_args()
    draw({title: lines(args.directories, metric) for metric, title in PANELS}, args.out)


if __name__ == "__main__":
    main()
