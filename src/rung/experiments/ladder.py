"""`rung ladder`: recipes side by side, from the same weights, with the same seeds and the same budget of sampled tokens.

First the step size of every recipe is swept (its learning rate, or the KL bound of an update that has none), on seeds of their
own; then each is run at its best one on the seeds of the comparison. Both kinds of run are stored by their configuration: a
ladder that was killed goes on where it was.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rung.advice import command
from rung.errors import InputError
from rung.experiments.curves import curve, reaches, series
from rung.experiments.runs import Job, Row, fingerprint, key, measured_as, parts_of, ready, run_all, say, write_json
from rung.experiments.variance_frozen import OPTIMAL, Frozen, chosen, qualities
from rung.io import tables
from rung.io.files import readable
from rung.io.tables import refuse_target, say_verdict, show
from rung.io.terminal import figure, say_notes
from rung.kernels.device import choose
from rung.recipe_io import brief, diff, find
from rung.recipe_rules import refuse_sampling
from rung.recipes import Recipe
from rung.records import SamplingLaw
from rung.settings.experiments import Ladder
from rung.settings.shared import Problems, Weights, as_typed, given, settings_of
from rung.statistics import effects, over_seeds
from rung.tasks.environments.protocol import Splits
from rung.tasks.problems import problems_of
from rung.training.config import TrainConfig
from rung.training.defaults import refuse_aim, shortened_for
from rung.training.setup import load_weights, locate
from rung.training.setup import ready as prepare_weights

SWEEP_SEED = 1_000  # the sweep's seeds begin here, far from those of the comparison


def grid_of(args: Ladder, recipe: Recipe) -> list[float]:
    """The step sizes of the recipe's sweep, the smallest first."""
    rated = recipe.update.step_size.endswith("learning_rate")
    name, text = ("rates", args.rates) if rated else ("bounds", args.bounds)
    try:
        sizes = sorted({float(word) for word in text.split(",") if word.strip()})
    except ValueError:
        sizes = []
    if not sizes or not all(math.isfinite(x) and x > 0 for x in sizes):
        raise InputError(f"--{name} {text!r} are no step sizes. Write numbers above 0, as in 1e-4,3e-4,1e-3.")
    return sizes


def job_of(args: Ladder, recipe: str, size: float, seed: int) -> Job:
    """One run with a step of this size, in whatever setting the recipe's update rule takes it."""
    setting = find(recipe).update.step_size
    chosen: dict[str, Any] = {setting: size} if setting == "learning_rate" else {"overrides": {setting: size}}
    config = TrainConfig(
        recipe=recipe, **chosen, **settings_of(args, Problems), **settings_of(args, Weights), seed=seed, model=args.model,
        tokens=args.tokens, prompts_per_step=args.prompts_per_step, samples_per_prompt=args.samples_per_prompt,
        max_new_tokens=args.max_new_tokens, eval_problems=args.eval_problems, eval_every=args.eval_every,
        save_rollouts=False, device=args.device,
    )  # fmt: skip
    return Job(recipe, config)


def run_ladder(args: Ladder) -> int:
    """Sweep, compare, write ladder.json, print the table; exit status 0."""
    refuse_target(args.json)
    recipes = chosen(args.recipes)
    _refuse(args, recipes)
    names, grids = [r.name for r in recipes], {r.name: grid_of(args, r) for r in recipes}
    ready(args.out)
    sweep_jobs = [
        job_of(args, name, size, SWEEP_SEED + s)
        for s in range(args.sweep_seeds) for name in names for size in grids[name]
    ]  # fmt: skip
    say(f"sweep: {len(sweep_jobs)} runs of {args.tokens} tokens; then {len(names) * args.seeds} runs to compare")
    sweep = run_all(sweep_jobs, args.out, args.jobs)
    best = tuned(sweep, names)
    say("best step sizes: " + ", ".join(f"{name} {size:g}" for name, size in best.items()))
    compared = run_all([job_of(args, n, best[n], s) for s in range(args.seeds) for n in names], args.out, args.jobs)
    found = conclude(args, recipes, sweep, compared)
    write_json(args.out / "ladder.json", found)
    if args.json is not None:
        tables.write_json(found["table"]["columns"], found["table"]["rows"], args.json)
    if args.json != "-":
        lines = [dict(zip(COLUMNS, row, strict=True)) for row in found["table"]["rows"]]
        brief_rows = [
            [f"{figure(x['accuracy'])} [{figure(x['low'])}, {figure(x['high'])}]" if c == "accuracy" else
             x["tokens to target" if c == "to target" else c] for c in SHORT]
            for x in lines
        ]  # fmt: skip
        say_verdict(f"{highest(lines, found['measure'])} {found['sentence']}")
        show(found["title"], [found["measure"] if c == "accuracy" else c for c in SHORT], brief_rows)
        sys.stdout.write("".join(f"{v['sentence']}\n" for v in found["verdicts"]))
        sys.stdout.write(f"next: {command('report', args.out)}\n")
    return 0


