"""Going on with a run. Everything is as the run has it; what is given besides may change and is written down, or is refused.

What may change is how long the run goes, what is kept and shown of it, and where it is computed. All else decided what
its steps were: another value would make a run that no settings describe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rung.advice import command
from rung.errors import InputError, setting
from rung.io.origin import edited, placed
from rung.io.run_dir import RunDir
from rung.recipe_io import all_recipes, brief, diff, find, from_dict, override, strangers, to_dict
from rung.recipes import Recipe
from rung.settings.cluster import Cluster
from rung.settings.paths import path_of
from rung.tasks.sources.given import MADE
from rung.training.config import TrainConfig, from_toml, which
from rung.training.next_steps import made as not_stored

FREE = (
    "steps", "tokens", "until", "eval_every", "save_every", "keep_last", "keep_best", "reward_deadline", "save_rollouts", "tracker",
    "threads", "ignore_memory", "activation_gib", "gradient_checkpointing", "cluster", "cluster_options",
)  # fmt: skip
HERE = ("out", "resume", "device")  # of the process and not of the run: never restored
RECIPE = ("recipe", "overrides")


def begun(path: Path) -> tuple[TrainConfig, Recipe]:
    """The settings and the recipe of the run in `path`, as they were run; `resume` is set."""
    run = RunDir.open(path)
    data = run.config()
    settings = {k: v for k, v in placed(from_toml(path / "config.toml"), run).items() if k not in HERE}
    stored = data.get("expanded_recipe")
    if not isinstance(stored, dict) or "name" not in stored:
        raise InputError(
            f"{path / 'config.toml'} has no expanded_recipe, so it is not as a run left it. Start a new run."
        )
    if gone := strangers(stored):
        what = " and ".join(f"its {name} ({part})" for name, part in gone.items())
        raise InputError(
            f"{path} holds a recipe of another process: {what} came from Python, and no file holds the class. Go on where it is: "
            f"rung.train(recipe=..., resume={str(path)!r})."
        )
    try:
        recipe = from_dict(stored)
    except InputError as error:
        raise InputError(f"{path / 'config.toml'}, [expanded_recipe]: {error}") from error
    return TrainConfig(**settings, out=path, resume=True), recipe


def going_on(given: Mapping[str, Any]) -> TrainConfig:
    """The run's settings with what is given in their place. given: `resume` is the run's path, or True and `out` is.

    What may not differ is refused by `agreed`.
    """
    rest = {k: v for k, v in given.items() if k not in ("resume", "out")}
    return replace(begun(which(given["resume"], given.get("out")))[0], **rest)


def agreed(
    config: TrainConfig, own: Recipe | None = None, made: Collection[str] = ()
) -> tuple[TrainConfig, Recipe, list[str]]:
    """The settings with which the run in `config.out` goes on, its recipe, and a sentence for each setting that changes.

    What `config` leaves open (None, dtype auto) is as the run has it. own: a recipe made in Python; made: settings that Python
    gives as objects, which no file holds.

    Raises:
        InputError: settings differ that may not; all of them are named with both values.
    """
    path = which(True, config.out)
    before, recipe = begun(path)
    lost = [n for n in not_stored(before) if n not in made]
    if lost:
        what = " and ".join(f"its {n} ({getattr(before, n).removeprefix(MADE)})" for n in lost)
        again = ", ".join(f"{n}=..." for n in lost)
        raise InputError(
            f"{path} cannot go on by itself: {what} came from Python, and no file holds it. Go on there: "
            f"rung.train(resume={str(path)!r}, {again})."
        )
    left = {f.name: getattr(before, f.name) for f in fields(config) if getattr(config, f.name) is None}
    if config.dtype == "auto":  # what that was where the run began
        left["dtype"] = before.dtype
    now = replace(config, **{k: v for k, v in left.items() if k not in HERE})
    if now.cluster == "local" != before.cluster:  # what was said of several processes is of no account
        now = replace(now, cluster_options={})
    if now.tokens != before.tokens and now.steps == before.steps == replace(before, steps=None).resolved().steps:
        now = replace(now, steps=None).resolved()  # it was a cap that the budget gave, and so is the new one
    names = [f.name for f in fields(config) if f.name not in (*HERE, *RECIPE)]
    changed = [name for name in names if getattr(now, name) != getattr(before, name)]
    wrong = [f"{n} is {getattr(before, n)!r}, not {getattr(now, n)!r}" for n in changed if n not in FREE]
    wrong += _other_staleness(now, before)
    wrong += _other_recipe(now, before, recipe, own)
    if wrong:
        raise InputError(
            f"the run {path} goes on as it was begun: {'; '.join(wrong)}. Leave that out, or start a new run "
            f"with another {setting('out')}. What may change: {', '.join(FREE)}."
        )
    said = [f"{n} is {getattr(now, n)} from here on; it was {getattr(before, n)}" for n in changed]
    said += edited(vars(now), RunDir.open(path).config().get("files", {}))
    if "steps" in changed and now.decay_steps:
        said.append("the learning rate falls towards the new end")
    return now, recipe, said


def _other_staleness(now: TrainConfig, before: TrainConfig) -> list[str]:
    """It decides what answers a step learns from; how many processes there are does not."""
    names = {name: getattr(Cluster(), name) for name in ("staleness", "partial")}
    both = [(n, *(config.cluster_options.get(n, usual) for config in (before, now))) for n, usual in names.items()]
    return [f"cluster.{name} is {then}, not {wanted}" for name, then, wanted in both if then != wanted]


def _other_recipe(now: TrainConfig, before: TrainConfig, recipe: Recipe, own: Recipe | None) -> list[str]:
    if own is None and now.recipe not in (before.recipe, recipe.name) and find(now.recipe).name != recipe.name:
        return [f"recipe is {recipe.name!r}, not {now.recipe!r}"]
    wanted = override(recipe if own is None else own, now.overrides)
    if to_dict(wanted) == to_dict(recipe):  # also where a class of one's own was made anew
        return []
    return [f"recipe.{name} is {brief(a)}, not {brief(b)}" for name, (a, b) in diff(recipe, wanted).items()]


def recipe_of(name: str) -> Recipe:
    """A recipe by its name, or that of the run in this directory, as it was trained."""
    path = path_of(name)
    run = name not in all_recipes() and (path.is_dir() or "/" in name)
    return begun(path)[1] if run else find(name)


def settings_apart(a: str, b: str) -> list[str] | None:
    """The settings in which two runs differ beside their recipe and where they lie; None: one of the two is no run."""
    if not all(name not in all_recipes() and path_of(name).is_dir() for name in (a, b)):
        return None
    one, two = (begun(path_of(name))[0] for name in (a, b))
    names = [f.name for f in fields(one) if f.name not in (*HERE, *RECIPE)]
    return [name for name in names if getattr(one, name) != getattr(two, name)]


def finished(config: TrainConfig) -> str:
    """Said of a run with nothing left to do: its last step is saved and evaluated. Empty: there is."""
    run = RunDir.open(config.out or Path())
    done, steps = run.latest_checkpoint(), config.steps
    if done is None or steps is None or done.name != f"step_{steps:06d}":
        return ""
    if not any(row.get("step") == steps and "eval/reward" in row for row in run.metrics()):
        return ""
    more = command("train", "--resume", run.path, "--steps", 2 * steps)
    return f"{run.path} is already at step {steps} of {steps}, so there is nothing to do. Add steps to go on: {more}"
