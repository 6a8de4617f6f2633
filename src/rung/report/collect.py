"""What a report shows, as plain data: runs and experiments are read here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.errors import InputError
from rung.io.held_out import Kind, evaluations, interval, kind, mean, problems
from rung.io.recipe_views import SYMBOLS, objective_text
from rung.io.run_dir import RunDir
from rung.recipe_io import LABELS, all_recipes, brief, diff, equation, from_dict
from rung.recipes import Recipe
from rung.report.completions import collect_completions
from rung.report.pairs import changes, comparisons, examples, judge
from rung.training.config import TrainConfig
from rung.training.health import SYMPTOMS, of_run

EXPERIMENTS = ("ladder.json", "why.json")
COMPLETIONS = 3_400_000  # bytes of answers in a page, for all runs together


def collect(paths: Sequence[Path], completions: int = COMPLETIONS) -> dict[str, Any]:
    """{"runs", "comparisons", "symptoms", "experiments"} of directories: runs, and what `rung ladder` and `rung why` left."""
    if not paths:
        raise InputError("`rung report` needs a run's directory, several of them, or that of a ladder.")
    experiments = [path for path in paths if _experiment_file(path)]
    runs = [RunDir.open(path) for path in paths if not _experiment_file(path)]
    names = _names([run.path for run in runs])
    judges = [judge(run.config()) for run in runs]
    kinds = [
        kind([row for run, by in zip(runs, judges, strict=True) if by == own for row in evaluations(run.metrics())])
        for own in judges
    ]  # one for all runs whose answers earn by the same rule
    return {
        "runs": [
            collect_run(run, name, completions // max(len(runs), 1), own) | {"scale": judges.index(by), "color": i}
            for i, (run, name, own, by) in enumerate(zip(runs, names, kinds, judges, strict=True))
        ],
        "comparisons": comparisons(runs, names, kinds[0] == "accuracy") if len(runs) > 1 else [],
        "symptoms": [{"name": s.name, "sign": s.sign} for s in SYMPTOMS],
        "experiments": [collect_experiment(path) for path in experiments],
    }


def _experiment_file(path: Path) -> Path | None:
    return next((path / name for name in EXPERIMENTS if (path / name).is_file()), None)


def _names(paths: Sequence[Path]) -> list[str]:
    """The directories' names, with their parents' where two are the same."""
    names = [path.resolve().name for path in paths]
    return [
        f"{path.resolve().parent.name}/{name}" if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]


def collect_experiment(path: Path) -> dict[str, Any]:
    """What `rung ladder` or `rung why` wrote; every key is optional, and what is there must have the right shape."""
    file = _experiment_file(path)
    assert file is not None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{file} cannot be read: {error}. Make it again with the command that wrote it.") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no JSON object. Make it again with the command that wrote it.")
    for key in ("rows", "verdicts", "curves", "robustness", "gradient"):
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise InputError(f"{file}: {key!r} is not a list of objects. Make it again with the command that wrote it.")
    return {"kind": file.stem, "path": str(path), "name": path.resolve().name, **data}


# -- one run -------------------------------------------------------------------------------------------------------
def collect_run(run: RunDir, name: str, completions: int, as_kind: Kind) -> dict[str, Any]:
    """Everything about one run that its report shows. as_kind: whether rewards are right or wrong, or have a scale."""
    config, rows = run.config(), run.metrics()
    train = [row for row in rows if "reward" in row or "step_time" in row]
    held_out = [_evaluation(row, as_kind) for row in evaluations(rows)]
    held_out = [row for row in held_out if row["mean"] is not None]
    steps = [int(row["step"]) for row in train]
    planned = config.get("steps")
    return {
        "name": name,
        "kind": as_kind,
        "path": str(run.path),
        "config": {k: v for k, v in config.items() if k not in ("expanded_recipe", "files")},
        "environment": run.environment(),
        "recipe": _recipe(table if isinstance(table := config.get("expanded_recipe"), dict) else {}),
        "train": _columns(train),
        "eval": _columns(held_out),
        "steps": max(steps, default=0),
        "planned": planned,
        "before": held_out[0] if held_out else None,
        "after": held_out[-1] if len(held_out) > 1 else None,
        "health": [
            {"name": f.name, "when": f.when, "seen": f.seen, "cause": f.symptom.cause, "remedy": f.symptom.remedy}
            for f in of_run(config, rows)
        ],
        "changes": changes(run, as_kind == "accuracy"),
        "examples": examples(run, as_kind == "accuracy"),
        "usual": _usual(config),
        "completions": collect_completions(run, completions, as_kind == "accuracy"),
    }


def _evaluation(row: dict[str, Any], as_kind: Kind) -> dict[str, Any]:
    """The row, with what every section calls the same: mean, low, high, problems."""
    low, high = interval(row, as_kind)
    return {**row, "mean": mean(row, as_kind), "low": low, "high": high, "problems": problems(row)}


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """{name: values, one a row, None where a row has none}; the newest row of a step counts."""
    latest = list({row["step"]: row for row in rows}.values())
    names = dict.fromkeys(name for row in latest for name in row if not name.startswith("health/"))
    columns = {name: [_number(row.get(name)) for row in latest] for name in names}
    return {name: values for name, values in columns.items() if any(v is not None for v in values)}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _usual(config: dict[str, Any]) -> dict[str, Any]:
    """What each setting is where nobody sets it, for this model; None: the task's."""
    given = {k: config[k] for k in ("model", "lora_rank", "environment") if k in config}
    usual, plain = vars(TrainConfig(**given).resolved()), TrainConfig()
    counted = {"steps": config.get("steps")} if "tokens" in config else {}  # they follow from the tokens
    return {**usual, **{k: getattr(plain, k) for k in given}, **counted}


def _recipe(stored: dict[str, Any]) -> dict[str, Any]:
    """The parts of the recipe as it ran, and how each differs from the parent's."""
    try:
        recipe = from_dict(stored)
    except (InputError, TypeError) as error:  # written by another version, whose parts are not ours
        parts = [{"field": k, "part": json.dumps(v)} for k, v in stored.items() if k not in LABELS]
        return {"name": stored.get("name", "?"), "unknown": str(error), "parts": parts, "changed": {}}
    known = all_recipes()
    parent, named = known.get(recipe.parent or ""), known.get(recipe.name)
    return {
        "name": recipe.name,
        "parent": recipe.parent,
        "paper": recipe.paper,
        "why": recipe.why,
        "silent": list(recipe.silent),
        "objective": objective_text(recipe),
        "parts": [_part(field, getattr(recipe, field)) for field in SYMBOLS],
        "changed": _difference(parent, recipe),
        "overridden": sorted(diff(named, recipe)) if named else [],
    }


def _part(field: str, value: Any) -> dict[str, Any]:
    plain = isinstance(value, float)
    return {
        "symbol": SYMBOLS[field],
        "field": field,
        "part": brief(value, full=True),
        "equation": "" if plain else equation(value),
        "absent": value == 0.0 if plain else type(value).__name__.startswith("No") or type(value).__name__ == "AsIs",
    }


def _difference(parent: Recipe | None, recipe: Recipe) -> dict[str, str]:
    """{field: the parent's part} where the recipe computes something else."""
    return {} if parent is None else {name: brief(old, full=True) for name, (old, _) in diff(parent, recipe).items()}
