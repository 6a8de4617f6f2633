"""The command line. Exit status: 0 done, 1 the run failed, 2 the user's input was refused."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from rung.arguments import flag, literal, parsed, prefixed, refuse_repeated, take
from rung.errors import InputError, unknown
from rung.lab.flags import Eval, Ladder, Variance, Verify, Why
from rung.ranges import Count, Flags, Seed, above, at_least, between, refuse

OPTIONS = ("task_options", "template_options")  # settings with names of their own: --task-options.NAME VALUE


# -- commands: each is a dataclass of its flags and a function -----------------------------------------------------
@dataclass(frozen=True)
class Recipes:
    """The tree of recipes: each rung, its paper, and the problem of its parent that it repairs."""

    json: str | None = None


@dataclass(frozen=True)
class Explain:
    """The assembled equation of a recipe, part by part, with sources."""

    recipe: Positional[str]
    json: str | None = None


@dataclass(frozen=True)
class Diff:
    """What changes between two recipes, and why."""

    a: Positional[str]
    b: Positional[str]
    json: str | None = None


@dataclass(frozen=True)
class Audit(Flags):
    """Is a recipe's gradient the policy gradient, on average over every batch of a small world? If not, which part bends it?"""

    recipes: Positional[tuple[str, ...]] = ()
    """names of recipes; none means all, in about a minute"""
    old_kl: Annotated[float, above(0, "at 0 the batch would be on-policy")] = 0.05
    """off-policy: how far the batch's policy is from the one that learns, in nats an answer"""
    temperature: Annotated[float, between(1e-3, 1e3)] = 2.0
    """wrong temperature: answers are drawn at this one and scored at 1"""
    vocabulary: Annotated[int, at_least(2, "the end token and another")] = 3
    """of the world, the end token included"""
    horizon: Count = 2
    """tokens of an answer at most"""
    prompts: Count = 2
    samples: Annotated[int, at_least(2, "answers to one prompt are compared")] = 2
    reward: Literal["binary", "real", "dense"] = "dense"
    policy: Literal["tabular", "mlp", "transformer"] = "mlp"
    seed: Seed = 0
    markdown: Path | None = None
    """write the tables of docs/audit.md to this file"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Starter(Flags):
    """Make the starter model from a seed, in about a minute."""

    out: Path
    seed: Seed = 0


@dataclass(frozen=True)
class Smollm2:
    """Fetch SmolLM2-135M-Instruct into the user's cache as a Hugging Face checkpoint."""

    out: Path | None = None


def _train(argv: list[str]) -> int:
    from rung.io.environment import keep_freed_memory
    from rung.train.loop import train

    argv, dry = flag(argv, "--dry-run")
    config = _settings(argv, "train", "[--dry-run]", "Train a language model with a recipe of the ladder;")
    if dry:
        return _dry_run(config)
    keep_freed_memory()
    run = train(config)
    return 130 if run.interrupted else 0


def _plan(argv: list[str]) -> int:
    from rung.io.environment import keep_freed_memory
    from rung.io.tables import check_json_target
    from rung.train.plan import run_plan

    argv, json_to = take(argv, "--json")
    argv, answer = take(argv, "--answer-tokens")
    tokens = None if answer is None else literal(answer)
    if answer is not None:
        refuse(tokens, Annotated[float, above(0, "the expected mean length of an answer")], "--answer-tokens")
    check_json_target(json_to)
    text = "Memory and time of a run, estimated before anything is loaded. Takes the flags of `rung train`;"
    config = _settings(argv, "plan", "[--answer-tokens MEAN] [--json FILE|-]", text)
    keep_freed_memory()  # as the run itself will
    return run_plan(config, None if tokens is None else float(tokens), json_to)


def _settings(argv: list[str], command: str, more: str, description: str) -> Any:
    """The TrainConfig that the flags of `rung train` describe."""
    from rung.recipe_io import flatten
    from rung.train.config import TrainConfig, from_toml
    from rung.train.resume import agreed, begun, named

    argv, overrides = prefixed(argv, "--recipe")
    given = {}
    for name in OPTIONS:
        argv, found = prefixed(argv, "--" + name.replace("_", "-"))
        given[name] = {k: literal(v) for k, v in found.items()}
    argv, run = named(argv)
    defaults = vars(begun(run)[0]) if run is not None else {}
    argv, config_file = take(argv, "--config")
    defaults = defaults | ({} if config_file is None else from_toml(Path(config_file)))
    if argv and not argv[0].startswith("-"):
        if any(word.partition("=")[0] == "--recipe" for word in argv):
            raise InputError(f"the recipe is given twice, as {argv[0]!r} and with --recipe. Give it once.")
        defaults["recipe"], argv = argv[0], argv[1:]
    defaults["overrides"] = {**flatten(defaults.get("overrides", {})), **flatten(overrides)}
    for name, options in given.items():
        defaults[name] = {**defaults.get(name, {}), **options}
    usage = "[RECIPE] [--config FILE.toml] [--recipe.FIELD VALUE] [--task-options.NAME VALUE] [--template-options.NAME VALUE]"
    config = parsed(
        TrainConfig,
        prog=f"rung {command} {usage} {more}",
        description=f"{description} `rung recipes` lists them.",
        default=TrainConfig(**defaults),
        args=argv,
    )
    return config if run is None else agreed(config)[0]


