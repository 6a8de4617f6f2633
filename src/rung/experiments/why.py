"""`rung why RECIPE`: the experiment in which the parent fails, parent against child over seeds, and what it shows.

Every experiment is of one of three kinds: training under a stress, gradient noise at a frozen policy, or exact in small
worlds. Which, and where, is data (`why_experiments.py`). An effect whose interval covers zero is reported as not shown.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rung import __version__
from rung.advice import installed, pip_install
from rung.errors import InputError
from rung.exact.world import World
from rung.experiments.curves import curve, series
from rung.experiments.ladder import SWEEP_SEED, best_size
from rung.experiments.runs import (
    Job,
    Row,
    digest,
    fingerprint,
    parts_of,
    place,
    ready,
    run_all,
    say,
    write_json,
)
from rung.experiments.variance import quality
from rung.experiments.variance_frozen import UNBIASED, Frozen
from rung.experiments.why_exact import mean_gradient
from rung.experiments.why_experiments import EXPERIMENTS, NONE, SWEEPS, Arm, Experiment, Quantity
from rung.io import tables
from rung.io.files import readable
from rung.io.run_dir import RunDir
from rung.io.tables import refuse_target, show
from rung.kernels.device import choose
from rung.network import model as models
from rung.recipe_io import find, override
from rung.recipes import Recipe
from rung.records import SamplingLaw
from rung.settings.experiments import Why
from rung.statistics import Effect, effects, over_seeds
from rung.tasks import registry
from rung.training.config import TrainConfig
from rung.training.setup import locate


def run_why(args: Why) -> int:
    """Run the experiments of one recipe or all, write each one's directory, print the table; exit status 0."""
    refuse_target(args.json)
    choose(args.device)
    draw = installed("matplotlib")
    if not draw:
        say(f"without pictures, since matplotlib is not installed: {pip_install(['matplotlib'])}")
    chosen, rows = named(args.recipe), []
    ready(args.out)
    for experiment in chosen:
        say(f"{experiment.recipe} ({experiment.name}): {experiment.stress}")
        found = examine(experiment, args.out, args.seeds or experiment.seeds, args.jobs, args.device)
        folder = args.out / f"{experiment.recipe}-{experiment.name}"
        write_json(folder / "why.json", found)
        if draw:
            _draw(found, folder / "why.png")
        say(f"  {found['sentence']}")
        rows += found["table"]["rows"]
    if args.json is not None:
        tables.write_json(TABLE, rows, args.json)
    if args.json != "-":
        brief = [[*r[:3], f"{r[3]:.3g} -> {r[4]:.3g}", f"{r[5]:+.3g} [{r[6]:+.3g}, {r[7]:+.3g}]", r[9]] for r in rows]
        show("why each rung was introduced", SHORT, brief)
        sys.stdout.write(
            "Intervals hold 95 % for an experiment's measures together (Holm). Ratios are changes: -0.5 is half.\n"
        )
    return 0


def _draw(found: Row, path: Path) -> None:
    from rung.experiments.why_picture import picture

    picture(found, path)


def named(name: str) -> list[Experiment]:
    """The experiments of a recipe; `all` means every one."""
    if name == "all":
        return list(EXPERIMENTS)
    recipe = find(name).name
    chosen = [e for e in EXPERIMENTS if e.recipe == recipe]
    if recipe in NONE:
        raise InputError(f"there is no experiment for {recipe}. {NONE[recipe]}")
    return chosen


# -- the three kinds -----------------------------------------------------------------------------------------------
def examine(experiment: Experiment, out: Path, seeds: int, workers: int, device: str = "auto") -> Row:
    """All runs of one experiment, or their stored results, and what they show."""
    kinds = {"training": _trained, "gradient": _frozen, "exact": _exact}
    results = kinds[experiment.kind](experiment, out, seeds, workers, device)
    found = conclude(experiment, *results)
    if experiment.kind == "training":
        label = next((m.words for m in experiment.measures if m.name == experiment.series), experiment.series)
        found["curves"] = [
            curve(arm.label, [series(r, out, experiment.series) for r in rows], experiment.stress, label)
            for arm, rows in zip((experiment.parent, experiment.child), results, strict=True)
        ]
    return found


def jobs_of(experiment: Experiment, arm: Arm, seeds: Iterable[int], device: str = "auto", **chosen: Any) -> list[Job]:
    settings = {**experiment.settings, **arm.settings, "device": device, **chosen}
    config = TrainConfig(recipe=arm.recipe, overrides=dict(arm.overrides), save_rollouts=False, **settings)
    return [Job(arm.label, replace(config, seed=seed)) for seed in seeds]


