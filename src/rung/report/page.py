"""From collected data to one HTML file: no server, no other file, no request to anywhere."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rung import __version__
from rung.report import sections
from rung.report.browser import browser
from rung.report.charts import Charts
from rung.report.experiments import experiment
from rung.report.health import health
from rung.report.markup import Child, Markup, join, script_json, tag
from rung.report.outcome import comparison, outcome

GENERATOR = "rung report"
LABELS = {
    "outcome": "What came out", "compare": "Problem by problem", "health": "Health",
    "curves": "Curves", "recipe": "Recipe", "cost": "Time and memory",
    "answers": "Answers", "settings": "Settings", "metrics": "Definitions",
}  # fmt: skip


def render(data: dict[str, Any], sources: Sequence[str] = ()) -> str:
    """The whole page. `sources`: what it was made from, to know later whether it may be made again in its place."""
    runs, found = data["runs"], data["experiments"]
    charts = Charts()
    parts: list[tuple[str, str, Markup]] = []
    for i, e in enumerate(found):
        parts.append(
            (
                f"experiment{i}",
                str(e.get("title") or e["name"]),
                experiment(e, charts, i, alone=len(found) == 1 and not runs),
            )
        )
    if runs:
        made = {
            "outcome": outcome(runs, charts),
            "compare": comparison(data["comparisons"], runs[0]["kind"]),
            "health": health(runs, data["symptoms"]),
            "curves": sections.figures(runs, charts),
            "recipe": sections.recipe(runs),
            "cost": sections.cost(runs, charts),
            "answers": browser(runs),
            "settings": sections.settings(runs),
            "metrics": sections.meanings(runs),
        }
        order = (
            ("outcome", "compare", "health", "settings", *made) if len(runs) > 1 else made
        )  # what differs comes early
        parts += [(key, LABELS[key], made[key]) for key in dict.fromkeys(order) if made[key]]
    answers = [{k: run["completions"][k] for k in ("prompts", "rows")} | {"name": run["name"]} for run in runs]
    body = [
        tag("a", "Skip to the content", href="#content", class_="skip"),
        _header(runs, found, parts),
        tag("main", [markup for _, _, markup in parts], id="content"),
        _footer(sources),
        _data("charts", charts.data),
        _data("answers-data", answers),
    ]
    return _document(_title(runs, found), body, sources)


def _document(title: str, body: Child, sources: Sequence[str]) -> str:
    home = files("rung.report")
    css, js = (home.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=GENERATOR),
        source_mark(sources),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(css)),
    ]
    page = tag("html", tag("head", head), tag("body", body, tag("script", Markup(js))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def source_mark(sources: Sequence[str]) -> Markup:
    """The element in which a page remembers what it was made from."""
    digest = hashlib.sha256("\n".join(str(Path(s).resolve()) for s in sources).encode()).hexdigest()
    return tag("meta", name="rung-sources", content=digest)


def _data(key: str, value: Any) -> Markup:
    return tag("script", script_json(value), type="application/json", id=key)


def _title(runs: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    names = [str(e.get("title") or e["name"]) for e in found] + [run["name"] for run in runs]
    return " · ".join(names[:3]) + " – rung report"


def _header(
    runs: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], parts: Sequence[tuple[str, str, Markup]]
) -> Markup:
    contents = (
        tag("nav", [tag("a", label, href=f"#{key}") for key, label, _ in parts], aria_label="contents")
        if len(parts) > 1
        else None
    )
    if len(runs) == 1 and not found:
        run = runs[0]
        c, e = run["config"], run["environment"]
        versions = e.get("versions") or {}
        facts = [
            ("model", c.get("model")), ("task", c.get("task")), ("seed", c.get("seed")),
            ("batch", f"{c.get('prompts_per_step')} prompts × {c.get('samples_per_prompt')} answers"),
            ("steps", run["steps"]), ("started", str(e.get("started", ""))[:16].replace("T", " ")),
            ("rung", versions.get("rung")), ("torch", versions.get("torch")),
        ]  # fmt: skip
        title: Child = [tag("em", run["recipe"]["name"]), f" on {c.get('task')}"]
    elif runs and not found:
        title = [f"{len(runs)} runs side by side"]
        facts = []
    else:
        names = [str(e.get("title") or e["name"]) for e in found]
        title = names[0] if len(found) == 1 else f"{len(found)} experiments"
        facts = [("kind", e["kind"]) for e in found[:1]] if len(found) == 1 else []
    items = [tag("div", tag("dt", k), tag("dd", v)) for k, v in facts if v not in (None, "")]
    top = tag("p", "rung report", class_="eyebrow")
    return tag(
        "header",
        top,
        tag("h1", title),
        tag("dl", items, class_="facts") if items else None,
        sections.key_of(runs),
        contents,
    )


def _footer(sources: Sequence[str]) -> Markup:
    made = time.strftime("%Y-%m-%d %H:%M")
    return tag(
        "footer",
        tag("p", f"Made on {made} by rung {__version__} from ", join([[tag("code", s), " "] for s in sources])),
    )
