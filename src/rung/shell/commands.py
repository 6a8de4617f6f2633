"""Every command: its flags, what it does, and what is imported before it while the terminal says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rung.errors import InputError
from rung.io.waiting import load, waiting
from rung.settings.elsewhere import Export, Import
from rung.settings.experiments import Ladder, Variance, Why
from rung.settings.flags import (
    Ask,
    Audit,
    Completion,
    Data,
    Diff,
    Eval,
    Explain,
    Recipes,
    Report,
    Smollm2,
    Starter,
    Verify,
)
from rung.settings.speedrun import Speedrun
from rung.shell.arguments import flag, settings
from rung.shell.planning import plan
from rung.training.config import TrainConfig


@dataclass(frozen=True)
class Command:
    """flags: the dataclass of its flags.  run: called with one of them, or with the words themselves (`own`).

    module: what `run` needs, imported while the terminal says so.
    """

    flags: Any
    run: Callable[[Any], int]
    module: str
    text: str
    own: bool = False


def _train(argv: list[str]) -> int:
    argv, dry = flag(argv, "--dry-run")
    config = settings(argv, "train")
    if config.resume and not dry and (said := _finished(config)):
        from rung.io.terminal import say  # brings rich

        say(said)
        return 0
    load("rung.training.loop")
    if waiting.shown:
        waiting.say("loading the model and the task")
    if dry:
        return _dry_run(config)
    from rung.cluster.start import engine_of
    from rung.io.environment import keep_freed_memory
    from rung.training.loop import train

    keep_freed_memory()
    with engine_of(config) as engine:
        run = train(config, engine=engine)
    return 130 if run.interrupted else 0


def _finished(config: TrainConfig) -> str:
    """What is said where the run that should go on has done all its steps; empty: there is something to do."""
    from rung.training.resume import finished

    waiting.end()
    return finished(config)


def _dry_run(config: TrainConfig) -> int:
    """Everything is checked and loaded, nothing is written: the settings as they would run."""
    from rung.cluster.start import engine_of
    from rung.io.tables import show
    from rung.io.terminal import say_notes
    from rung.recipe_io import brief
    from rung.training.setup import prepare

    with engine_of(config) as engine:
        setup = prepare(config, engine=engine)
    waiting.end()
    say_notes(setup.splits.notes)
    shown = {**vars(setup.config), "device": setup.model.device}
    rows = [(k, str(v)) for k, v in shown.items() if v is not None]
    show("settings", ("setting", "value"), rows)
    parts = [(f.name, brief(getattr(setup.recipe, f.name))) for f in fields(setup.recipe)]
    show("recipe", ("field", "value"), parts)
    return 0


def _ask(args: Ask) -> int:
    from rung.evaluation.asking import run_ask

    return run_ask(args)


def _data(args: Data) -> int:
    if args.model is not None:
        load("rung.plan.memory")
    from rung.evaluation.rows import run_data

    return run_data(args)


def _verify(args: Verify) -> int:
    from rung.evaluation.verification import run_verify

    return run_verify(args)


def _eval(args: Eval) -> int:
    from rung.evaluation.models import run_eval

    return run_eval(args)


def _recipes(args: Recipes) -> int:
    from rung.io.recipe_views import tree
    from rung.io.tables import show
    from rung.recipe_io import all_recipes

    known = all_recipes()
    if args.json is None:
        tree(known)
        return 0
    rows = [(r.name, r.parent, r.paper, r.why) for r in known.values()]
    show("recipes", ("name", "parent", "paper", "why"), rows, args.json)
    return 0


def _explain(args: Explain) -> int:
    from rung.io.recipe_views import explain
    from rung.recipe_io import override
    from rung.training.resume import recipe_of

    return explain(override(recipe_of(args.recipe), args.overrides), args.json)


def _diff(args: Diff) -> int:
    from rung.io.recipe_views import show_diff
    from rung.recipe_io import override
    from rung.training.resume import recipe_of, settings_apart

    if args.b is None and not args.overrides:
        raise InputError(
            f"`rung diff {args.a}` has nothing to compare it with. Name another recipe or run, or a change: --recipe.FIELD VALUE."
        )
    texts = (args.a, args.a if args.b is None else args.b)
    a, b = map(recipe_of, texts)
    short = [Path(text).name if "/" in text else text for text in texts]
    runs = short if short[0] != short[1] else texts
    first, second = (
        text if "/" in given else recipe.name for given, text, recipe in zip(texts, runs, (a, b), strict=True)
    )
    second += ", changed" if args.overrides else ""
    return show_diff(a, override(b, args.overrides), args.json, (first, second), settings_apart(*texts))


def _export(args: Export) -> int:
    from rung.export.command import run_export

    return run_export(args)


def _import(args: Import) -> int:
    from rung.export.arrive import run_import

    return run_import(args)


def _audit(args: Audit) -> int:
    from rung.exact.audit import run_audit
    from rung.exact.world import World

    world = World(args.vocabulary, args.horizon, args.prompts, args.samples, args.reward, args.policy, args.seed)
    if args.of is not None or args.advantages is not None:
        from rung.exact.peers.registry import is_peer
        from rung.exact.yours.verdict import run_audit_of

        if args.recipes or args.markdown is not None:
            raise InputError(
                "`rung audit --of` and `--advantages` audit functions: they take no recipes and write no --markdown. Drop these."
            )
        if is_peer(args.of):
            return _audit_peer(args)
        return run_audit_of(args.of, args.advantages, args.json, world)
    if args.staleness is not None:
        from rung.exact.staleness import run_staleness

        return run_staleness(args.recipes, args.staleness, args.step_kl, args.json, world, args.partial)
    return run_audit(
        args.recipes, args.json, markdown=args.markdown, old_kl=args.old_kl, temperature=args.temperature, world=world
    )


def _audit_peer(args: Audit) -> int:
    from rung.exact.peers.field import run_audit_peer

    if args.advantages is not None:
        raise InputError(
            f"{args.of} brings its own advantages. Drop --advantages, or audit a function of yours with it."
        )
    return run_audit_peer(args.of or "", args.json)


def _report(args: Report) -> int:
    from rung.report import run_report

    return run_report(args)


def _why(args: Why) -> int:
    from rung.experiments.why import run_why

    return run_why(args)


def _ladder(args: Ladder) -> int:
    from rung.experiments.ladder import run_ladder

    return run_ladder(args)


def _variance(args: Variance) -> int:
    from rung.experiments.variance_frozen import run_variance

    return run_variance(args)


def _speedrun(args: Speedrun) -> int:
    from rung.experiments.speedrun import run_speedrun

    return run_speedrun(args)


def _starter(args: Starter) -> int:
    from rung.models.starter.make import make

    make(args.out, args.seed)
    return 0


def _smollm2(args: Smollm2) -> int:
    from rung.models import smollm2

    print(smollm2.fetch(args.out))
    return 0


def _completion(args: Completion) -> int:
    from rung.recipe_io import all_recipes
    from rung.shell.completion import script

    print(script(args.shell, {name: (c.flags, c.text) for name, c in COMMANDS.items()}, sorted(all_recipes())))
    return 0


COMMANDS: dict[str, Command] = {
    "train": Command(TrainConfig, _train, "", "train a model with a recipe", own=True),
    "ask": Command(Ask, _ask, "rung.evaluation.asking", "talk to what you trained, beside what it was before"),
    "eval": Command(Eval, _eval, "rung.evaluation.models", "accuracy of a model or run, with a confidence interval"),
    "report": Command(Report, _report, "rung.report.collect", "one HTML file on a run, runs side by side, or a ladder"),
    "plan": Command(TrainConfig, plan, "", "memory and time of a run, before anything is loaded", own=True),
    "data": Command(Data, _data, "", "what a file or task becomes: prompts, golds, lengths, what does not fit"),
    "verify": Command(
        Verify, _verify, "rung.evaluation.verification", "a task's verifier on gold, corrupted and adversarial answers"
    ),
    "recipes": Command(Recipes, _recipes, "rung.io.recipe_views", "the tree of recipes"),
    "explain": Command(Explain, _explain, "rung.io.recipe_views", "a recipe's assembled equation, with sources"),
    "diff": Command(Diff, _diff, "rung.io.recipe_views", "what changes between two recipes, and why"),
    "export": Command(
        Export, _export, "rung.export.command", "a recipe inside TRL, verl or SkyRL: settings and module"
    ),
    "import": Command(Import, _import, "rung.export.arrive", "what a configuration of TRL or verl really computes"),
    "audit": Command(Audit, _audit, "rung.exact.audit", "is a recipe's gradient the policy gradient, and if not, why"),
    "why": Command(Why, _why, "rung.experiments.why", "the experiment that shows why a recipe was introduced"),
    "ladder": Command(
        Ladder,
        _ladder,
        "rung.experiments.ladder",
        "recipes compared: same seeds, weights and token budget, tuned learning rates",
    ),
    "variance": Command(
        Variance,
        _variance,
        "rung.experiments.variance_frozen",
        "how noisy each recipe's gradient is on your model and task",
    ),
    "speedrun": Command(Speedrun, _speedrun, "rung.experiments.speedrun", "how soon a model calculates, over seeds"),
    "starter": Command(Starter, _starter, "rung.models.starter.make", "make the starter model from a seed"),
    "smollm2": Command(Smollm2, _smollm2, "", "fetch SmolLM2-135M-Instruct into the cache"),
    "completion": Command(
        Completion, _completion, "rung.recipe_io", "a script that completes commands and flags in your shell"
    ),
}