def sweep_of(experiment: Experiment, arm: Arm, device: str = "auto") -> list[Job]:
    """The runs that choose an arm's learning rate, on seeds that the comparison does not use; none where nothing is swept."""
    if recipe_of(arm).update.step_size != "learning_rate":
        return []  # TRPO has no learning rate; its bound is the one that the sweep of `rung ladder` chose
    seeds = range(SWEEP_SEED, SWEEP_SEED + SWEEPS)
    return [job for rate in experiment.rates for job in jobs_of(experiment, arm, seeds, device, learning_rate=rate)]


def _trained(experiment: Experiment, out: Path, seeds: int, workers: int, device: str) -> tuple[list[Row], list[Row]]:
    arms = (experiment.parent, experiment.child)
    sweeps = [sweep_of(experiment, arm, device) for arm in arms]
    found = iter(run_all([job for sweep in sweeps for job in sweep], out, workers))
    chosen: list[dict[str, float]] = []
    for arm, sweep in zip(arms, sweeps, strict=True):
        rows = [next(found) for _ in sweep]
        chosen.append({"learning_rate": best_size(rows)} if rows else {})
        if rows:
            say(f"  {arm.label}: of {', '.join(f'{rate:g}' for rate in experiment.rates)} best {best_size(rows):g}")
    parent, child = (jobs_of(experiment, a, range(seeds), device, **c) for a, c in zip(arms, chosen, strict=True))
    turns = [job for pair in zip(parent, child, strict=True) for job in pair]  # in turns: both see the same machine
    rows = run_all(turns, out, workers)
    return rows[::2], rows[1::2]


def recipe_of(arm: Arm) -> Recipe:
    return replace(override(find(arm.recipe), arm.overrides), name=arm.label)


def _frozen(experiment: Experiment, out: Path, seeds: int, workers: int, device: str) -> tuple[list[Row], list[Row]]:
    """One row per arm and seed: the gradient's trace and cosine over `batches` batches that both arms share."""
    settings = dict(experiment.settings)
    batches, warmup, after = (int(settings.pop(k, 0)) for k in ("batches", "warmup", "after"))
    options, stale = settings.pop("task_options", {}), settings.pop("stale", False)
    directory = Path(_policy(after, out, workers, device))
    arms = [recipe_of(arm) for arm in (experiment.parent, experiment.child)]
    frozen: Frozen | None = None
    pairs: list[list[Row]] = []
    for seed in range(seeds):
        code = fingerprint([[parts_of(a) for a in arms], experiment.settings, seed, digest(directory), __version__])
        path = out / "gradients" / f"{code}.json"
        if not path.is_file():
            if frozen is None:
                splits = registry.load("chained_arithmetic", options=options)
                law, chip = SamplingLaw(max_new_tokens=splits.max_new_tokens), choose(device)
                older = models.load(locate("starter"), device=chip) if stale else None
                frozen = Frozen(models.load(str(directory), device=chip), splits.train, law, **settings, older=older)
            found = frozen.gradients([*arms, find(UNBIASED)], batches, warmup, seed)
            rows = [_gradient_row(found, arm, seed) for arm in arms]
            write_json(path, rows)
            name = experiment.measures[0].name
            say(f"  {seed + 1}/{seeds}  {name} {rows[0][name]:.3g}, {rows[1][name]:.3g}")
        with readable(path):
            pairs.append(json.loads(path.read_bytes()))
    return [p for p, _ in pairs], [c for _, c in pairs]


def _exact(experiment: Experiment, out: Path, seeds: int, workers: int, device: str) -> tuple[list[Row], list[Row]]:
    """One row per arm and world, on the CPU. Nothing is stored: all worlds together take seconds."""
    worlds = [World(**experiment.settings, seed=seed) for seed in range(seeds)]
    parent, child = (
        [{"recipe": arm.recipe, "label": arm.label, "seed": w.seed, **mean_gradient(recipe_of(arm), w)} for w in worlds]
        for arm in (experiment.parent, experiment.child)
    )
    return parent, child


def _gradient_row(found: dict[str, Any], arm: Recipe, seed: int) -> Row:
    q = quality(found[arm.name], found[UNBIASED])
    row = {"recipe": arm.name, "label": arm.name, "seed": seed, "trace": q.trace.mean, "snr": q.snr.mean}
    return {**row, "cosine": q.cosine.mean, "direction": q.direction}


def _policy(tokens: int, out: Path, workers: int, device: str) -> str:
    """The starter, or what leave_one_out makes of it with so many tokens."""
    if tokens == 0:
        return locate("starter")
    config = TrainConfig(recipe="leave_one_out", tokens=tokens, save_rollouts=False, device=device)
    job = Job("leave_one_out, to be frozen", config)
    run_all([job], out, workers)
    return str(RunDir.open(place(job, out)).model_path())


