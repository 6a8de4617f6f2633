"""Held-out problems in pairs: one run before and after, and two runs side by side, with the answers that changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.io.run_dir import RunDir
from rung.report.completions import prompt_text, stored_lines
from rung.statistics import change, problem_means

Problem = dict[str, Any]  # prompt, answer (the first), earned (mean over its answers)
JUDGE = ("task", "task_path", "task_options", "environment", "verifier", "answer_column", "reward")
LAW = ("temperature", "top_p", "top_k", "max_new_tokens", "max_turns")
LISTED = 40  # problems listed in each direction
SAID = 500  # characters shown of an answer


def sheets(run: RunDir) -> list[Path]:
    """The run's evaluations, in order."""
    return sorted((run.path / "evaluations").glob("step_*.jsonl"))


def changes(run: RunDir, binary: bool) -> dict[str, Any] | None:
    """The same held-out problems before and after: by how much they changed, and how many answers were gained and lost."""
    paths = sheets(run)
    if len(paths) < 2:
        return None
    first, last = stored_lines(paths[0]), stored_lines(paths[-1])
    if [a["task"] for a in first] != [a["task"] for a in last]:
        return None
    both = [problem_means((a["task"], earned(a, binary)) for a in rows) for rows in (first, last)]
    known = [(earned(a, binary), earned(b, binary)) for a, b in zip(first, last, strict=True)]
    pairs = [(a > 0, b > 0) for a, b in known if math.isfinite(a + b)]
    return {
        "change": change(both[0], both[1], binary),
        "gained": pairs.count((False, True)),
        "lost": pairs.count((True, False)),
        "right": pairs.count((True, True)),
        "wrong": pairs.count((False, False)),
        "total": len(pairs),
    }


def examples(run: RunDir, binary: bool) -> list[dict[str, Any]]:
    """Three problems before and after: the first that gained, the first that lost, the first that stayed; else the next."""
    paths = sheets(run)
    if len(paths) < 2:
        return []
    both = _both(problems(paths[0], binary), problems(paths[-1], binary))
    firsts = [next((p for p in both if sign(p) == s), None) for s in (1, -1, 0)]
    chosen = [p for p in firsts if p is not None]
    chosen += [p for p in both if p not in chosen][: 3 - len(chosen)]
    return sorted(chosen, key=both.index)


def compare(first: RunDir, second: RunDir, binary: bool) -> dict[str, Any] | None:
    """The second run's last evaluation minus the first's, over the problems in both; None without such problems."""
    paths = [sheets(run)[-1:] for run in (first, second)]
    if not all(paths):
        return None
    a, b = (problems(path[0], binary) for path in paths)
    both = _both(a, b)
    d = change({p["task"]: p["a"]["earned"] for p in both}, {p["task"]: p["b"]["earned"] for p in both}, binary)
    if d is None:
        return None
    signs = [sign(p) for p in both]
    return {
        "change": d,
        "steps": [int(path[0].stem.removeprefix("step_")) for path in paths],
        "apart": len(a) + len(b) - 2 * len(both),
        "counts": {s: signs.count(s) for s in (1, -1, 0)},
        "solved": sum(p["a"]["earned"] == p["b"]["earned"] == 1 for p in both),
        "moved": {s: [p for p in both if sign(p) == s][:LISTED] for s in (1, -1)},
    }


def sign(pair: dict[str, Any]) -> int:
    """1 where b earned more than a, -1 where less."""
    a, b = pair["a"]["earned"], pair["b"]["earned"]
    return int(b > a) - int(b < a)


def problems(path: Path, binary: bool) -> dict[str, Problem]:
    """{task and prompt: the problem} of an evaluation, without what was never scored."""
    rows = stored_lines(path)
    keys = [f"{row['task']}\n{prompt_text(row.get('prompt'))}" for row in rows]
    means = problem_means((key, earned(row, binary)) for key, row in zip(keys, rows, strict=True))
    out: dict[str, Problem] = {}
    for key, row in zip(keys, rows, strict=True):
        if key in means and key not in out:
            prompt = prompt_text(row.get("prompt"))
            out[key] = {"prompt": _ends(prompt), "answer": _ends(str(row.get("answer", ""))), "earned": means[key]}
    return out


def _both(a: dict[str, Problem], b: dict[str, Problem]) -> list[dict[str, Any]]:
    return [{"task": key, "a": a[key], "b": b[key]} for key in a if key in b]


def earned(row: dict[str, Any], binary: bool) -> float:
    """The answer's reward, NaN where it was not scored. A prompt that left no room for one was wrong, if that is a kind."""
    if row["reward"] is None and row["stop"] == "abort" and not row["rewards"] and binary:
        return 0.0
    return math.nan if row["reward"] is None else row["reward"]


def _ends(text: str) -> str:
    """Head and tail: an answer's result stands at its end."""
    return text if len(text) <= SAID else f"{text[: SAID // 2]} […] {text[-SAID // 2 :]}"


def comparisons(runs: Sequence[RunDir], names: Sequence[str], binary: bool) -> list[dict[str, Any]]:
    """Every run against the first. unlike: why two are not compared, empty where they are."""
    return [
        {
            "names": [names[0], name],
            "unlike": (why := unlike(runs[0].config(), run.config())),
            "found": None if why else compare(runs[0], run, binary),
        }
        for run, name in zip(runs[1:], names[1:], strict=True)
    ]


def judge(config: Mapping[str, Any]) -> dict[str, Any]:
    """What says what an answer earns: rewards are of one scale only where all of it is the same."""
    out = {name: config.get(name) for name in JUDGE}
    options = {k: v for k, v in (config.get("task_options") or {}).items() if k != "eval_share"}
    out |= {"task_options": options or None}
    for name, digest in (config.get("files") or {}).items():  # the same file by another path is the same
        if out.get(name) is not None:
            out[name] = (Path(str(out[name]).partition(":")[0]).name, str(out[name]).partition(":")[2], digest)
    return out


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Why the held-out numbers of two runs are not compared, in words; empty: they may be."""

    def said(config: Mapping[str, Any], name: str) -> str:
        return str(config.get(name) or "none")

    first, second = judge(a), judge(b)
    found = [name for name in JUDGE if first[name] != second[name]]
    drawn = [name for name in LAW if a.get(name) != b.get(name)]
    why = "rewards are of different functions" if "reward" in found else "the tasks are different ones"
    if not found and drawn:
        why = "answers were drawn in different ways"
    parts = [
        f"{name} {said(a, name)} and {said(b, name)}"
        if said(a, name) != said(b, name)
        else f"{name}, edited in between"
        for name in found or drawn
    ]
    return f"{why}, not compared ({'; '.join(parts)})" if parts else ""
