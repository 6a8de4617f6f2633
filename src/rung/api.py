"""What Python calls: train, evaluate, load. Names where the command line takes names, or the objects themselves."""

from __future__ import annotations

import inspect
import io
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import InputError, unknown
from rung.run import Loaded, Objects, Run
from rung.settings.calls import takes
from rung.tasks.sources import given

if TYPE_CHECKING:
    from rung.evaluation.models import Measured
    from rung.network.model import Model
    from rung.recipes import Recipe
    from rung.tasks.environments.protocol import Splits
    from rung.training.config import TrainConfig


@takes("rung.train", quiet=bool)
def train(
    recipe: str | Recipe | None = None, *, model: Any = None, tokenizer: Any = None, task: Any = None, reward: Any = None,
    environment: Any = None, callbacks: Sequence[Any] = (), quiet: bool = False, **settings: Any,
) -> Run:  # fmt: skip
    """Train a model with a recipe and return the Run.

    recipe:      a name (`rung recipes`), or a rung.recipes.Recipe; None: dr_grpo.
    model:       starter, smollm2, a directory, a hub id, a run; or a model of transformers with its tokenizer,
                 model=(model, tokenizer), which is trained in place: no copy is made, and it holds the new weights afterwards.
    task:        a task's name, a file of rows; or a list of dicts, a Dataset, a DatasetDict, an Environment, Splits.
    reward:      FILE.py:NAME; or f(prompts, completions, **columns) -> list of numbers, several in a list, or pairs
                 [(f, 1.0), (g, 0.5)]. None: the task judges.
    environment: what the model talks to in several turns (docs/environments.md), by its name or the class itself.
    callbacks:   objects with on_step(step), on_evaluate(evaluation) or on_save(folder); what returns False ends the run.
    quiet:       print nothing.
    resume:      the directory of a run (or a Run) to go on with; all that is not given is as the run has it.
    settings:    every other field of rung.training.config.TrainConfig: steps, learning_rate, samples_per_prompt, seed, out, ...

    Raises:
        rung.InputError: a setting is unknown or does not fit; the message says what to do.
    """
    from rung.cluster.start import engine_of
    from rung.io.console import Console
    from rung.recipes import Recipe
    from rung.training.loop import train as loop

    _refuse_unknown(settings)
    if not isinstance(recipe, str | Recipe | None):
        raise InputError(f"recipe is {recipe!r:.80}; give a recipe's name, such as 'grpo', or a rung.recipes.Recipe.")
    callbacks, pair = _listening(callbacks), _pair(model, tokenizer)
    loaded = model if isinstance(model, Loaded) else pair
    objects = Objects(_object(task), _object(reward), _object(environment), loaded, _object(recipe))
    own = recipe if isinstance(recipe, Recipe) else None
    named = {
        "recipe": own.name if own else recipe, "model": None if model is None else _told_model(model, pair),
        "task": given.told_task(task), "reward": given.told(reward), "environment": given.told_environment(environment),
    }  # fmt: skip
    if pair and "dtype" not in settings:
        settings["dtype"] = _dtype(pair[0])
    config = _config({k: v for k, v in named.items() if v is not None} | settings)
    if config.resume:
        from rung.training.resume import agreed

        config, own, _ = agreed(config, own, objects.given())  # the run's recipe, whose name may stand for none
    splits = _splits(config, own, objects)
    brought = _brought(pair, config) if pair else None
    with engine_of(config) as engine:
        outcome = loop(config, Console(io.StringIO()) if quiet else None, splits, own, brought, callbacks, engine)
    return Run(outcome.path, objects, outcome, quiet=quiet)


@takes("rung.evaluate")
def evaluate(
    model: Any, *, tokenizer: Any = None, compare: Any = None, task: Any = None, reward: Any = None, environment: Any = None,
    **settings: Any,
) -> Measured:  # fmt: skip
    """A model's answers to problems, and what they show: `.accuracy`, `.reward`, `.interval()`, `.row()`, `.answers()`.

    model:    a Run, or what rung.train takes.
    compare:  a second one: the same problems under the same settings; `.other` is its own, `.difference` the paired difference
              (first minus second).
    task, reward, environment: as of rung.train; None: the run's own. A task that is given is judged by the reward that is
              given with it, or else judges itself.
    settings: samples (answers per problem), problems, split ("eval" or "train"), temperature, top_p, top_k, max_new_tokens, seed,
              device, and what else `rung eval` says of the problems. What is not given is as the run evaluated itself.
    """
    from rung.evaluation.models import evaluated
    from rung.settings.flags import Eval

    known = {f.name for f in fields(Eval)} - {"model", "compare", "spec", "out", "json"}
    for name in settings:
        if name not in known:
            raise unknown("setting of rung.evaluate:", name, known | {"task", "reward", "tokenizer", "compare"})
    if model is None:
        raise InputError("model is None. Give a Run, a name or a path, or model=(model, tokenizer).")
    own = model.objects if isinstance(model, Run) and task is None else Objects()
    brought, talks = _object(task), _object(environment)
    objects = Objects(
        own.task if brought is None else brought,
        own.reward if reward is None else reward,
        own.environment if talks is None else talks,
    )
    pair = _pair(model, tokenizer)
    named: dict[str, Any] = {"task": given.told_task(task), "environment": given.told_environment(environment)}
    if compare is not None:
        other = _pair(compare, None)
        named["compare"] = _told_model(compare, other)
        return evaluated(Eval(model=_told_model(model, pair), **named, **settings), objects.given(), pair, other)
    return evaluated(Eval(model=_told_model(model, pair), **named, **settings), objects.given(), pair)