# -- the conclusion ------------------------------------------------------------------------------------------------
TABLE = ("recipe", "parent", "measure", "with the parent", "with the recipe", "effect", "low", "high", "p", "verdict")
SHORT = ("recipe", "parent", "measure", "parent -> recipe", "effect [interval]", "verdict")


def conclude(experiment: Experiment, parent: Sequence[Row], child: Sequence[Row]) -> Row:
    """The contract of why.json: title, sentence, rows, table, verdicts, and the command that made it."""
    measures = experiment.measures
    found = effects([_differences(m, parent, child) for m in measures])
    verdicts, table = [], []
    for m, effect in zip(measures, found, strict=True):
        means = [over_seeds([row[m.name] for row in rows]).mean for rows in (parent, child)]
        sentence = sentence_of(experiment, m, effect, means)
        low, mid, high = (_outward(m, x) for x in (effect.low, effect.effect, effect.high))
        shown = effect.shown and (effect.effect > 0) == (m.better == "higher")
        verdicts.append(
            {
                "recipe": experiment.child.label, "parent": experiment.parent.label, "measure": m.words, "unit": m.unit,
                "effect": mid, "low": low, "high": high, "p": effect.p, "shown": shown, "sentence": sentence,
            }
        )  # fmt: skip
        verdict = "shown" if shown else "WORSE" if effect.shown else "not shown"
        table.append(
            [experiment.child.label, experiment.parent.label, m.words, *means, mid, low, high, effect.p, verdict]
        )
    return {
        "kind": "why",
        "title": f"why {experiment.child.label} after {experiment.parent.label}",
        "stress": experiment.stress,
        "measure": measures[0].name,
        "sentence": headline(experiment, verdicts, tuned_to(experiment, parent, child)),
        "rows": [*parent, *child],
        "table": {"columns": list(TABLE), "rows": table},
        "verdicts": verdicts,
        "command": f"rung why {experiment.recipe} --seeds {len(parent)}",
    }


def _differences(measure: Quantity, parent: Sequence[Row], child: Sequence[Row]) -> list[float]:
    """child - parent, seed by seed; for a ratio the difference of logarithms."""
    pairs = [(p[measure.name], c[measure.name]) for p, c in zip(parent, child, strict=True)]
    if any(x is None or not math.isfinite(x) or (measure.unit == "ratio" and x <= 0) for pair in pairs for x in pair):
        raise InputError(
            f"{measure.words} could not be measured in every run (nothing to average, or no gradient at all): the setting is "
            "too small. Use more tokens or batches."
        )
    if measure.unit == "ratio":
        return [math.log(c / p) for p, c in pairs]
    return [c - p for p, c in pairs]


def _outward(measure: Quantity, x: float) -> float:
    """A ratio as a relative change: 0 is no effect, -0.5 is half."""
    return math.expm1(x) if measure.unit == "ratio" else x


def sentence_of(experiment: Experiment, measure: Quantity, effect: Effect, means: Sequence[float]) -> str:
    """What was measured, with numbers, and what the interval allows to say."""

    def number(x: float) -> str:
        return f"{100 * _outward(measure, x):+.0f} %" if measure.unit == "ratio" else f"{x:+.3g}"

    said = (
        f"{measure.words}: {means[0]:.3g} with {experiment.parent.label}, {means[1]:.3g} with {experiment.child.label} "
        f"({number(effect.effect)}, interval {number(effect.low)} to {number(effect.high)}, {effect.n} seeds)"
    )
    return said if effect.shown else f"{said}: no difference shown"


def tuned_to(experiment: Experiment, parent: Sequence[Row], child: Sequence[Row]) -> str:
    """Which learning rates the arms were compared at, where they were swept."""
    arms = ((experiment.parent, parent), (experiment.child, child))
    chosen = [f"{arm.label} {rows[0]['lr']:g}" for arm, rows in arms if sweep_of(experiment, arm)]
    return f", at the best of {len(experiment.rates)} learning rates ({', '.join(chosen)})" if chosen else ""


def headline(experiment: Experiment, verdicts: Sequence[Row], tuned: str = "") -> str:
    """The claim and whether the first measure shows it, and the numbers."""
    first = verdicts[0]
    zero = first["low"] <= 0 <= first["high"]
    words = "Shown" if first["shown"] else "Not shown" if zero else "Worse, against the claim"
    said = "; ".join(v["sentence"] for v in verdicts)
    return f"{words}: {experiment.claim}. With {experiment.stress}{tuned}, {said}."
