"""Measurements as Markdown tables, as bars of each system beside rung, and seconds against length and group size."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cells import Cells

Row = dict[str, Any]
SYSTEMS = ("rung", "TRL", "TRL tuned")


def render(cells: Cells, tables: Iterable[str], plot: Path | None = None, bars: Path | None = None) -> str:
    """Every table that has measurements, in the order asked for."""
    parts = [text for name in tables if (rows := cells.table(name)) for text in RENDER[name](rows)]
    steps = cells.table("step")
    if plot is not None and steps:
        scaling(steps, plot)
    if bars is not None and steps:
        side_by_side(steps, cells.table("generation"), bars)
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


def _times(theirs: list[Row], ours: list[Row]) -> float | None:
    """Their seconds over ours: the median of the ratios within each round."""
    of_round = {row["round"]: row["seconds"] for row in ours}
    ratios = [row["seconds"] / of_round[row["round"]] for row in theirs if row["round"] in of_round]
    return statistics.median(ratios) if ratios else None


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
                answered, longer = P * G * T, _times(mine, list(ours.values()))
                seconds = {k: statistics.median(r["phases"].get(k, 0.0) for r in mine) for k in mine[0]["phases"]}
                shown = ", ".join(f"{k} {v:.2f} ({answered / v:.0f})" for k, v in seconds.items() if v >= 0.005)
                memory = max(r["peak_gb"] for r in mine)
                less = memory / max(r["peak_gb"] for r in ours.values()) if ours else float("nan")
                times = f"{longer:.2f}" if longer else "-"
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
    """Seconds a step against T (at the commonest G) and against G (at the commonest T), a line per system and dtype.

    A color for each system; bfloat16 has hollow points, which tell it apart where there is one of them.
    """
    plt = _pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.4), sharey=True)
    for panel, x, fixed in zip(panels, ("T", "G"), ("G", "T"), strict=True):
        at = statistics.mode(row[fixed] for row in rows)
        kept = [row for row in rows if row[fixed] == at]
        for (system, dtype), mine in _groups(kept, "system", "dtype").items():
            points = sorted((n, _median(cell, "seconds")) for (n,), cell in _groups(mine, x).items())
            full = dtype == "fp32"
            style = {"marker": "o", "linestyle": "-" if full else "--", "markerfacecolor": None if full else "white"}
            color, label = f"C{SYSTEMS.index(system)}", f"{system}, {DTYPES[dtype]}"
            panel.plot(*zip(*points, strict=True), color=color, label=label, **style)
        panel.set(xscale="log", yscale="log")
        panel.set_title(f"prompts: {rows[0]['P']}, {fixed} = {at}", fontsize=11)
        panel.set_xlabel({"T": "tokens of an answer", "G": "answers to a prompt"}[x])
        ticks = sorted({row[x] for row in kept})
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
    panels[0].set_ylabel("seconds a step")
    panels[1].legend(fontsize=9)
    _save(figure, path)


DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SAMPLING = ("sample", "generate")  # the phase of that name, rung's and TRL's
Bar = tuple[str, str, list[float], str]  # whose, its color, its parts, what stands behind it


def side_by_side(steps: list[Row], generated: list[Row], path: Path) -> None:
    """A bar a system for each cell: seconds of sampling and of learning; below, tokens/s of sampling alone."""
    plt = _pyplot()
    parts = [("seconds a step: sampling (dark), learning (light)", _step_bars(steps))]
    if generated:
        parts += [("sampling alone, tokens a second", _generation_bars(generated))]
    lines = [sum(len(bars) + 1 for bars in groups.values()) for _, groups in parts]
    figure, panels = plt.subplots(len(parts), figsize=(6.4, 0.24 * sum(lines) + 0.9 * len(parts)), height_ratios=lines)
    for panel, (what, groups) in zip([panels] if len(parts) == 1 else panels, parts, strict=True):
        _draw(panel, groups)
        panel.set_title(what, fontsize=10, loc="left")
    _save(figure, path)


def _step_bars(rows: list[Row]) -> dict[str, list[Bar]]:
    found: dict[str, list[Bar]] = {}
    for (T, G, P, dtype), cell in sorted(_groups(rows, "T", "G", "P", "dtype").items(), key=lambda x: _order(*x[0])):
        at = found.setdefault(f"{P} x {G} x {T}, {DTYPES[dtype]}", [])
        ours = [row for row in cell if row["system"] == "rung"]
        for index, system in enumerate(SYSTEMS):
            if mine := [row for row in cell if row["system"] == system]:
                whole, memory = _median(mine, "seconds"), max(row["peak_gb"] for row in mine)
                drawn = statistics.median(sum(row["phases"].get(name, 0) for name in SAMPLING) for row in mine)
                longer = _times(mine, ours) if system != "rung" else None
                said = f"{whole:.1f} s{f' ({longer:.2f} times)' if longer else ''}, {memory:.1f} GB"
                at.append((system, f"C{index}", [drawn, whole - drawn], said))
    return found


def _order(T: int, G: int, P: int, dtype: str) -> tuple[int, ...]:
    return T, G, P, list(DTYPES).index(dtype)


def _generation_bars(rows: list[Row]) -> dict[str, list[Bar]]:
    found = {}
    for row in sorted(rows, key=lambda row: _order(row["batch"], 0, 0, row["dtype"])):
        ours, theirs = (row["tokens_per_s"][name] for name in ("rung", "transformers"))
        found[f"batch {row['batch']}, {DTYPES[row['dtype']]}"] = [
            ("rung", "C0", [ours], f"{ours:.0f} ({row['ratio']:.2f} times)"),
            ("transformers", "C4", [theirs], f"{theirs:.0f}"),
        ]
    return found


def _draw(panel: Any, groups: dict[str, list[Bar]]) -> None:
    """A line with the name of the group, then its bars, from the top down."""
    ticks, line = {}, 0
    for name, bars in groups.items():
        panel.text(0, line, name, fontsize=8.5, fontweight="bold", va="center")
        for at, (system, color, parts, label) in enumerate(bars, start=line + 1):
            for count, (part, shade) in enumerate(zip(parts, (1, 0.5), strict=False)):
                panel.barh(at, part, 0.75, sum(parts[:count]), color=color, alpha=shade)
            panel.text(sum(parts), at, f"  {label}", fontsize=8.5, va="center")
            ticks[at] = system
        line += len(bars) + 1
    panel.set_yticks(list(ticks), list(ticks.values()), fontsize=8.5)
    panel.set(ylim=(line - 0.4, -0.6), xlim=(0, 1.55 * panel.dataLim.xmax))
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "rung"  # the same file each time
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