def _dry_run(config: Any) -> int:
    """Everything is checked and loaded, nothing is written: the settings as they would run."""
    from rung.io.tables import show
    from rung.io.terminal import say_notes
    from rung.recipe_io import brief
    from rung.train.setup import prepare

    setup = prepare(config)
    say_notes(setup.splits.notes)
    shown = {**vars(setup.config), "device": setup.model.device}
    rows = [(k, str(v)) for k, v in shown.items() if v is not None]
    show("settings", ("setting", "value"), rows)
    parts = [(f.name, brief(getattr(setup.recipe, f.name))) for f in dataclasses.fields(setup.recipe)]
    show("recipe", ("field", "value"), parts)
    return 0


def _verify(args: Verify) -> int:
    from rung.lab.verification import run_verify

    return run_verify(args)


def _eval(args: Eval) -> int:
    from rung.lab.evaluation import run_eval

    return run_eval(args)


def _recipes(args: Recipes) -> int:
    from rung.io.tables import show
    from rung.recipe_io import all_recipes

    known = all_recipes()
    if args.json is not None:
        show(
            "recipes",
            ("name", "parent", "paper", "why"),
            [(r.name, r.parent, r.paper, r.why) for r in known.values()],
            args.json,
        )
        return 0
    from rung.io.ladder import tree

    tree(known)
    return 0


def _explain(args: Explain) -> int:
    from rung.io.ladder import explain
    from rung.recipe_io import find

    return explain(find(args.recipe), args.json)


def _diff(args: Diff) -> int:
    from rung.io.ladder import show_diff
    from rung.recipe_io import find

    return show_diff(find(args.a), find(args.b), args.json)


def _audit(args: Audit) -> int:
    from rung.lab.audit import run_audit
    from rung.lab.world import World

    world = World(args.vocabulary, args.horizon, args.prompts, args.samples, args.reward, args.policy, args.seed)
    return run_audit(
        args.recipes, args.json, markdown=args.markdown, old_kl=args.old_kl, temperature=args.temperature, world=world
    )


def _report(argv: list[str]) -> int:
    from rung.io.report import Report, run_report

    return run_report(parsed(Report, prog="rung report", args=argv))


def _why(args: Why) -> int:
    from rung.lab.why import run_why

    return run_why(args)


def _ladder(args: Ladder) -> int:
    from rung.lab.ladder import run_ladder

    return run_ladder(args)


def _variance(args: Variance) -> int:
    from rung.lab.variance_frozen import run_variance

    return run_variance(args)


def _starter(args: Starter) -> int:
    from rung.starter.make import make

    make(args.out, args.seed)
    return 0


def _smollm2(args: Smollm2) -> int:
    from rung.io import smollm2

    print(smollm2.fetch(args.out))
    return 0


COMMANDS: dict[str, tuple[Any, Callable[[Any], int], str]] = {
    "train": (None, _train, "train a model with a recipe"),
    "plan": (None, _plan, "memory and time of a run, before anything is loaded"),
    "eval": (Eval, _eval, "accuracy of a model or run, with a confidence interval"),
    "verify": (Verify, _verify, "a task's verifier on gold, corrupted and adversarial answers"),
    "recipes": (Recipes, _recipes, "the tree of recipes"),
    "explain": (Explain, _explain, "a recipe's assembled equation, with sources"),
    "diff": (Diff, _diff, "what changes between two recipes, and why"),
    "audit": (Audit, _audit, "is a recipe's gradient the policy gradient, and if not, why"),
    "why": (Why, _why, "the experiment that shows why a recipe was introduced"),
    "ladder": (Ladder, _ladder, "recipes compared: same seeds, weights and token budget, tuned learning rates"),
    "variance": (Variance, _variance, "how noisy each recipe's gradient is on your model and task"),
    "report": (None, _report, "one HTML file on a run, runs side by side, or a ladder"),
    "starter": (Starter, _starter, "make the starter model from a seed"),
    "smollm2": (Smollm2, _smollm2, "fetch SmolLM2-135M-Instruct into the cache"),
}


def _usage() -> str:
    lines = [f"  {name:10}{text}" for name, (_, _, text) in COMMANDS.items()]
    return "usage: rung COMMAND ...\n\n" + "\n".join(lines) + "\n\n`rung COMMAND --help` lists a command's flags."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a refused input is one message on standard error, no traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(_usage())
            return 0
        if words[0] in ("-V", "--version"):
            from importlib.metadata import version

            print(f"rung {version('rung')}")
            return 0
        if words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        refuse_repeated(words[1:])
        spec, run, _ = COMMANDS[words[0]]
        if spec is None:
            return run(words[1:])
        argv, options = words[1:], {}
        for name in OPTIONS:
            if any(f.name == name for f in dataclasses.fields(spec)):
                argv, found = prefixed(argv, "--" + name.replace("_", "-"))
                options[name] = {k: literal(v) for k, v in found.items()}
        return run(dataclasses.replace(parsed(spec, prog=f"rung {words[0]}", args=argv), **options))
    except InputError as error:
        print(f"rung: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
