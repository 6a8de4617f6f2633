"""Curves over seeds: one grid of tokens, the mean, and an interval at each point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rung.io.run_dir import RunDir
from rung.statistics import over_seeds

POINTS = 24


def series(row: dict[str, Any], out: Path, name: str) -> tuple[list[float], list[float]]:
    """(tokens, values) of one run: "accuracy" on held-out problems, or any metric of its metrics.jsonl."""
    if name == "accuracy":
        return row["curve"]["tokens"], row["curve"]["accuracy"]
    metrics = RunDir.open(out / "runs" / row["run"]).metrics()
    points = [(m["num_tokens"], m[name]) for m in metrics if m.get(name) is not None and "num_tokens" in m]
    return [x for x, _ in points], [y for _, y in points]


def curve(label: str, runs: Sequence[tuple[list[float], list[float]]], title: str, ylabel: str) -> dict[str, Any]:
    """Mean over seeds and its 95 % bootstrap interval; where a run logged more often than the grid, cells are averaged."""
    end = min(x[-1] for x, _ in runs)
    start = max(x[0] for x, _ in runs)
    points = min(POINTS, min(len(x) for x, _ in runs))
    grid = np.linspace(start, end, points)
    rows = [resample(np.asarray(x), np.asarray(y), grid) for x, y in runs]
    found = [over_seeds(column) for column in np.array(rows).T.tolist()]
    return {
        "label": label,
        "x": grid.tolist(),
        "mean": [i.mean for i in found],
        "low": [i.mean if math.isnan(i.low) else i.low for i in found],
        "high": [i.mean if math.isnan(i.high) else i.high for i in found],
        "xlabel": "sampled tokens",
        "ylabel": ylabel,
        "title": title,
    }


def resample(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The curve on the grid: the mean of the points nearest to each grid point, a straight line where there is none."""
    nearest = np.abs(x[:, None] - grid[None, :]).argmin(1)
    line: np.ndarray = np.interp(grid, x, y)
    if len(x) <= 2 * len(grid):
        return line
    return np.array([y[nearest == i].mean() if (nearest == i).any() else line[i] for i in range(len(grid))])


def area(x: Sequence[float], y: Sequence[float], end: float) -> float:
    """Mean height of the curve from 0 to `end`, by trapezoids; beyond its last point it stays level."""
    xs, ys = [*x, max(end, x[-1])], [*y, y[-1]]
    grid = np.union1d([v for v in xs if v <= end], [0.0, end])
    return float(np.trapezoid(np.interp(grid, xs, ys), grid) / end)


def reaches(x: Sequence[float], y: Sequence[float], target: float) -> float | None:
    """Where the curve first reaches `target`, on the straight line between two points; None if it never does."""
    if y[0] >= target:
        return float(x[0])
    for i in range(1, len(y)):
        if y[i] >= target:
            share = (target - y[i - 1]) / (y[i] - y[i - 1])
            return float(x[i - 1] + share * (x[i] - x[i - 1]))
    return None
