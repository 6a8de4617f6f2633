"""The sections of a report on runs after its first: curves, the recipe, time and memory, answers, settings."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rung.io.definitions import as_html, definition, definitions
from rung.report import curves
from rung.report.charts import Charts
from rung.report.equations import inline, mathml
from rung.report.markup import Child, Markup, name_tag, number, section, table, tag
from rung.report.timeline import timeline

Run = dict[str, Any]
PHASES = ("sample", "reward", "logprob", "update", "sync")
UNSAID = {"activation_gib": "the device's"}
OWN = {"out", "resume", "threads", "started", "command"}  # say where and when, not what


def key_of(runs: Sequence[Run]) -> Markup:
    """Which colour is which run."""
    if len(runs) < 2:
        return Markup()
    items = [tag("li", tag("i", class_=f"swatch c{i % 8}"), run["name"]) for i, run in enumerate(runs)]
    return tag("ul", items, class_="key", aria_label="colours of the runs")


# -- curves --------------------------------------------------------------------------------------------------------
def figures(runs: Sequence[Run], charts: Charts) -> Markup:
    how = " Point at a chart, or focus it and use the arrow keys, to read values."
    hint = tag("p", curves.smoothing(max(runs, key=lambda r: r["steps"])), how, class_="hint")
    out: list[Child] = [hint, key_of(runs)]
    for heading, drawn in curves.groups(runs, charts):
        if not drawn:
            continue
        grid = tag("div", drawn, class_="grid")
        if heading == "Everything else":
            out.append(tag("details", tag("summary", f"{heading}: {len(drawn)} more charts"), grid))
        else:
            out += [tag("h3", heading), grid]
    for run in runs:
        if still := curves.constants(run):
            name = f" in {run['name']}" if len(runs) > 1 else ""
            lines = [curves.value_text(name, value) for name, value in still]
            out.append(tag("p", tag("b", f"Never moved{name}: "), lines, class_="constants"))
    return section("curves", "Curves", out)


# -- recipe --------------------------------------------------------------------------------------------------------
def recipe(runs: Sequence[Run]) -> Markup:
    seen: dict[str, Markup] = {}
    for run in runs:
        r = run["recipe"]
        seen.setdefault(str(r), _recipe(r))
    return section("recipe", "Recipe" if len(seen) == 1 else "Recipes", list(seen.values()))


def _recipe(r: dict[str, Any]) -> Markup:
    if "unknown" in r:
        note = tag("p", f"Written by another version of rung: {r['unknown']}", class_="warn")
        return tag(
            "div", tag("h3", r["name"]), note, table(("field", "part"), [(p["field"], p["part"]) for p in r["parts"]])
        )
    parent = r["parent"] or "nothing"
    rows = []
    for p in r["parts"]:
        if p["absent"] and p["field"] not in r["changed"]:
            continue
        changed = r["changed"].get(p["field"])
        new = tag("span", "changed", class_="pill") if changed else None
        mine = tag("span", "set for this run", class_="pill own") if p["field"] in r["overridden"] else None
        was = tag("div", f"{parent}: ", tag("code", _plain(changed)), class_="was") if changed else None
        part = [tag("code", "none" if p["absent"] else p["part"]), new, mine, was]
        rows.append(
            (
                tag("span", inline(p["symbol"]), class_="sym"),
                p["field"],
                part,
                tag("span", inline(p["equation"]), class_="eq"),
            )
        )
    silent = (
        [tag("p", tag("b", "Where the paper is silent, our choice: "), "; ".join(r["silent"]))] if r["silent"] else []
    )
    return tag(
        "div",
        tag("h3", r["name"], " ", tag("small", r["paper"])),
        tag("p", r["why"]),
        tag("div", mathml(r["objective"]), class_="equation"),
        table(("", "field", f"part, and what {parent} has", "equation and source"), rows, "parts"),
        silent,
    )


def _plain(part: str) -> str:
    return "none" if part.startswith("No") or part == "0" else part


# -- time and memory -----------------------------------------------------------------------------------------------
def cost(runs: Sequence[Run], charts: Charts) -> Markup:
    out: list[Child] = []
    for i, run in enumerate(runs):
        t, steps = run["train"], run["train"].get("step_time", [])
        if not steps:
            continue
        total = fmean(v for v in steps if v is not None)
        phases = [(name, t.get(f"time/{name}"), t.get(f"memory/{name}")) for name in PHASES]
        rows = [_phase(name, _mean(s), total, _most(m)) for name, s, m in phases if s and _mean(s) > 0]
        rest = total - sum(_mean(s) for _, s, _ in phases if s)
        rows.append(_phase("rest", max(rest, 0.0), total, None))
        tokens = max((v for v in t.get("num_tokens", []) if v is not None), default=0.0)
        sampled = sum(v for v in t.get("time/sample", []) if v is not None)
        speed = f", {number(tokens / sampled)} a second of sampling" if sampled else ""
        text = f"{number(total)} seconds a step on average; {tokens:,.0f} answer tokens in all{speed}."
        head = ("phase", "seconds a step", "share of the step", "most memory, GiB")
        out.append(tag("div", name_tag(run["name"], i, len(runs)), tag("p", text), table(head, rows, "phases")))
    figures = [
        curves.draw(curves.Plot("Seconds a step", (("step_time", ""),)), runs, charts),
        *(timeline(run, run["name"] if len(runs) > 1 else "") for run in runs),
    ]
    lead = tag("div", tag("div", out), tag("div", figures, class_="pictures"), class_="lead")
    return section("cost", "Time and memory", lead) if out else Markup()


def _phase(name: str, seconds: float, total: float, memory: float | None) -> tuple[Child, ...]:
    share = seconds / total if total else 0.0
    bar = tag("span", tag("i", style=f"width:{100 * share:.1f}%"), class_="meter")
    return (
        name,
        number(seconds),
        tag("span", bar, f" {share:.0%}", class_="share"),
        number(memory, 2) if memory else "–",
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return fmean(known) if known else 0.0


def _most(values: Sequence[float | None] | None) -> float | None:
    return max((v for v in values or () if v is not None), default=None)


# -- settings ------------------------------------------------------------------------------------------------------
def settings(runs: Sequence[Run]) -> Markup:
    """What differs between runs and from the defaults; everything, and where it ran, folded in."""
    columns = [{**_flat(run["config"]), **(_parts(run) if len(runs) > 1 else {}), **_where(run)} for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(column.get(name, "–") for column in columns)) for name in names]
    head = ("setting", *(run["name"] for run in runs))
    different = [row for row in rows if len(set(row[1:])) > 1 and row[0] not in OWN]
    out: list[Child] = []
    if len(runs) > 1:
        said = "What is not the same in all of them:" if different else "All settings are the same."
        out += [tag("p", said), table(head, different) if different else None]
    own = _own_settings(runs[0], {row[0] for row in different})
    there = " and the same in all of them" if len(runs) > 1 else ""
    if own:
        out += [tag("p", f"Other than by default{there}:"), table(("setting", "here", "default"), own)]
    else:
        out.append(tag("p", f"Every {'other ' if different else ''}setting is the default."))
    everything = tag("summary", f"All {len(rows)} settings, versions and hardware")
    return section("settings", "Settings", out, tag("details", everything, table(head, rows)))


def _own_settings(run: Run, but: set[str]) -> list[tuple[str, str, str]]:
    """(setting, here, default) where they differ."""
    here, usual = _flat(run["config"]), _flat(run["usual"])
    out = []
    for name, value in here.items():
        default = usual.get(name, "–")
        if value != default and name not in OWN and name not in but:
            out.append((name, value, UNSAID.get(name, "the task's") if default == "None" else default))
    return out


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in config.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return out


def _parts(run: Run) -> dict[str, str]:
    return {f"recipe.{p['field']}": "none" if p.get("absent") else p["part"] for p in run["recipe"]["parts"]}


def _where(run: Run) -> dict[str, str]:
    e = run["environment"]
    git = e.get("git") or {}
    commit = str(git.get("commit") or "–")[:12] + (" with changes" if git.get("dirty") else "")
    versions = {f"version of {name}": str(v) for name, v in (e.get("versions") or {}).items() if v}
    plain = {k: str(e[k]) for k in ("started", "command", "platform", "cpu", "cores", "memory_gib", "gpu") if e.get(k)}
    return {**versions, "commit": commit, **plain}


# -- definitions ---------------------------------------------------------------------------------------------------
def meanings(runs: Sequence[Run]) -> Markup:
    """The definition of every metric that one of the runs logged."""
    logged = {name for run in runs for part in ("train", "eval") for name in run[part]}
    wanted = {d.name for name in logged if (d := definition(name))}
    rows = [
        (
            tag("code", d.name),
            Markup(as_html(d.formula)),
            d.unit,
            Markup(as_html(d.healthy)),
            Markup(as_html(d.catches)),
        )
        for d in definitions().values()
        if d.name in wanted
    ]
    text = (
        "Healthy ranges are for rewards between 0 and 1 and are where to begin looking, not laws. "
        "Ratios compare the policy now with the one that the batch belongs to."
    )
    intro = tag("p", text)
    body = table(("metric", "definition", "unit", "healthy", "what it catches"), rows)
    return section(
        "metrics", "What the metrics mean", intro, tag("details", tag("summary", f"{len(rows)} definitions"), body)
    )