@takes("rung.load", path=str | Path)
def load(path: str | Path) -> Run:
    """A run by its directory."""
    return Run.open(path)


# -- from objects to settings --------------------------------------------------------------------------------------
def _refuse_unknown(settings: dict[str, Any]) -> None:
    known = signature().parameters
    for name in settings:
        if name not in known:
            raise unknown("setting of rung.train:", name, known)


def signature() -> inspect.Signature:
    """rung.train with every setting by its name, type and default."""
    from rung.training.config import TrainConfig

    own = list(inspect.signature(train).parameters.values())[:-1]
    names, keyword = {p.name for p in own}, inspect.Parameter.KEYWORD_ONLY
    for f in fields(TrainConfig):
        if f.name not in names:
            default = {} if f.default is MISSING else f.default  # only dicts are made anew
            own.append(inspect.Parameter(f.name, keyword, default=default, annotation=f.type))
    return inspect.Signature(own, return_annotation=Run)


def _config(settings: dict[str, Any]) -> TrainConfig:
    from rung.training.config import TrainConfig, typed_settings
    from rung.training.resume import going_on

    resume = settings.get("resume", False)
    if resume is False:
        return TrainConfig(**typed_settings(settings))
    rest = typed_settings({k: v for k, v in settings.items() if k not in ("resume", "out")})
    return going_on({**rest, "resume": getattr(resume, "path", resume), "out": settings.get("out")})


def _splits(config: TrainConfig, own: Recipe | None, objects: Objects) -> Splits | None:
    """The problems where Python gave a part of them as an object; None: `config` names them all."""
    if objects.task is None and objects.reward is None and objects.environment is None:
        return None
    from rung.tasks.problems import problems_of

    if own is None:
        config.build_recipe()  # refused before a large data set is read
    return problems_of(config.resolved(own), objects.given())


def _object(value: Any) -> Any:
    """What is no name."""
    return None if isinstance(value, str | Path) else value


def _listening(callbacks: Any) -> Sequence[Any]:
    """One or several listeners as several; what cannot listen is refused before anything is loaded."""
    from rung.training.callbacks import Listeners

    found: Sequence[Any] = (
        () if callbacks is None else callbacks if isinstance(callbacks, list | tuple) else (callbacks,)
    )
    Listeners(found)
    return found


def _pair(model: Any, tokenizer: Any) -> tuple[Any, Any] | None:
    """(model, tokenizer) of transformers; None: a name, a path or a run."""
    if model is None or isinstance(model, str | Path | Run):
        if tokenizer is not None:
            raise InputError(
                "tokenizer goes with a model that is an object; a model by its name brings its own. Leave it out."
            )
        return None
    if isinstance(model, Loaded):
        return model.model, model.tokenizer
    if isinstance(model, tuple | list):
        if len(model) != 2 or tokenizer is not None:
            besides = "" if tokenizer is None else ", and tokenizer is given besides"
            raise InputError(
                f"model is a {type(model).__name__} of {len(model)}{besides}. Give model=(model, tokenizer)."
            )
        model, tokenizer = model
    from rung.network.model import refuse_others

    refuse_others(model, tokenizer)
    return model, tokenizer


def _told_model(model: Any, pair: tuple[Any, Any] | None) -> str:
    """The model as it is written down."""
    if isinstance(model, Loaded):
        return model.name
    return str(getattr(model, "path", model)) if pair is None else given.MADE + type(pair[0]).__name__


def _dtype(hf: Any) -> str:
    """The model's own; what else than float32 and bfloat16 it may be is refused with the settings."""
    return str(getattr(hf, "dtype", "torch.float32")).removeprefix("torch.")


def _brought(pair: tuple[Any, Any], config: TrainConfig) -> Model:
    from rung.kernels.device import choose
    from rung.network.model import bring

    return bring(*pair, choose(config.device))


train.__signature__ = signature()  # type: ignore[attr-defined]  # what help() and an editor show
