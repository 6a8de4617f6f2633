"""The one picture of `rung why`: the curves of parent and child, and the measure of every seed side by side."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rung.io.files import replace_kept

COLORS = ("#c44e52", "#4c72b0")  # parent, child; told apart in print and by color-blind readers


def picture(found: dict[str, Any], path: Path) -> None:
    """Writes `path` (PNG). Left the curves over tokens, if there are any; right each seed's parent and child, and the means."""
    curves = found.get("curves", [])
    figure = Figure(figsize=(9 if curves else 5, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2 if curves else 1, squeeze=False, width_ratios=(3, 2) if curves else None)[0]
    if curves:
        _curves(axes[0], curves)
    _pairs(axes[-1], found)
    figure.suptitle(textwrap.fill(f"{found['title']}: {found['stress']}", 100 if curves else 56), fontsize=10)
    with matplotlib.rc_context({"svg.hashsalt": "rung"}):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", metadata={"Software": None})
    replace_kept(path, drawn.getvalue())


def _curves(axes: Axes, curves: list[dict[str, Any]]) -> None:
    for c, color in zip(curves, COLORS, strict=False):
        axes.plot(c["x"], c["mean"], color=color, label=c["label"])
        axes.fill_between(c["x"], c["low"], c["high"], color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel(curves[0]["xlabel"])
    axes.set_ylabel(curves[0]["ylabel"])
    axes.legend(frameon=False, fontsize=8)


def _pairs(axes: Axes, found: dict[str, Any]) -> None:
    first, row = found["verdicts"][0], found["table"]["rows"][0]
    half = len(found["rows"]) // 2
    name = found["measure"]
    parent, child = ([r[name] for r in part] for part in (found["rows"][:half], found["rows"][half:]))
    for pair in zip(parent, child, strict=True):
        axes.plot((0, 1), pair, color="0.7", linewidth=1, zorder=1)
    means = [sum(values) / len(values) for values in (parent, child)]
    axes.plot((0, 1), means, color="black", linewidth=2, zorder=3)
    for x, values, color in ((0, parent, COLORS[0]), (1, child, COLORS[1])):
        axes.scatter([x] * len(values), values, color=color, zorder=2, s=18)
    axes.set_xticks((0, 1), [textwrap.fill(str(label), 16) for label in (row[1], row[0])], fontsize=8)
    axes.set_xlim(-0.4, 1.4)
    axes.set_ylabel(textwrap.fill(first["measure"], 40))
    change = f"{100 * first['effect']:+.0f} %" if first["unit"] == "ratio" else f"{first['effect']:+.3g}"
    axes.set_title(f"{change}, {'shown' if first['shown'] else 'not shown'}", fontsize=9)
    if first["unit"] == "ratio":
        axes.set_ylim(bottom=0)  # a share can be read off only from zero
