"""Measurements as Markdown tables, and a plot of seconds against length and group size."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cells import Cells

Row = dict[str, Any]
SYSTEMS = ("rung", "TRL", "TRL tuned")


def render(cells: Cells, tables: Iterable[str], plot: Path | None = None) -> str:
    """Every table that has measurements, in the order asked for."""
    parts = [text for name in tables if (rows := cells.table(name)) for text in RENDER[name](rows)]
    steps = cells.table("step")
    if plot is not None and steps:
        scaling(steps, plot)
    return "\n\n".join(parts)


def markdown(title: str, columns: list[str], rows: list[list[object]]) -> str:
    lines = [f"**{title}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def _groups(rows: list[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[n] for n in names), []).append(row)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def _median(rows: list[Row], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def step(rows: list[Row]) -> list[str]:
    """One table per dtype: medians, and the median of the ratios within each round."""
    out = []
    for (dtype,), of_dtype in _groups(rows, "dtype").items():
        lines: list[list[object]] = []
        for (P, G, T), cell in sorted(_groups(of_dtype, "P", "G", "T").items()):
            ours = {r["round"]: r for r in cell if r["system"] == "rung"}
            for system in SYSTEMS:
                mine = [r for r in cell if r["system"] == system]
                if not mine:
                    continue
                answered, ratios = (
                    P * G * T,
                    [r["seconds"] / ours[r["round"]]["seconds"] for r in mine if r["round"] in ours],
                )
                seconds = {k: statistics.median(r["phases"].get(k, 0.0) for r in mine) for k in mine[0]["phases"]}
                shown = ", ".join(f"{k} {v:.2f} ({answered / v:.0f})" for k, v in seconds.items() if v >= 0.005)
                memory = max(r["peak_rss_gb"] for r in mine)
                less = memory / max(r["peak_rss_gb"] for r in ours.values()) if ours else float("nan")
                times = f"{statistics.median(ratios):.2f}" if ratios else "-"
                whole = _median(mine, "seconds")
                lines.append(
                    [f"{P} x {G} x {T}", system, f"{whole:.2f}", shown, f"{answered / whole:.0f}", f"{memory:.2f}"]
                )
                lines[-1] += [times, f"{less:.2f}", len(mine)]
        columns = ["P x G x T", "system", "seconds a step", "seconds by phase (tokens/s)", "tokens/s", "peak GB"]
        out.append(
            markdown(f"One step, {dtype}", [*columns, "time, times rung's", "memory, times rung's", "runs"], lines)
        )
    return out


def generation(rows: list[Row]) -> list[str]:
    lines: list[list[object]] = []
    for r in sorted(rows, key=lambda r: (r["dtype"], r["batch"])):
        ours, theirs = (f"{r['tokens_per_s'][n]:.0f}" for n in ("rung", "transformers"))
        lines.append([r["dtype"], r["batch"], r["tokens"], ours, theirs, f"{r['ratio']:.2f}"])
    columns = ["dtype", "batch", "new tokens", "rung, tokens/s", "transformers generate, tokens/s", "times as fast"]
    return [markdown("Starter: sampling" if rows[0]["table"] == "tiny" else "Generation", columns, lines)]


def roofline(rows: list[Row]) -> list[str]:
    out = []
    for r in rows:
        lines = [[x["rows"], " x ".join(map(str, x["size"])), x["gflop_s"], x["packed_gflop_s"]] for x in r["rates"]]
        title = f"Matrix products, {r['dtype']}; memory {r['stream_gb_s']} GB/s (read and write)"
        out.append(markdown(title, ["rows", "weight", "torch's default, GFLOP/s", "packed weights, GFLOP/s"], lines))
        names = ("prefill_s", "decode_s", "decode_products_s", "decode_weights_s", "update_s")
        lines = [[f"{r['P']} x {b['cell'].replace('x', ' x ')}", *(b[n] for n in names)] for b in r["bounds"]]
        heads = ["prefill", "decode", "decode: products alone", "decode: reading the weights alone", "update"]
        out.append(markdown(f"Lower bounds, {r['dtype']}, seconds", ["P x G x T", *heads], lines))
    return out


def gradient(rows: list[Row]) -> list[str]:
    lines = [
        [r["dtype"], r["tokens"], *(f"{r[k]:.2e}" if k in r else "-" for k in ("error", "plain_error", "worst_error"))]
        for r in rows
    ]
    columns = ["dtype", "answer tokens", "relative error of the gradient", "the plain way's own", "worst parameter's"]
    return [markdown("Gradient: against plain padded in float32", columns, lines)]


RENDER = {"step": step, "generation": generation, "tiny": generation, "roofline": roofline, "gradient": gradient}


def scaling(rows: list[Row], path: Path) -> None:
    """Seconds a step against T (at the commonest G) and against G (at the commonest T), a line per system and dtype."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for panel, x, fixed in zip(panels, ("T", "G"), ("G", "T"), strict=True):
        at = statistics.mode(row[fixed] for row in rows)
        kept = [row for row in rows if row[fixed] == at]
        for (system, dtype), mine in _groups(kept, "system", "dtype").items():
            points = sorted((n, _median(cell, "seconds")) for (n,), cell in _groups(mine, x).items())
            style = {"marker": "o", "linestyle": "-" if dtype == "fp32" else "--"}
            panel.plot(
                *zip(*points, strict=True), color=f"C{SYSTEMS.index(system)}", label=f"{system}, {dtype}", **style
            )
        panel.set(xscale="log", yscale="log", title=f"prompts: {rows[0]['P']}, {fixed} = {at}")
        panel.set_xlabel({"T": "tokens of an answer", "G": "answers to a prompt"}[x])
        ticks = sorted({row[x] for row in kept})
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
    panels[0].set_ylabel("seconds a step")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