def highest(lines: Sequence[Row], measure: str) -> str:
    """Which recipe ends highest; several, where they end equal."""
    top = max(line["accuracy"] for line in lines)
    best = [line for line in lines if line["accuracy"] == top]
    names = ", ".join(line["recipe"] for line in best)
    interval = f"{figure(best[0]['low'])} to {figure(best[0]['high'])}"
    return f"{names} {'ends' if len(best) == 1 else 'end'} highest, at {measure} {figure(top)} ({interval})."


def _refuse(args: Ladder, recipes: Sequence[Recipe]) -> None:
    """Everything that can be refused is refused before the first run."""
    choose(args.device)
    step = args.prompts_per_step * args.samples_per_prompt
    splits = _splits(args)
    say_notes(splits.notes)
    refuse_aim("target", args.target, splits)
    limit = _limit(args)
    if args.tokens < step * limit:
        raise InputError(
            f"--tokens {args.tokens}: a single step of {args.prompts_per_step} x {args.samples_per_prompt} answers may take "
            f"{step * limit} tokens ({limit} each), so runs could not be compared. Give a larger budget or smaller steps."
        )
    for recipe in recipes:
        refuse_sampling(
            recipe, samples_per_prompt=args.samples_per_prompt, rows=step, temperature=1.0, is_full=True, max_new_tokens=limit,
        )  # fmt: skip


def _splits(args: Ladder) -> Splits:
    splits = problems_of(job_of(args, "reinforce", 1.0, 0).config.resolved())
    return splits if args.max_new_tokens else shortened_for(splits, locate(args.model))


def _limit(args: Ladder) -> int:
    return args.max_new_tokens or int(_splits(args).max_new_tokens)


# -- the sweep -----------------------------------------------------------------------------------------------------
def tuned(sweep: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """Of every recipe the best step size, over the sweep's seeds."""
    return {name: best_size([row for row in sweep if row["recipe"] == name]) for name in names}


def best_size(sweep: Sequence[Row]) -> float:
    """The step size of one recipe's highest mean final accuracy; of equal ones the larger area's."""
    sizes: dict[float, list[Row]] = {}
    for row in sweep:
        sizes.setdefault(row["step_size"], []).append(row)
    scores = {
        size: (fmean(r["accuracy"] for r in rows), fmean(r["area"] for r in rows)) for size, rows in sizes.items()
    }
    return max(scores, key=scores.__getitem__)


def collapsed(row: Row) -> bool:
    """A run that ended below where it started."""
    return bool(row["accuracy"] < row["accuracy_start"])


def robustness(name: str, sweep: Sequence[Row]) -> Row:
    """Final accuracy at each step size of the sweep: mean and range over its seeds (two are no interval)."""
    rows = [row for row in sweep if row["recipe"] == name]
    sizes = sorted({row["step_size"] for row in rows})
    at = [[row["accuracy"] for row in rows if row["step_size"] == size] for size in sizes]
    return {
        "recipe": name, "step_size": sizes, "accuracy": [fmean(a) for a in at],
        "low": [min(a) for a in at], "high": [max(a) for a in at],
        "collapse": fmean(collapsed(row) for row in rows),
    }  # fmt: skip


# -- the conclusion ------------------------------------------------------------------------------------------------
COLUMNS = (
    "recipe", "parent", "what changed", "step size", "accuracy", "low", "high", "area", "tokens to target", "seconds", "s/step",
    "state MB", "peak MB", "KL", "collapse",
)  # fmt: skip
SHORT = ("recipe", "step size", "accuracy", "area", "to target", "s/step", "state MB", "KL", "collapse")


def conclude(args: Ladder, recipes: Sequence[Recipe], sweep: Sequence[Row], compared: Sequence[Row]) -> Row:
    """The contract of ladder.json: rows, table, verdicts, curves, robustness, gradient, and the command that made it."""
    by = {r.name: [row for row in compared if row["recipe"] == r.name] for r in recipes}
    known = {r.name: r for r in recipes}
    robust = [robustness(r.name, sweep) for r in recipes]
    table = [_line(args, r, _below(r, known), by[r.name], x["collapse"]) for r, x in zip(recipes, robust, strict=True)]
    measure = measured_as([*sweep, *compared])
    verdicts = judge(recipes, by, measure)
    shown = [v for v in verdicts if v["shown"]]
    sentence = (
        f"Of {len(verdicts)} steps, {len(shown)} change the final {measure} by an amount that {args.seeds} seeds show, each at "
        f"its own best step size: {', '.join(v['recipe'] for v in shown) or 'none'}."
    )
    curves = [
        curve(r.name, [series(row, args.out, "accuracy") for row in by[r.name]], "learning", f"held-out {measure}")
        for r in recipes
    ]
    return {
        "kind": "ladder",
        "measure": measure,
        "title": f"the ladder: {args.model}, {args.tokens} sampled tokens, {args.seeds} seeds",
        "sentence": sentence,
        "rows": [{**row, "changed": _changed(known[row["recipe"]], known), "sweep": False} for row in compared]
        + [{**row, "sweep": True} for row in sweep],
        "table": {"columns": [measure if c == "accuracy" else c for c in COLUMNS], "rows": table},
        "verdicts": verdicts,
        "curves": curves,
        "robustness": robust,
        "gradient": gradient(args, recipes, compared) if args.gradient_batches else [],
        "command": f"rung ladder --recipes {','.join(by)} --seeds {args.seeds} --tokens {args.tokens} "
        f"--rates {args.rates} --bounds {args.bounds} --sweep-seeds {args.sweep_seeds} --model {args.model}"
        + as_typed({**given(args, Problems), **given(args, Weights)}),
    }


def _below(recipe: Recipe, known: Mapping[str, Recipe]) -> Recipe | None:
    """The nearest ancestor that takes part."""
    while recipe.parent is not None:
        if recipe.parent in known:
            return known[recipe.parent]
        recipe = find(recipe.parent)
    return None


def _changed(recipe: Recipe, known: Mapping[str, Recipe]) -> str:
    below = _below(recipe, known)
    if below is None:
        return ""
    return ", ".join(f"{name}={brief(after)}" for name, (_, after) in diff(below, recipe).items())


def _line(args: Ladder, recipe: Recipe, below: Recipe | None, rows: Sequence[Row], collapse: float) -> list[Any]:
    """One recipe's line of the table: means over seeds, and the interval of its accuracy."""
    accuracy = over_seeds([row["accuracy"] for row in rows])
    to_target = [reaches(row["curve"]["tokens"], row["curve"]["accuracy"], args.target) for row in rows]
    reached = [t for t in to_target if t is not None]
    peaks = [row["peak_mb"] for row in rows if row["peak_mb"] is not None]

    def mean(name: str) -> float:
        return fmean(row[name] for row in rows)

    return [
        recipe.name, below.name if below else None, _changed(recipe, {below.name: below} if below else {}) or None,
        rows[0]["step_size"], accuracy.mean, accuracy.low, accuracy.high, mean("area"),
        round(fmean(reached)) if len(reached) == len(rows) else None,  # a mean over those that made it would flatter
        mean("seconds"), mean("seconds_per_step"), mean("state_mb"), max(peaks) if peaks else None, mean("kl"), collapse,
    ]  # fmt: skip


def judge(recipes: Sequence[Recipe], by: Mapping[str, Sequence[Row]], measure: str = "accuracy") -> list[Row]:
    """Every rung against the nearest rung below it that takes part, on what they reach, corrected for their number."""
    known = {r.name: r for r in recipes}
    pairs = [(r, below) for r in recipes if (below := _below(r, known)) is not None]
    found = effects(
        [[c["accuracy"] - p["accuracy"] for p, c in zip(by[below.name], by[r.name], strict=True)] for r, below in pairs]
    )
    out = []
    for (r, below), e in zip(pairs, found, strict=True):
        said = f"{r.name} against {below.name}: {e.effect:+.3f} {measure} ({e.low:+.3f} to {e.high:+.3f}, {e.n} seeds)"
        out.append(
            {
                "recipe": r.name, "parent": below.name, "measure": f"held-out {measure}", "unit": "difference",
                "effect": e.effect, "low": e.low, "high": e.high, "p": e.p, "shown": e.shown,
                "sentence": said if e.shown else f"{said}: no difference shown",
            }
        )  # fmt: skip
    return out


def gradient(args: Ladder, recipes: Sequence[Recipe], compared: Sequence[Row]) -> list[Row]:
    """The quality of each recipe's gradient at the start, stored like the runs."""
    rates = sorted({row["lr"] for row in compared})
    middle = rates[len(rates) // 2]
    setting = key(job_of(args, "reinforce", middle, 0).config)  # model, task, batch, and the critics' learning rate
    code = fingerprint([[parts_of(r) for r in recipes], setting, args.gradient_batches])
    path = args.out / "gradients" / f"{code}.json"
    if path.is_file():
        with readable(path):
            return list(json.loads(path.read_bytes()))
    splits = _splits(args)
    law = SamplingLaw(max_new_tokens=_limit(args))
    model = load_weights(locate(args.model), args, args.device)
    prepare_weights(model, args, args)
    frozen = Frozen(model, splits.train, law, args.prompts_per_step, args.samples_per_prompt, middle)
    found, _ = qualities(frozen.gradients(recipes, args.gradient_batches, 20, SWEEP_SEED))
    rows = [
        {
            "recipe": name, "trace": q.trace.mean, "low": q.trace.low, "high": q.trace.high,
            "snr": q.snr.mean, "snr_low": q.snr.low, "snr_high": q.snr.high,
            "cosine": q.cosine.mean, "direction": None if math.isnan(q.direction) else q.direction,
        }
        for name, q in found.items() if name != OPTIMAL
    ]  # fmt: skip
    write_json(path, rows)
    return rows
